"""What trainings and sampling would need on TPUs that are not there: what ``t2i plan`` does."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from t2i_jax.dalle2 import DallE2
from t2i_jax.parallel.chips import CHIPS
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training.bars import draw
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.flops import count_jaxpr
from t2i_jax.training.plan import Plan, make_plan, plan_sampling, planned_mesh
from t2i_jax.training.search import Found, painting_choices, search, tried


def plan_training(experiment: Experiment, topology: str, slices: int, trials: int, keep: Path | None) -> Plan | None:
    """The experiment's plan, or with ``trials`` that of the fastest way that so many compilations find, None where
    nothing fits; what was tried is printed."""
    if not trials:
        return make_plan(experiment, topology, slices, keep)
    return _fastest(search(experiment, topology, slices, trials, keep))


def plan_painting(
    experiments: Mapping[str, Experiment], mesh: Mesh, captions: int, topology: str, slices: int, trials: int,
    keep: Path | None,
) -> Plan | None:  # fmt: skip
    """The plan of painting for so many captions at once, with the cascade that ``experiments`` would train; with
    ``trials`` on the fastest mesh that so many compilations find, None where none fits."""

    def plan(mesh: Mesh) -> Plan:
        devices = planned_mesh(mesh, topology, slices)
        model = DallE2.untrained(experiments, devices)
        return plan_sampling(model.painter, model.params, captions, model.context, devices, topology, slices, keep)

    if not trials:
        return plan(mesh)
    devices = list(planned_mesh(Mesh(), topology, slices).devices.flat)
    one = DallE2.untrained(experiments, Mesh().build(jax.devices()[:1]))
    key, tokens = jax.eval_shape(lambda: (jax.random.key(0), jnp.zeros((captions, one.context), jnp.int32)))
    with jax.set_mesh(one.mesh):
        flops = count_jaxpr(one.painter.trace(one.params, tokens, key).jaxpr.jaxpr)
    params = {name: tree for name, tree in one.params.items() if name != "painter"}  # which is the VAE, once more
    ways = painting_choices(params, flops, captions, topology, devices, slices)
    return _fastest(tried(ways, lambda way: plan(way.mesh), CHIPS[topology.split(":")[0]], trials))


def _fastest(found: Found) -> Plan | None:
    print(found.report())
    return found.plans[0][1] if found.plans else None


def report(plan: Plan, out: Path | None) -> None:
    """Print the plan; write it to ``out`` as JSON, and beside it a picture of its memory and time."""
    print(plan.table())
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(plan.json(), indent=1) + "\n")
        draw(plan.panels(), out.with_suffix(".png"))
