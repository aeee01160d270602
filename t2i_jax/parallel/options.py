"""What the compiler is told beside the program: options for TPUs, none elsewhere.

    jax.jit(step, compiler_options=compiler_options(mesh))

The training and ``t2i plan`` build the same ``Program``, so both get the same options.
"""

from jax.sharding import Mesh

TPU = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
"""From this size on, in MiB, a product whose operand is gathered turns into a ring of permutes and partial products;
no operand is so large. By default, on 16 v5e, a step of 3.6 billion parameters had 2,700 permutes in 60 such rings, and
each layer's kernel crossed the links in float32 pieces; gathered whole, in half precision, it takes half the bytes, and
the scheduler hides it behind the layer before."""


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Options for programs on the mesh's devices."""
    return dict(TPU) if mesh.devices.flat[0].platform == "tpu" else {}
