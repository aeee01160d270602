"""Scaled dot-product attention, the one place where every transformer of the cascade mixes its tokens.

``softmax(q k^T / sqrt(d) + mask) v`` (Vaswani et al., https://arxiv.org/abs/1706.03762, equation 1); the softmax is in
float32 whatever the compute dtype. Who computes it follows from where the program will run, the devices of the mesh in
force (``jax.set_mesh``), or JAX's default without one: on a TPU the Pallas kernel of splash attention, on a GPU cuDNN's
fused one for half precision, elsewhere ``plain``, which is what the others are tested against. The first two never hold
the weights [b, k, q, s]. On one NVIDIA H200, bfloat16, cuDNN's forward and gradient took 1 / 1.4 and 1 / 1.2 of the
plain one's time for 141 tokens (batch 64, 16 heads of 128), 1 / 2.9 and 1 / 3.0 for 1101 (batch 32, 16 heads of 64).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from t2i_jax.models.remat import MIXED
from t2i_jax.types import BATCH_AXES, MODEL_AXIS

Heads = Float[Array, "b q k d"]
Others = Float[Array, "b s k d"]
Visible = Bool[Array, "b s"]

LANES = 128
"""Width of a TPU's vector registers: the kernel takes places, and blocks of queries, in multiples of it."""
SUBLANES = 16
"""Rows of a bfloat16 tile."""
LARGEST_BLOCK = 512
HALF = (jnp.bfloat16, jnp.float16)
CUDNN = range(8, 129, 8)
"""Widths of a head that cuDNN takes on every GPU."""


def attention(q: Heads, k: Others, v: Others, *, causal: bool = False, visible: Visible | None = None) -> Heads:
    """Every query's weighted mean of the values.

    ``causal``: a query looks at the places up to its own. ``visible`` is True at the places that any query may look at.
    What a query gets that may look at nothing is not defined.
    """
    where = platform()
    if where == "tpu":
        return splash(q, k, v, causal, visible)
    if where in ("gpu", "cuda") and q.dtype in HALF and q.shape[-1] in CUDNN:
        return checkpoint_name(cudnn(q, k, v, causal, visible), MIXED)
    return checkpoint_name(plain(q, k, v, causal, visible), MIXED)


def platform() -> str:
    """Where the program that is being traced will run: "cpu", "gpu" or "tpu"."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def plain(q: Heads, k: Others, v: Others, causal: bool, visible: Visible | None) -> Heads:
    """``attention`` as it is written down."""
    logits = jnp.einsum("bqkd,bskd->bkqs", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    mask = _mask(q.shape[1], k.shape[1], causal, visible)
    if mask is not None:
        logits = jnp.where(mask, logits, -1e30)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkqs,bskd->bqkd", weights, v)


def cudnn(q: Heads, k: Others, v: Others, causal: bool, visible: Visible | None) -> Heads:
    """``attention`` by cuDNN, whose gradient takes even lengths only: an odd one gets a place that nobody looks at."""
    length = q.shape[1]
    even, places = length + length % 2, k.shape[1] + k.shape[1] % 2
    if visible is None and places > k.shape[1]:
        visible = jnp.ones((len(k), k.shape[1]), bool)
    if visible is not None:
        visible = jnp.pad(visible, ((0, 0), (0, places - k.shape[1])))
    mask = None if visible is None else _every_row(visible, even)
    out = jax.nn.dot_product_attention(
        _pad(q, even), _pad(k, places), _pad(v, places), mask=mask, is_causal=causal, implementation="cudnn"
    )
    return out[:, :length]


def splash(q: Heads, k: Others, v: Others, causal: bool, visible: Visible | None, interpret: bool = False) -> Heads:
    """``attention`` by Pallas' splash kernel, on each device for its share of batch and heads.

    The compiler cannot split a kernel of ours, so the split is said here. ``interpret`` runs it on any machine, slowly.
    """
    alone = partial(_splash, causal=causal, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return alone(q, k, v, visible)
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    batch = BATCH_AXES if q.shape[0] % ways == 0 else None
    heads = MODEL_AXIS if q.shape[2] % mesh.shape[MODEL_AXIS] == 0 else None
    split = PartitionSpec(batch, None, heads)
    seen = None if visible is None else PartitionSpec(batch)
    return jax.shard_map(alone, in_specs=(split, split, split, seen), out_specs=split, check_vma=False)(
        q, k, v, visible
    )


def _splash(q: Heads, k: Others, v: Others, visible: Visible | None, *, causal: bool, interpret: bool) -> Heads:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    b, length, heads, d = q.shape
    places = k.shape[1]
    # Queries are padded to few more where one block holds them and the mask is a part of the kernel, the same for all
    # examples: from 257 to 272, where blocks of LANES would be 384.
    one = visible is None and length <= LARGEST_BLOCK
    padded = _up(length, SUBLANES if one else LANES), _up(places, LANES)
    if visible is None and places < padded[1]:
        seen = np.broadcast_to(np.arange(padded[1]) < places, padded)
        mask = kernels.NumpyMask(np.tril(seen) if causal else seen)
    else:
        mask = (kernels.CausalMask if causal else kernels.FullMask)(padded)
    rows, columns = padded[0] if one else _block(padded[0]), _block(padded[1])
    # One kernel for all gradients, with five products; two kernels take seven, and read everything twice.
    sizes = kernels.BlockSizes(
        block_q=rows, block_kv=columns, block_q_dkv=rows, block_kv_dkv=columns, use_fused_bwd_kernel=True
    )
    kernel = kernels.make_splash_mha(
        kernels.MultiHeadMask([mask] * heads),
        block_sizes=sizes, head_shards=1, q_seq_shards=1, residual_checkpoint_name=MIXED, interpret=interpret,
    )  # fmt: skip
    q, k, v = (_pad(x, n).swapaxes(1, 2) for x, n in zip((q * d**-0.5, k, v), (padded[0], padded[1], padded[1])))
    if visible is None:
        out = jax.vmap(kernel)(q, k, v)
    else:
        segments = kernels.SegmentIds(
            q=jnp.ones((b, padded[0]), jnp.int32),
            kv=jnp.pad(visible, ((0, 0), (0, padded[1] - visible.shape[1]))).astype(jnp.int32),
        )
        out = jax.vmap(kernel)(q, k, v, segments)
    return out.swapaxes(1, 2)[:, :length]


def _mask(rows: int, columns: int, causal: bool, visible: Visible | None) -> Bool[Array, "#b 1 #q s"] | None:
    mask = None if visible is None else visible[:, None, None, :]
    if causal:
        before = jnp.asarray(np.tril(np.ones((rows, columns), bool)))[None, None]
        mask = before if mask is None else mask & before
    return mask


def _every_row(visible: Visible, rows: int) -> Bool[Array, "b 1 q s"]:
    """Written out for every query: cuDNN takes no mask with one row for all."""
    return jnp.broadcast_to(visible[:, None, None, :], (len(visible), 1, rows, visible.shape[1]))


def _block(length: int) -> int:
    """The largest multiple of LANES, up to LARGEST_BLOCK, that divides ``length``."""
    return max(n for n in range(LANES, LARGEST_BLOCK + 1, LANES) if length % n == 0)


def _up(length: int, unit: int) -> int:
    return -(-length // unit) * unit


def _pad(x: Array, length: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, 0)))


def check_heads(where: str, width: int, heads: int) -> None:
    """Raises ValueError where the width does not split into heads."""
    if heads < 1 or width % heads:
        raise ValueError(
            f"{where}: width={width} does not split into heads={heads}; choose heads among the divisors of width"
        )
