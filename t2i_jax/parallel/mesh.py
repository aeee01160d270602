"""The device mesh as a value: how many devices along each of three axes.

``replica`` is plain data parallelism across slices (parameters replicated, gradients reduced once), ``data`` splits
the batch and the parameters (FSDP), ``model`` splits heads and MLP width (tensor parallelism). The batch is split over
``replica`` and ``data`` together.

    mesh = Mesh(data=-1, model=2).build()         # -1 takes the rest of the devices
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t2i_jax.types import BATCH_AXES, MODEL_AXIS

AXES = (*BATCH_AXES, MODEL_AXIS)
BATCH = PartitionSpec(BATCH_AXES)


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; at most one axis is -1 and takes what the others leave."""

    replica: int = 1
    """Copies of the parameters, over which only gradients travel."""
    data: int = -1
    """Ways the batch and the parameters are split."""
    model: int = 1
    """Ways heads and MLP width are split."""

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """The three axis sizes on so many devices.

        Raises ValueError, naming the axis, where they don't multiply to the number of devices.
        """
        given = dict(zip(AXES, (self.replica, self.data, self.model)))
        bad = [f"mesh.{axis}={size}" for axis, size in given.items() if size != -1 and size < 1]
        if bad:
            raise ValueError(f"{', '.join(bad)}: an axis has at least one device; -1 means the rest")
        rest = [axis for axis, size in given.items() if size == -1]
        if len(rest) > 1:
            raise ValueError(f"mesh.{' and mesh.'.join(rest)} are both -1; only one axis can take the rest")
        fixed = math.prod(size for size in given.values() if size != -1)
        if rest and devices % fixed == 0:
            given[rest[0]] = devices // fixed
        elif rest or fixed != devices:
            text = " × ".join(f"{axis} {size}" for axis, size in given.items())
            culprit = next((axis for axis, size in given.items() if size > 0 and devices % size), None)
            reason = f"mesh.{culprit}={given[culprit]} does not divide {devices}" if culprit else "the product is wrong"
            raise ValueError(
                f"the mesh {text} does not fit {devices} device(s): {reason}. Set one axis to -1 to take the rest."
            )
        return tuple(given.values())

    def build(self, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
        """The jax mesh with Auto axes over ``devices`` (all, unless given), neighbours in the mesh near in the machine.

        Devices of several slices, which only the data-centre network joins, are told apart along ``replica`` alone.
        Raises ValueError, naming the axis, where the sizes don't fit the devices or the slices.
        """
        devices = jax.devices() if devices is None else list(devices)
        sizes = self.sizes(len(devices))
        slices = len({getattr(device, "slice_index", 0) for device in devices})
        replica, *rest = sizes
        if replica % slices:
            raise ValueError(
                f"mesh.replica={replica} is not a multiple of the {slices} slices: only gradients may travel between "
                f"slices. Set mesh.replica to -1 or a multiple of {slices}."
            )
        inner = (replica // slices, *rest)
        if slices > 1:
            outer = (slices, *(1 for _ in rest))
            grid = create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
        else:
            grid = create_device_mesh(inner, devices, allow_split_physical_axes=True)
        return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(batch: int, accumulate: int, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError, with the fix, unless every micro-batch divides over the mesh's batch axes."""
    ways = mesh.shape["replica"] * mesh.shape["data"]
    unit = ways * accumulate
    if batch % unit:
        below, above = batch // unit * unit, -(-batch // unit) * unit
        nearest = f"{below} or {above}" if below else f"{above}"
        times = f" × {accumulate} accumulated" if accumulate > 1 else ""
        raise ValueError(
            f"data.batch={batch} is not divisible by the mesh's batch axes (replica {mesh.shape['replica']} × data "
            f"{mesh.shape['data']}){times} = {unit}. Set data.batch to {nearest}, or change mesh.data."
        )


def split_batch(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Sharding of every array of a batch: its first dimension over the batch axes."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
