"""What the compiler is told beside the program: options for TPUs, none elsewhere.

    jax.jit(step, compiler_options=compiler_options(mesh, overlap=True))

The training and ``t2i plan`` build the same ``Program``, so both get the same options; the plan's compiler takes what
``PLANNING`` says in place of the same ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.sharding import Mesh

TPU = {
    # From this size on, in MiB, a product whose operand is gathered becomes a ring of permutes and partial products; no
    # operand is so large. By default a step of the 3.6-billion decoder had 2,700 permutes, which no count of products
    # sees. Gathered whole, in half precision, the kernels arrive behind the products before them.
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    # For every product the compiler searches how to cut it into blocks, until one reaches so much of what it takes for
    # the best. With the default, 1, the decoder's step on v5e:16x16 took 151 s to compile, and now 111; the compiler's
    # own estimate of its cycles rises by 0.002 %, of CLIP's by 0.2 % (at 0.98: 94 s with all of a plan, 0.6 and 2.3 %).
    "xla_jf_convolution_performance_target": "0.99",
}
V5E = TPU | {
    # Gradients are scattered behind the products that come after. By default every chip waits for them. Compiling takes
    # two and a half times as long. For other chips the compiler refuses it.
    "xla_enable_async_reduce_scatter_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter": "true",
    # One by one, but for small ones: in groups of 24 MiB, as by default, nothing hides the VAE's.
    "xla_tpu_ars_combiner_threshold_in_bytes": str(2**20),
    # Room for them beside a product's blocks, in KiB of the chip's vector memory. The default, 16 MiB, is too little.
    "xla_tpu_scoped_vmem_limit_kib": "32768",
}
V5E_OVERLAP = {
    # Messages go behind elementwise work too, not behind products alone.
    "xla_tpu_enable_async_collective_fusion_fuse_kloop_fusions": "true",
    # By the scheduler's own estimate elementwise work is too short for a message to begin beside it. Taken for thirty
    # times as long, nearly all do. Much more begins the last ones too, but most beside too little: at 1000 the decoder
    # waits for 93 ms a step in place of 82.
    "xla_lhs_loop_fusion_latency_multiplier": "30",
    # Sums over replicas are hidden too, one by one but for small ones: those that the compiler puts together wait. With
    # none put together it fails on the VAE.
    "xla_enable_async_all_reduce": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": "true",
    "xla_jf_crs_combiner_threshold_in_bytes": str(2**20),
}
"""What begins the messages that are left beside other work. As played on v5e:16x16, those of more than 1 MiB that still
begin beside none take 2 of the 225 ms of a step of the decoder (without this 36 of 219), 1 of CLIP's 1437 (25 of 1459),
none of the prior's 263 (28 of 270). The compiler takes longer, and fails on some programs."""

SPARSE = TPU | {
    # v5p and v6e have sparse cores, which carry messages while the others compute. By default every gather and scatter
    # is waited for (and a scatter of v6e is a whole sum, of which most is dropped): 51 of the 134 ms of a step of the
    # 1.2-billion prior on v6e:16x16, as planned.
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": "true",
    "xla_tpu_enable_sparse_core_collective_offload_all_reduce": "true",
}
PLANNING = {
    # How products are cut into blocks is searched last, once operations, messages and memory are settled: a plan reads
    # the same, but for its code (the VAE's 0.25 GiB less), and the decoder's takes 54 s in place of 118.
    "xla_jf_convolution_performance_target": "0.5",
}
_OPTIONS = {"TPU v5 lite": V5E, "TPU v5": SPARSE, "TPU v5p": SPARSE, "TPU v6 lite": SPARSE}


def compiler_options(mesh: Mesh, overlap: bool = False) -> dict[str, str]:
    """Options for programs on the mesh's devices. ``overlap``: all messages beside other work that the compiler can."""
    device = mesh.devices.flat[0]
    if device.platform != "tpu":
        return {}
    more = V5E_OVERLAP if overlap and device.device_kind == "TPU v5 lite" else {}
    return _OPTIONS.get(device.device_kind, TPU) | more


class CompilerFails(ValueError):
    """The compiler itself fails on a program that is right."""


@contextmanager
def failures_named(overlap: bool = False) -> Iterator[None]:
    """Raises CompilerFails, with what to do, where the compiler fails within; ``overlap``: that asked much of it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("INTERNAL"):
            raise
        said = f"the compiler fails: {str(error).splitlines()[0]}"
        remedy = ". It does on some programs of which it shall hide all messages: leave that out (--no-overlap)."
        raise CompilerFails(said + remedy if overlap else said) from error
