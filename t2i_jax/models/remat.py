"""What the backward pass finds and what it computes again (rematerialisation).

A layer's values have names; ``Remat(keep=(...))`` says which of them stay in memory from the forward to the backward
pass, and ``offload`` which wait in the host's memory. The rest is computed again, layer by layer (Chen et al.,
https://arxiv.org/abs/1604.06174).

    Remat()                        # everything stays: fastest, most memory
    Remat(keep=())                 # only what enters each layer stays: a third more computation, least memory
    Remat(keep=(QKV, MIXED))       # the attention's products stay, the MLP is computed again
    Remat(keep=NAMES)              # every product stays; norms and activations are computed again
    Remat((OUTER,), (INNER,))      # the MLP's inner layer waits in the host's memory
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    offload: tuple[str, ...] = ()
    """Names of what is kept in the host's memory instead of the device's; its way there and back takes time."""

    def __post_init__(self):
        for name in self.keep:
            if name not in (ALL, *NAMES):
                raise ValueError(f"remat.keep={name!r} is no value of a layer; there are: {', '.join((ALL, *NAMES))}")
        for name in self.offload:
            if name not in NAMES:
                raise ValueError(f"remat.offload={name!r} is no value of a layer; there are: {', '.join(NAMES)}")
            if name in self.keep or ALL in self.keep:
                raise ValueError(
                    f"remat.offload={name!r}: remat.keep={self.keep} keeps it on the device already. What goes to the "
                    f"host is named by offload alone, and keep names the others among {', '.join(NAMES)}"
                )

    @staticmethod
    def upgraded(written: dict[str, Any]) -> dict[str, Any]:
        """The fields that a config file of an earlier version gives: there ``offload`` sent all that was kept."""
        if not isinstance(written.get("offload"), bool):
            return written
        kept = written.get("keep", (ALL,))
        return written | ({"keep": (), "offload": kept} if written["offload"] else {"offload": ()})

    def __call__(self, module: type[nn.Module], scanned: bool = True) -> type[nn.Module]:
        """``module`` with this policy; ``scanned``: as the body of a scan."""
        if ALL in self.keep:
            return module
        return nn.remat(module, prevent_cse=not scanned, policy=self._policy())

    def _policy(self):
        policies = jax.checkpoint_policies
        if self.offload:
            return policies.save_and_offload_only_these_names(
                names_which_can_be_saved=list(self.keep), names_which_can_be_offloaded=list(self.offload),
                offload_src="device", offload_dst="pinned_host",
            )  # fmt: skip
        return policies.save_only_these_names(*self.keep) if self.keep else policies.nothing_saveable


def whole(value: Any) -> Any:
    """``value`` with nothing computed twice."""
    return with_remat(value, Remat())


def on_device(value: Any) -> Any:
    """``value`` with what goes to the host computed again instead."""
    return _changed(value, lambda remat: dataclasses.replace(remat, offload=()))


def with_remat(value: Any, remat: Remat) -> Any:
    """``value`` (a tree of frozen dataclasses) with every ``Remat`` in it replaced by this one."""
    return _changed(value, lambda _: remat)


def _changed(value: Any, change: Callable[[Remat], Remat]) -> Any:
    if isinstance(value, Remat):
        new = change(value)
        return value if value == new else new
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    linen = ("parent", "name") if hasattr(value, "scope") else ()
    old = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init and f.name not in linen}
    new = {name: _changed(item, change) for name, item in old.items()}
    changed = {name: item for name, item in new.items() if item is not old[name]}
    return dataclasses.replace(value, **changed) if changed else value
