"""Where a checkpoint comes from, as it says itself, and what of that has changed when a training goes on from it.

Data, config, seed, tokenizer and frozen stages must be the same: a change is an error (``Run.check_config``,
``Run.check_sources``). Other versions of the packages are a warning, another machine or mesh is a note: ``remarks``.
"""

import platform
from typing import Any

import jax

from t2i_jax.training.checkpoint import versions
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.serialize import encode


def origin(experiment: Experiment, made_from: dict[str, str], mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """What a checkpoint of ``experiment`` says of itself; ``made_from``: digests of data, tokenizer, frozen stages."""
    first = mesh.devices.flat[0]
    return {
        "finished": False,
        "config": encode(experiment),
        "seed": experiment.seed,
        "made_from": made_from,
        "versions": versions() | {"python": platform.python_version()},
        "machine": {
            "devices": f"{mesh.size} {first.platform} ({first.device_kind})",
            "processes": jax.process_count(),
            "mesh": " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items()),
        },
    }


RESIZER = "cykooz-resizer"


def remarks(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two such descriptions and does not stop a training, a sentence each."""
    before, after = (dict(one.get("versions", {})) for one in (then, now))
    resizers = [one.pop(RESIZER, "not installed") for one in (before, after)]  # at first there was none
    packages, machine = _changed(before, after), _changed(then.get("machine", {}), now["machine"])
    said = []
    if before and resizers[0] != resizers[1]:
        said.append(
            f"warning: another library resizes pictures than before, so those that need it may look a bit different: "
            f"{RESIZER} {resizers[0]} -> {resizers[1]}"
        )
    if packages:
        said.append(f"warning: other versions than before, so the numbers may differ in their last bits: {packages}")
    if machine:
        said.append(f"note: another machine than before, with the same examples and noise: {machine}")
    return said


def _changed(then: dict[str, Any], now: dict[str, Any]) -> str:
    """``name old -> new`` of what both know and differ in."""
    return ", ".join(f"{key} {then[key]} -> {now[key]}" for key in now if key in then and then[key] != now[key])
