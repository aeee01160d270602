"""What trainings and sampling would need on TPUs that are not there: what ``t2i plan`` does."""

import json
from collections.abc import Mapping
from pathlib import Path

from t2i_jax.dalle2 import DallE2
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training.bars import draw
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.plan import Plan, make_plan, plan_sampling, planned_mesh
from t2i_jax.training.search import search


def plan_training(experiment: Experiment, topology: str, slices: int, trials: int, keep: Path | None) -> Plan | None:
    """The experiment's plan, or with ``trials`` that of the fastest way that so many compilations find, None where
    nothing fits; what was tried is printed."""
    if not trials:
        return make_plan(experiment, topology, slices, keep)
    found = search(experiment, topology, slices, trials, keep)
    print(found.report())
    return found.plans[0][1] if found.plans else None


def plan_painting(
    experiments: Mapping[str, Experiment], mesh: Mesh, captions: int, topology: str, slices: int, keep: Path | None
) -> Plan:
    """The plan of painting for so many captions at once, with the cascade that ``experiments`` would train."""
    devices = planned_mesh(mesh, topology, slices)
    model = DallE2.untrained(experiments, devices)
    return plan_sampling(model.painter, model.params, captions, model.context, devices, topology, slices, keep)


def report(plan: Plan, out: Path | None) -> None:
    """Print the plan; write it to ``out`` as JSON, and beside it a picture of its memory and time."""
    print(plan.table())
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(plan.json(), indent=1) + "\n")
        draw(plan.panels(), out.with_suffix(".png"))
