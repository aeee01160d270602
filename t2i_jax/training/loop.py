"""The training loop.

    code = train(experiment, "runs/emoji")        # 0: trained; EXIT_STOPPED: stopped by a signal, call it again

Everything is checked before anything is computed. Then the loop runs from the newest checkpoint, or the beginning, to
the last step; the host reads the numbers of a step while the devices do the next one, so that they never wait for it.
"""

import contextlib
from pathlib import Path

import jax
from jax.sharding import Mesh

from t2i_jax.parallel.compilation import keep_compiled
from t2i_jax.parallel.hosts import barrier, company, join, leader, share
from t2i_jax.parallel.memory import keep_memory
from t2i_jax.parallel.mesh import check_batch, split_batch
from t2i_jax.stages.base import Stage
from t2i_jax.training.alone import alone
from t2i_jax.training.appender import say
from t2i_jax.training.cache import Cache
from t2i_jax.training.checkpoint import REJECTED, Saver
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.feed import Feed
from t2i_jax.training.flops import peak_flops
from t2i_jax.training.frozen import digest, load_frozen
from t2i_jax.training.goodput import Goodput
from t2i_jax.training.inputs import PREPARATION, Inputs
from t2i_jax.training.metrics import Reporter, check_wandb
from t2i_jax.training.midrun import midrun
from t2i_jax.training.nonfinite import Guard
from t2i_jax.training.origin import origin, remarks
from t2i_jax.training.preview import Preview
from t2i_jax.training.program import build
from t2i_jax.training.run import Run
from t2i_jax.training.state import TrainState
from t2i_jax.training.stop import EXIT_STOPPED, Stop
from t2i_jax.training.watchdog import Watchdog
from t2i_jax.types import Params


@company()
def train(experiment: Experiment, run: str | Path, *, until: int | None = None) -> int:
    """Train one stage into ``run/<stage name>``, from where it stopped; ``run`` is the cascade's directory.

    ``until`` stops after that step as a signal would: saved, to be continued. Returns 0 when all steps are done, else
    ``EXIT_STOPPED``. Raises ValueError, ConfigError or FileNotFoundError, before any training, for what is wrong with
    the experiment, its data, its directory or the stages it reads, AtWork where another process trains the stage now,
    NoRoom where the disk can't hold the features' cache, SaveFailed where the state can't be saved, and MidrunError for
    an input that turns bad on the way.
    """
    join()
    keep_memory()
    keep_compiled()
    paths, mesh = Run(Path(run), experiment.stage.name), experiment.mesh.build()
    check_batch(experiment.data.batch, experiment.accumulate, mesh)
    paths.check(experiment)
    check_wandb(experiment.reports.wandb if leader() else None)
    with alone(paths.lock) if leader() else contextlib.nullcontext():
        return _train(experiment, paths, mesh, until)


