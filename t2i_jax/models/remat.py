"""What the backward pass finds and what it computes again (rematerialisation).

A layer's values have names; ``Remat(keep=(...))`` says which of them stay in memory from the forward to the backward
pass, or, with ``offload``, wait in the host's memory. The rest is computed again, layer by layer (Chen et al.,
https://arxiv.org/abs/1604.06174).

    Remat()                        # everything stays: fastest, most memory
    Remat(keep=())                 # only what enters each layer stays: a third more computation, least memory
    Remat(keep=(QKV, MIXED))       # the attention's products stay, the MLP is computed again
    Remat(keep=NAMES)              # every product stays; norms and activations are computed again
"""

from dataclasses import dataclass

import flax.linen as nn
import jax

ALL = "all"
QKV = "qkv"
"""Queries, keys and values, before their norms."""
MIXED = "mixed"
"""What attention gives."""
INNER = "inner"
"""The MLP's inner layer, before the activation; of two convolutions the first one's outcome."""
OUTER = "outer"
"""What attention and MLP, or two convolutions, add to the stream, where the backward pass needs it."""
NAMES = (QKV, MIXED, INNER, OUTER)


@dataclass(frozen=True)
class Remat:
    """Which values of each layer are kept for the backward pass."""

    keep: tuple[str, ...] = (ALL,)
    """Names among "qkv", "mixed", "inner" and "outer"; "all" keeps everything, none what enters each layer alone."""
    offload: bool = False
    """Keep the named values in the host's memory instead of the device's."""

    def __post_init__(self):
        unknown = [name for name in self.keep if name not in (ALL, *NAMES)]
        if unknown:
            raise ValueError(f"remat.keep={unknown[0]!r} is no value of a layer; there are: {', '.join((ALL, *NAMES))}")
        if self.offload and (ALL in self.keep or not self.keep):
            raise ValueError(f"remat.offload needs remat.keep to name what goes to the host: {', '.join(NAMES)}")

    def __call__(self, module: type[nn.Module], scanned: bool = True) -> type[nn.Module]:
        """``module`` with this policy; ``scanned``: as the body of a scan."""
        if ALL in self.keep:
            return module
        return nn.remat(module, prevent_cse=not scanned, policy=self._policy())

    def _policy(self):
        policies = jax.checkpoint_policies
        if self.offload:
            return policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[], names_which_can_be_offloaded=list(self.keep),
                offload_src="device", offload_dst="pinned_host",
            )  # fmt: skip
        return policies.save_only_these_names(*self.keep) if self.keep else policies.nothing_saveable
