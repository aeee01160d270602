"""Rows of a name table: which tensor of the reference is which (part of a) leaf of ours, and how its axes turn.

One table an architecture serves both directions. A dense kernel is [in, out] here and [out, in] there; a convolution's
[u, v, in, out] is [out, in, u, v]; a patch embedding is a dense kernel over (row, column, channel) here and a
convolution there. Fused query-key-value kernels are three tensors there; layers stacked by ``nn.scan`` are one tensor a
layer there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from einops import rearrange

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Form:
    """How a tensor changes on its way out (ours to theirs) and in."""

    out: Callable[[np.ndarray], np.ndarray]
    into: Callable[[np.ndarray], np.ndarray]


SAME = Form(lambda x: x, lambda x: x)
DENSE = Form(lambda x: x.T, lambda x: x.T)
CONV = Form(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))
BATCHED = Form(lambda x: x[None], lambda x: x[0])
TWICE_BATCHED = Form(lambda x: x[None, None], lambda x: x[0, 0])


def patches(size: int) -> Form:
    """[(p q c), d] to a convolution [d, c, p, q]."""
    return Form(
        lambda x: rearrange(x, "(p q c) d -> d c p q", p=size, q=size),
        lambda x: rearrange(x, "d c p q -> (p q c) d"),
    )


@dataclass(frozen=True)
class Row:
    """``theirs`` is part ``part`` of ``parts`` along the last axis of layer ``layer`` of ``ours``."""

    theirs: str
    ours: str
    form: Form = SAME
    layer: int | None = None
    part: int = 0
    parts: int = 1


def dense(theirs: str, ours: str, layer: int | None = None, bias: bool = True) -> list[Row]:
    """A dense layer's kernel and bias."""
    rows = [Row(f"{theirs}.weight", f"{ours}/kernel", DENSE, layer)]
    return rows + ([Row(f"{theirs}.bias", f"{ours}/bias", SAME, layer)] if bias else [])


def fused(theirs: Iterable[str], ours: str, layer: int | None = None) -> list[Row]:
    """A dense layer here that is several there, its outputs side by side."""
    theirs = list(theirs)
    rows = []
    for i, name in enumerate(theirs):
        rows.append(Row(f"{name}.weight", f"{ours}/kernel", DENSE, layer, i, len(theirs)))
        rows.append(Row(f"{name}.bias", f"{ours}/bias", SAME, layer, i, len(theirs)))
    return rows


def norm(theirs: str, ours: str, layer: int | None = None, bias: bool = True) -> list[Row]:
    """A norm's scale and bias."""
    rows = [Row(f"{theirs}.weight", f"{ours}/scale", SAME, layer)]
    return rows + ([Row(f"{theirs}.bias", f"{ours}/bias", SAME, layer)] if bias else [])


def conv(theirs: str, ours: str) -> list[Row]:
    """A convolution's kernel and bias."""
    return [Row(f"{theirs}.weight", f"{ours}/kernel", CONV), Row(f"{theirs}.bias", f"{ours}/bias")]


def to_theirs(rows: list[Row], ours: Arrays) -> Arrays:
    """The reference's tensors. Raises ValueError that names a leaf of ours that no row carries over."""
    left = set(ours) - {row.ours for row in rows}
    if left:
        raise ValueError(f"no row of the name table carries over: {', '.join(sorted(left))}")
    theirs = {}
    for row in rows:
        x = ours[row.ours] if row.layer is None else ours[row.ours][row.layer]
        theirs[row.theirs] = np.array(row.form.out(part_of(x, row)), order="C")
    return theirs


def part_of(x: np.ndarray, row: Row) -> np.ndarray:
    """The row's part of the last axis, as a view."""
    return x if row.parts == 1 else np.split(x, row.parts, axis=-1)[row.part]


def to_ours(rows: list[Row], theirs: Arrays, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Our leaves from the reference's tensors. Raises ValueError that names a missing tensor or a wrong shape."""
    missing = [row.theirs for row in rows if row.theirs not in theirs]
    if missing:
        raise ValueError(f"the file lacks {len(missing)} tensors, the first is {missing[0]!r}: not this architecture")
    ours = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for row in rows:
        target = ours[row.ours] if row.layer is None else ours[row.ours][row.layer, ...]
        target = part_of(target, row)
        value = row.form.into(theirs[row.theirs])
        if value.shape != target.shape:
            raise ValueError(f"{row.theirs!r} is {value.shape} as {row.ours}; the config wants {target.shape}")
        target[...] = value
    return ours
