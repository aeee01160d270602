import jax
import pytest

from t2i_jax.parallel.mesh import Mesh, check_batch


def test_minus_one_takes_the_rest_of_the_devices():
    assert Mesh(data=-1, model=2).sizes(8) == (1, 4, 2)
    assert dict(Mesh(replica=2, data=2, model=-1).build().shape) == {"replica": 2, "data": 2, "model": 2}


def test_axes_are_auto():
    assert all(kind == jax.sharding.AxisType.Auto for kind in Mesh().build().axis_types)


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        (Mesh(model=3), "mesh.model=3 does not divide 8"),
        (Mesh(data=2, model=2), "the product is wrong"),
        (Mesh(data=-1, model=-1), "only one axis"),
        (Mesh(model=0), "mesh.model=0"),
    ],
)
def test_a_mesh_that_does_not_fit_names_the_axis(mesh, words):
    with pytest.raises(ValueError, match=words):
        mesh.sizes(8)


def test_a_batch_that_does_not_divide_gets_the_nearest_ones_that_do():
    mesh = Mesh(data=8).build()
    check_batch(64, 4, mesh)
    with pytest.raises(ValueError, match="data.batch=60.* = 8. Set data.batch to 56 or 64"):
        check_batch(60, 1, mesh)
    with pytest.raises(ValueError, match="4 accumulated = 32. Set data.batch to 32,"):
        check_batch(16, 4, mesh)
