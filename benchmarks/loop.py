"""CPU time of a step inside the training loop against the same compiled step called bare.

    python -m benchmarks.loop [--batch 128] [--steps 12] [--rounds 4]

The decoder of configs/emoji (the full one, not the demo's) is trained on a slice of the embedded set with everything on
(cached features, metrics, TensorBoard, the feeding thread), turn by turn with a bare
``state = step(state, frozen, key, batch)`` on one batch that stays on the device. Saves and sample sheets stand at the
end of a run and are not counted.
"""

from benchmarks.measure import pin

if __name__ == "__main__":
    pin()

import argparse
import dataclasses
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import jax

from configs.emoji import clip, decoder, vae
from t2i_jax.parallel.mesh import split_batch
from t2i_jax.training import AdamW, Experiment, Reports, loop, train
from t2i_jax.training.cache import Cache
from t2i_jax.training.feed import place
from t2i_jax.training.frozen import digest, load_frozen
from t2i_jax.training.inputs import Inputs
from t2i_jax.training.metrics import Reporter
from t2i_jax.training.program import build
from t2i_jax.training.run import Run

SPLIT = "train[:512]"


class Clock(Reporter):
    """Notes the CPU time at which each step's numbers were in."""

    seconds: ClassVar[list[float]] = []

    def add(self, step: int, metrics: dict) -> None:
        super().add(step, metrics)
        Clock.seconds.append(time.process_time())


def shortened(experiment: Experiment, steps: int, batch: int) -> Experiment:
    """The experiment on a slice of the data, for so many steps, without pictures on the way."""
    data = dataclasses.replace(experiment.data, split=SPLIT, batch=batch)
    return dataclasses.replace(experiment, data=data, steps=steps, reports=Reports(every=5, preview_every=0))


def looped(experiment: Experiment, root: Path) -> float:
    """CPU seconds a step inside ``train``; the first two steps are left out."""
    Clock.seconds = []
    loop.Reporter = Clock
    train(experiment, root)
    times = Clock.seconds
    return (times[-1] - times[2]) / (len(times) - 3)


def bare(experiment: Experiment, root: Path):
    """A function of a number of steps that gives the CPU seconds a step of the bare compiled step."""
    mesh = experiment.mesh.build(jax.devices()[:1])
    paths = Run(root, experiment.stage.name)
    inputs = Inputs.open(experiment, paths)
    frozen = load_frozen(experiment.stage, root, jax.random.key(0), inputs.shapes())
    made_from = inputs.digests() | {name: digest(params) for name, params in frozen.items()}
    cache = Cache.of(experiment.stage, frozen, inputs, made_from, paths.cache, experiment.cache_gb)
    program = build(experiment, mesh, frozen, inputs.shapes(), cache.shapes)
    frozen = program.place_frozen(frozen)
    batch = place(next(cache.fill(frozen, mesh).batches(0)), split_batch(mesh))
    key = jax.random.key(0)
    step = program.step.lower(program.state, program.frozen, key, program.batch).compile()

    def run(steps: int) -> float:
        state = program.init(key)
        for number in range(steps):
            if number == 2:
                start = time.process_time()
            state, metrics = step(state, frozen, key, batch)
            jax.block_until_ready(metrics)
        return (time.process_time() - start) / (steps - 2)

    return run


def main(batch: int, steps: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for config in (vae, clip):
            train(shortened(config.config(), 1, 8), root)
        experiment = shortened(decoder.config(), steps, batch)
        run, pairs = None, []
        for number in range(rounds + 1):
            fresh = dataclasses.replace(experiment, seed=number, optimizer=AdamW(learning_rate=1e-4))
            inside = looped(fresh, root)
            run = run or bare(fresh, root)
            if number:  # the first round warms both up
                pairs.append((inside, run(steps)))
            shutil.rmtree(root / "decoder")  # the next round trains from the beginning
    ratio = statistics.median(a / b for a, b in pairs)
    inside, alone = (statistics.median(side) for side in zip(*pairs))
    print(f"loop {inside * 1e3:.1f} ms of CPU a step, bare {alone * 1e3:.1f} ms, ratio {ratio:.3f} (batch {batch})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    main(**vars(parser.parse_args()))
