"""What a TPU chip can do, for predictions.

Sources: docs.cloud.google.com/tpu/docs/v5e, v5p and v6e (read in November 2026) for FLOP/s, memory bandwidth and
the data-centre network, of which a chip has its share of the pod's (v5e: 6.4 Tb/s over 256 chips). A link's rate is
nine tenths of those pages', as "How to Scale Your Model" (https://jax-ml.github.io/scaling-book, chapter 2) takes it;
the way to the host (PCIe) is that chapter's.
``usable`` is what the compiler lets a program have, as it says itself when one does not fit.
"""

from dataclasses import dataclass

GB = 1e9
GIB = 2.0**30


@dataclass(frozen=True)
class Chip:
    """One JAX device of a TPU generation. Rates are a second's, one way."""

    name: str
    """As in a topology: "v5e"."""
    flops: float
    """Dense bfloat16 FLOP/s."""
    usable: float
    """Bytes of HBM that a program may use."""
    bandwidth: float
    """Bytes/s of HBM."""
    link: float
    """Bytes/s of one link to a neighbour, one way."""
    network: float
    """Bytes/s of the data-centre network, a chip's share, one way."""
    host: float
    """Bytes/s to the host's memory, or from there."""


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 15.75 * GIB, 819 * GB, 45 * GB, 3.125 * GB, 15 * GB),
        Chip("v5p", 459e12, 95.73 * GIB, 2765 * GB, 90 * GB, 6.25 * GB, 15 * GB),
        Chip("v6e", 918e12, 31.24 * GIB, 1640 * GB, 90 * GB, 12.5 * GB, 32 * GB),
    )
}
