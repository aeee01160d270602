"""One step of a training again, with a look inside: why was it not finite?

    found = replay(read_experiment("RUN/decoder"), "RUN", 1234)       # t2i replay RUN/decoder --step 1234
    print(found.report())

The step runs from the newest checkpoint before it, replaying what lies between as the training did it: the step number
decides examples and noise, so on the same versions, devices and mesh the numbers are the very ones. A roll-back on the
way is followed (RUN/<stage>/nonfinite.jsonl has it). The run is not changed; the report and a sheet of the batch's
pictures go to RUN/<stage>/replay/.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t2i_jax.data.ops import text_at
from t2i_jax.parallel.compilation import keep_compiled
from t2i_jax.parallel.memory import keep_memory
from t2i_jax.parallel.mesh import Mesh, split_batch
from t2i_jax.training.cache import Cache
from t2i_jax.training.checkpoint import load_meta, load_state, steps_saved
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.feed import place
from t2i_jax.training.frozen import digest, load_frozen
from t2i_jax.training.inputs import Inputs
from t2i_jax.training.nonfinite import read_rollbacks, renumbered
from t2i_jax.training.program import build
from t2i_jax.training.run import Run, write_whole
from t2i_jax.training.sheet import sheet
from t2i_jax.training.state import TrainState
from t2i_jax.training.step import make_gradient

_PICTURES = 64


@dataclass(frozen=True)
class Replay:
    """What one step did."""

    step: int
    start: int
    """Step of the checkpoint that it was replayed from; 0: the beginning."""
    loss: float
    grad_norm: float
    metrics: dict[str, float]
    """The stage's own."""
    first: str | None
    """The first leaf that is not finite, of the parameters, the batch's features, then the gradient; None: all are."""
    leaves: list[str]
    """All of them."""
    examples: list[dict[str, Any]]
    """``index``, ``key`` and ``caption`` of each example, in the batch's order."""
    sheet: Path

    def report(self) -> str:
        """A page of text."""
        since = f"replayed from the checkpoint of step {self.start}" if self.start else "replayed from the beginning"
        rows = [f"step {self.step}, {since}", f"loss {self.loss}   gradient norm {self.grad_norm}"]
        rows += [f"{name} {value}" for name, value in self.metrics.items()]
        rows += [f"first leaf that is not finite: {self.first}" if self.first else "every leaf is finite"]
        rows += [f"  {name}" for name in self.leaves[1:8]]
        rows += [f"  and {len(self.leaves) - 8} more"] if len(self.leaves) > 8 else []
        some = f"the first {_PICTURES} pictures" if len(self.examples) > _PICTURES else "their pictures"
        rows += [f"{len(self.examples)} examples; {some} are in {self.sheet}"]
        rows += [f"  {e['index']:>8}  {e['key']}  {e['caption']}" for e in self.examples]
        return "\n".join(rows)


