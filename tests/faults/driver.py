"""Real training processes, many and cheap: imports everything once and forks one process for each life.

``python -m tests.faults.driver`` reads lines of JSON from its input. ``{"life": {...}}`` starts a process (see
``Life``) and answers its pid; ``{"wait": pid}`` answers its exit code (-9: killed) once it ended. JAX starts only in
the forked process, so each is what a fresh ``t2i train`` would be, less the seconds of its imports.
"""

import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Life:
    """One process that trains the toy stage (or one stage of the shrunk cascade) into ``root``."""

    root: str
    log: str
    """File that gets what the process prints."""
    steps: int = 12
    every: int = 2
    """Steps between two checkpoints."""
    keep: int = 2
    stage: str = "toy"
    accumulate: int = 1
    watchdog_s: float = 0.0
    heartbeat: int = 0
    """Seconds after which a process counts as dead; 0: the product's own."""
    environment: dict = field(default_factory=dict)
    """Variables of the process, such as T2I_PROCESS."""
    faults: tuple = ()
    """(process, step, kind) each, for ``fail_at``."""


def experiment(life: Life):
    """What such a process trains: 40 pictures, 12 a step, so that steps cross an epoch's edge."""
    from t2i_jax.data import Data
    from t2i_jax.parallel.mesh import Mesh
    from t2i_jax.training import AdamW, Checkpoints, Experiment, Limits, Reports
    from tests.training.toy import Toy

    data = Data(dataset="emoji64", split="train[:40]", batch=12, image_size=8, context=64)
    made = Experiment(
        stage=Toy(noise=0.1), data=data, optimizer=AdamW(learning_rate=1e-2), mesh=Mesh(),
        reports=Reports(every=1, preview_every=0, tensorboard=False),
    )  # fmt: skip
    if life.stage != "toy":
        from tests.test_cascade import shrunk

        made = shrunk(life.stage)
        data = dataclasses.replace(made.data, split="val_pair[:20]")  # 8 a step
        made = dataclasses.replace(made, data=data, reports=Reports(every=1, preview_every=0, tensorboard=False))
    return dataclasses.replace(
        made,
        steps=life.steps,
        accumulate=life.accumulate,
        checkpoints=dataclasses.replace(Checkpoints(), every=life.every, keep=life.keep),
        limits=dataclasses.replace(Limits(), watchdog_s=life.watchdog_s),
    )


def live(life: Life) -> int:
    """Trains in this process; returns the training's exit code."""
    from t2i_jax.parallel import hosts
    from t2i_jax.training import EXIT_UNSAVED, SaveFailed, train
    from t2i_jax.training.appender import say
    from tests.faults.inject import fail_at, install

    os.environ.update(life.environment)
    if life.heartbeat:
        hosts.HEARTBEAT = life.heartbeat
    install([fail_at(*fault) for fault in life.faults], int(os.environ.get("T2I_PROCESS", "0")))
    try:
        return train(experiment(life), life.root)
    except SaveFailed as error:  # as the command does
        say(str(error))
        return EXIT_UNSAVED


def preload() -> None:
    """Everything that a life imports, and nothing that starts a thread or a device."""
    import orbax.checkpoint
    import tensorflow_datasets

    import t2i_jax.training
    import tests.faults.inject
    import tests.training.toy

    assert orbax.checkpoint and tensorflow_datasets and t2i_jax.training and tests.faults.inject and tests.training.toy


def main() -> int:
    preload()
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        life = Life(**asked["life"])
        pid = os.fork()
        if not pid:
            os.setsid()
            log = os.open(life.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0), os.dup2(log, 1), os.dup2(log, 2)
            return live(life)
        print(pid, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
