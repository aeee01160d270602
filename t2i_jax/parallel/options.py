"""What the compiler is told beside the program: options for TPUs, none elsewhere.

    jax.jit(step, compiler_options=compiler_options(mesh))

The training and ``t2i plan`` build the same ``Program``, so both get the same options.
"""

from jax.sharding import Mesh

TPU = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
"""From this size on, in MiB, a product whose operand is gathered becomes a ring of permutes and partial products; no
operand is so large. By default a step of the 3.6-billion decoder had 2,700 permutes, which no count of products sees.
Gathered whole, in half precision, the kernels arrive behind the products before them.
"""


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Options for programs on the mesh's devices."""
    return dict(TPU) if mesh.devices.flat[0].platform == "tpu" else {}