def replay(experiment: Experiment, run: str | Path, number: int) -> Replay:
    """Do the step ``number`` (from 1) of the stage trained in ``run``/<stage> again.

    Raises ValueError for a step outside the training, ConfigError where data, tokenizer or a frozen stage is not what
    the training had, FileNotFoundError for a run without the stage.
    """
    keep_memory()
    keep_compiled()
    stage, paths = experiment.stage, Run(Path(run), experiment.stage.name)
    if not 1 <= number <= experiment.steps:
        raise ValueError(f"--step {number}: the training in {paths.directory} has steps 1 to {experiment.steps}")
    paths.check(experiment)
    mesh = _mesh(experiment)
    inputs = Inputs.open(experiment, paths)
    init_key, key, _ = jax.random.split(jax.random.key(experiment.seed), 3)
    frozen = load_frozen(stage, paths.root, init_key, inputs.shapes())
    made_from = inputs.digests() | {name: digest(params) for name, params in frozen.items()}
    cache = Cache.of(stage, frozen, inputs, made_from, paths.cache, experiment.cache_gb)
    program = build(experiment, mesh, frozen, inputs.shapes(), cache.shapes if cache else {}, inputs.images())
    cached = frozenset(cache.shapes if cache else {})
    rollbacks = [(step, target) for step, target in read_rollbacks(paths.nonfinite) if step < number]
    saved = steps_saved(paths.directory)
    start = begin_from(number, saved, rollbacks)
    if saved:
        paths.check_sources(load_meta(paths.directory, start or None)["made_from"], made_from)

    with jax.set_mesh(mesh):
        state = load_state(paths.directory, program.state, start) if start else program.init(init_key)
        frozen = program.place_frozen(frozen)
        batches = (cache.fill(frozen, mesh).batches if cache else inputs.batches)(start)
        state, batch = _forward(program.step, state, frozen, key, batches, split_batch(mesh), number, rollbacks)
        gradient = jax.jit(make_gradient(stage, experiment.accumulate, cached))
        rng = jax.random.fold_in(key, state.step)
        (loss, metrics), grads = gradient(state.params, frozen, rng, batch)
        norm = float(optax.tree.norm(grads))
    leaves = broken({"params": state.params, "batch": batch, "gradient": grads})
    examples, pictures = _examples(inputs, number)
    out = paths.directory / "replay" / f"{number:06d}.png"
    sheet(pictures[:_PICTURES], [e["caption"] for e in examples[:_PICTURES]], out)
    told = {name: float(value) for name, value in metrics.items()}
    found = Replay(number, start, float(loss), norm, told, leaves[0] if leaves else None, leaves, examples, out)
    write_whole(out.with_suffix(".json"), json.dumps(dataclasses.asdict(found) | {"sheet": str(out)}, indent=1) + "\n")
    return found


def begin_from(number: int, saved: list[int], rollbacks: list[tuple[int, int]]) -> int:
    """The newest step before ``number`` from which it can be reached: no roll-back between goes further back."""
    able = lambda start: all(step <= start or target >= start for step, target in rollbacks)
    return max((step for step in saved if step < number and able(step)), default=0)


def broken(trees: dict[str, Any]) -> list[str]:
    """Names of the leaves with a value that is not finite, in the trees' order."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for name, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path({name: tree})
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all())
    ]


def _forward(
    step: Callable, state: TrainState, frozen: dict, key: jax.Array, batches: Any, sharding: Any, number: int,
    rollbacks: list[tuple[int, int]],
) -> tuple[TrainState, dict]:  # fmt: skip
    """The state before step ``number`` and that step's batch."""
    back = dict(rollbacks)
    kept: dict[int, TrainState] = {}
    for now, batch in enumerate(batches, int(state.step)):
        if now in back and back[now] in kept:
            state = renumbered(jax.tree.map(jnp.copy, kept[back[now]]), now)
        if now in back.values():
            kept[now] = jax.tree.map(jnp.copy, state)  # the step donates its state
        if now == number - 1:
            return state, place(batch, sharding)
        state, _ = step(state, frozen, key, place(batch, sharding))
    raise AssertionError("the batches have no end")


def _mesh(experiment: Experiment) -> jax.sharding.Mesh:
    """The experiment's mesh, or where this machine has other devices, whatever there is (numbers then agree to
    rounding)."""
    try:
        return experiment.mesh.build()
    except ValueError:
        return Mesh().build()


def _examples(inputs: Inputs, number: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """What the step saw: index, key and caption of each example, and the pictures uint8 [b, h, w, 3]."""
    visit = next(inputs.visits(number - 1, images=True))
    examples = []
    for record, chosen in zip(inputs.dataset.records(visit["index"]), visit["caption"]):
        caption = text_at(record["captions"], int(chosen)) if record["captions"] else ""
        examples.append({"index": int(record["index"]), "key": record["key"], "caption": caption})
    return examples, visit["image"]