def _train(experiment: Experiment, paths: Run, mesh: Mesh, until: int | None) -> int:
    stage, reports = experiment.stage, experiment.reports
    goodput = Goodput(paths.goodput, writes=leader())
    inputs = Inputs.open(experiment, paths, share(split_batch(mesh), experiment.data.batch))
    init_key, key, preview_key = jax.random.split(jax.random.key(experiment.seed), 3)
    frozen = load_frozen(stage, paths.root, init_key, inputs.shapes())
    made_from = inputs.digests() | {name: digest(params) for name, params in frozen.items()}
    cache = Cache.of(stage, frozen, inputs, made_from, paths.cache, experiment.cache_gb)
    program = build(experiment, mesh, frozen, inputs.shapes(), cache.shapes if cache else {}, inputs.images())
    if leader():
        paths.write(experiment)

    kept = experiment.checkpoints
    with (
        jax.set_mesh(mesh),
        Saver(paths.checkpoints, kept.keep, kept.keep_period, kept.tolerate, kept.every) as saver,
    ):
        meta, now, changes = {"finished": False}, origin(experiment, made_from, mesh), []
        if saver.latest() is not None:
            meta = saver.meta()
            paths.check_config(meta["config"], experiment)
            paths.check_sources(meta["made_from"], made_from)
            changes = remarks(meta, now)
        if leader():
            inputs.keep_tokenizer(paths.tokenizer)
        if meta["finished"] and saver.latest() >= experiment.steps:
            say(f"{stage.name} is trained already: {saver.latest()} steps in {paths.directory}")
            return 0
        with goodput.part("compile" if saver.latest() is None else "restore"):
            state = program.init(init_key) if saver.latest() is None else saver.restore(program.state)
        number = int(state.step)
        guard = Guard(experiment, paths.nonfinite, number, meta.get("nonfinite"), inputs.indices if leader() else None)
        meta = now
        frozen = program.place_frozen(frozen)
        batches = cache.fill(frozen, mesh).batches if cache else inputs.batches
        upcoming = batches(number)
        with goodput.part("compile"):
            step = program.compile()
            # the first messages between processes don't wait as long; the first process may find its program on disk
            # where the others, for whom JAX keeps none, compile for an hour
            barrier(f"the step of {stage.name} is compiled", PREPARATION)
        watchdog = Watchdog(experiment.limits.watchdog_s, paths.stacks(jax.process_index()))

        def seen(number: int, values: dict[str, float]) -> None:
            guard.see(number, values)
            goodput.step(number, bool(values["skipped"]))
            watchdog.beat(f"step {number}")

        reporter = Reporter(
            stage.name, paths.metrics, number, experiment.steps, reports.every, goodput=goodput, seen=seen,
            examples=experiment.data.batch, flops=program.flops, peak=peak_flops(list(mesh.devices.flat)),
            tensorboard=paths.tensorboard if reports.tensorboard else None, wandb=reports.wandb, writes=leader(),
        )  # fmt: skip
        for text in changes if leader() else []:
            reporter.say(text)
        saver.report = reporter.incident
        reporter.count(REJECTED, len(saver.rejected))
        inputs.unusable.tell(reporter.say, reporter.count)
        preview = Preview(experiment, inputs, mesh, preview_key, paths.samples)
        last = min(until or experiment.steps, experiment.steps)

        def save(finished: bool = False) -> None:
            with goodput.part("save"):
                saver.save(number, state, meta | {"finished": finished, "nonfinite": guard.memory})
            goodput.mark(number)
            watchdog.beat(f"the save of step {number}")

        begun = number
        with midrun(lambda: number > begun + 1), reporter, guard, watchdog, Stop(jax.process_count()) as stop:
            goodput.begin()
            while number < last and not stop.requested:  # again only after a roll-back
                with Feed(upcoming, split_batch(mesh)) as feed:
                    for number in range(number + 1, last + 1):  # noqa: B020  it goes on from where it is
                        with goodput.part("data"):
                            batch = next(feed)
                        state, metrics = step(state, frozen, key, batch)
                        reporter.add(number, metrics)
                        due = number % experiment.checkpoints.every == 0 and number < last
                        if (due or preview.due(number)) and not guard.tripped:
                            reporter.settle()
                        if guard.tripped:
                            break
                        if due:
                            save()
                        if preview.due(number):
                            with reporter.paused(), goodput.part("preview"):
                                preview.draw(number, state.ema, frozen)
                            watchdog.beat(f"the sample sheet of step {number}")
                        if stop.now(number):
                            reporter.say(f"{stop.requested} at step {number}: saving")
                            break
                    if not guard.tripped:
                        reporter.settle()
                if guard.tripped:
                    with goodput.part("restore"):
                        state, number, since = guard.roll_back(saver, program, init_key, state)
                    goodput.roll_back(since)
                    reporter.rolled_back(number)
                    save()
                    upcoming = batches(number)
            if finished := number >= experiment.steps:
                with goodput.part("setup"), Feed(batches(0), split_batch(mesh)) as feed:
                    state = _finish(stage, state, frozen, feed)
            if finished or saver.latest() != number:
                save(finished)
            with goodput.part("save"):
                saver.wait()
            goodput.write()
            if leader():
                reporter.say(goodput.line())
    return 0 if finished else EXIT_STOPPED


def _finish(stage: Stage, state: TrainState, frozen: dict[str, Params], batches: Feed) -> TrainState:
    """The state with what the stage's ``finish`` changed in the averaged parameters, there and in the trained ones."""
    finished = stage.finish(state.ema, frozen, batches)
    place = lambda old, new, mine: mine if new is old else jax.device_put(new, old.sharding)
    return TrainState(
        state.step,
        jax.tree.map(place, state.ema, finished, state.params),
        jax.tree.map(place, state.ema, finished, state.ema),
        state.opt_state,
    )
