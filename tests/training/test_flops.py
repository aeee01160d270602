from functools import partial

import jax
import jax.numpy as jnp
import pytest

from t2i_jax.training.flops import chip_peak, count_flops, peak_flops


def test_a_matrix_product_is_two_for_each_multiply_add():
    assert count_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))) == 720


def test_a_convolution_counts_channels_and_the_places_of_its_window_that_lie_in_the_picture():
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    inside = 4 * 3 - 1  # along a side of 8 places the last window reaches over the end
    assert count_flops(conv, jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))) == 2 * inside**2 * 3 * 5 * 2


@pytest.mark.parametrize("groups, inner, batch", [({"feature_group_count": 2}, 2, 6), ({"batch_group_count": 2}, 4, 3)])
def test_a_channel_of_a_convolution_in_groups_reads_its_own_group(groups, inner, batch):
    conv = partial(jax.lax.conv_general_dilated, window_strides=(1,), padding="VALID", **groups)
    assert count_flops(conv, jnp.ones((6, 4, 8)), jnp.ones((10, inner, 3))) == 2 * (6 * 3) * inner * 10 * batch


def test_what_nothing_reads_is_not_counted():
    def back(x, w):
        _, transposed = jax.vjp(lambda x: x @ w, x)  # traces the product, and reads what comes back alone
        return transposed(x @ w.T)[0]

    square = jnp.ones((16, 16))
    assert count_flops(back, square, square) == 2 * 2 * 16**3
    assert count_flops(jax.jit(back), square, square) == 2 * 2 * 16**3


def test_a_scan_counts_its_length_and_a_gradient_three_times_its_forward():
    weights = jnp.ones((7, 16, 16))
    loss = lambda w, x: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0].sum()
    forward = count_flops(loss, weights, jnp.ones((4, 16)))
    assert forward == 7 * 2 * 4 * 16 * 16
    assert count_flops(jax.jit(jax.value_and_grad(loss, (0, 1))), weights, jnp.ones((4, 16))) == 3 * forward


def test_remat_is_counted_because_it_is_done():
    loss = jax.checkpoint(lambda w, x: (jnp.sin(x @ w) @ w).sum())
    plain = 2 * 2 * 4 * 16 * 16
    assert count_flops(jax.value_and_grad(loss), jnp.ones((16, 16)), jnp.ones((4, 16))) == 3 * plain  # else 2.5


def test_the_peak_of_a_cpu_is_measured_and_of_an_unknown_chip_not_invented():
    assert peak_flops() > 1e9
    assert chip_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert chip_peak("TPU v5 lite") == 197e12
    assert chip_peak("Somebody's") is None
