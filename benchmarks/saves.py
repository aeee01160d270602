"""What a save costs: how long the training loop stands still for it, and how much of it is the manifest of digests.

    python -m benchmarks.saves [--intervals 5] [--megabytes 400] [--rounds 7]

The first figure is of a training: the VAE of configs/emoji's demo with a save every 100 steps and everything else on.
The loop stands still while the arrays are copied and Orbax makes its directories, and where the save before is not over
yet; the share is of the whole interval between two saves. The second is of saves alone, of random numbers, with nothing
else to do: writing the manifest (bringing the files onto the disk, reading them back, hashing them), and of that the
reading and hashing, against the time from the save's start to its commit.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from configs.emoji import vae
from t2i_jax.training import Checkpoints, Reports, checkpoint, commit, loop, manifest, train
from t2i_jax.training.state import TrainState

EVERY = 100


class Clocked:
    """A function that notes when its calls begin and end."""

    def __init__(self, function: Callable):
        self._function, self.spans = function, []

    def __call__(self, *args, **kwargs):
        begin = time.perf_counter()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.spans.append((begin, time.perf_counter()))

    def seconds(self) -> list[float]:
        return [end - begin for begin, end in self.spans]


class ClockedSaver(checkpoint.Saver):
    """Notes its saves: in the loop, and until the commit."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.save = ClockedSaver.saves = Clocked(self.save)


def in_training(intervals: int) -> None:
    demo = vae.demo()
    experiment = dataclasses.replace(
        demo,
        steps=(intervals + 1) * EVERY,
        checkpoints=Checkpoints(every=EVERY),
        reports=Reports(every=EVERY, preview_every=0),
    )
    loop.Saver = ClockedSaver
    with tempfile.TemporaryDirectory() as folder:
        train(experiment, Path(folder))
    spans = ClockedSaver.saves.spans[:intervals]  # without the last one, which no step follows
    between = [after[0] - before[0] for before, after in zip(spans, ClockedSaver.saves.spans[1:])]
    stalls = [end - begin for begin, end in spans]
    shares = [stall / length for stall, length in zip(stalls, between)]
    print(f"{intervals} saves of the demo's VAE, {statistics.median(between) / EVERY:.2f} s a step: the loop stood still for "
          f"{min(stalls):.3f} to {max(stalls):.3f} s, {100 * statistics.median(shares):.2f} % of the interval of {EVERY} "
          f"steps in the median, {100 * max(shares):.2f} % at most", flush=True)  # fmt: skip


def alone(megabytes: int, rounds: int) -> None:
    commit.write_manifest = writing = Clocked(commit.write_manifest)
    manifest._digests = hashing = Clocked(manifest._digests)
    params = {f"part{i}": jax.random.normal(jax.random.key(i), (megabytes * 10**6 // 128, 4)) for i in range(2)}
    copied = lambda: jax.tree.map(jnp.copy, params)
    state = jax.block_until_ready(TrainState(jnp.zeros((), jnp.int32), params, copied(), (copied(), copied())))
    stalls, saves = [], []
    with tempfile.TemporaryDirectory() as folder, checkpoint.Saver(Path(folder), keep=1) as saver:
        for number in range(rounds + 1):
            begin = time.perf_counter()
            saver.save(number, state, {})
            stalls.append(time.perf_counter() - begin)
            saver.wait()
            saves.append(writing.spans[-1][1] - begin)
    share = lambda part: 100 * statistics.median(a / b for a, b in zip(part.seconds()[1:], saves[1:]))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    print(f"{rounds} saves of {size:.0f} MB alone: the loop stood still for {min(stalls[1:]):.3f} to {max(stalls[1:]):.3f} s, a save "
          f"took {min(saves[1:]):.2f} to {max(saves[1:]):.2f} s, the manifest {share(writing):.1f} % of it in the median, reading "
          f"and hashing {share(hashing):.1f} %")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--intervals", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=400, help="of the state that is saved alone")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    in_training(args.intervals)
    alone(args.megabytes, args.rounds)
