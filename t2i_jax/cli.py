"""``t2i``: train, plan, sample, evaluate, build data, export.

    t2i train configs/emoji/decoder.py --run runs/emoji --steps 2000
    t2i sample runs/emoji "a red apple, fluent 3d style" --n 4 --out apple.png

Every command is a typed function; its options and help text come from its signature and docstring.
"""

import difflib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from t2i_jax.configfile import UsageError, checked, function_of, read_config, with_options

USAGE = 64
"""Exit code of a command that was called wrongly or given bad input: trying again will not help."""


def train(args: list[str]) -> int:
    """Train: ``t2i train CONFIG --run RUN [--field value ...]``. Continues where the run stopped.

    RUN is the cascade's directory; each stage gets its own inside. Fields of the experiment are options
    (``--stage.model.width 512 --data.batch 64``).
    """
    if not args or args[0] in ("-h", "--help"):
        print(
            "usage: t2i train CONFIG --run RUN [--field value ...]\n\n"
            "CONFIG  a Python file with `def config() -> Experiment`, e.g. configs/emoji/decoder.py; or a folder of\n"
            "        them, e.g. configs/emoji: every stage, each after those that it reads, on CPUs two side by side.\n"
            "        CONFIG:NAME takes the function NAME instead of `config`\n"
            "RUN     the cascade's run directory (default: runs/NAME with NAME the config's folder)\n\n"
            "`t2i train CONFIG --help` lists every field of the experiment, its type and its value."
        )
        return 0 if args else USAGE
    run, args = _take(args, "--run", "")
    if not args:
        raise UsageError("no config: t2i train CONFIG --run RUN")
    config, rest = args[0], args[1:]
    path, _, variant = config.partition(":")
    variant = variant or "config"
    folder = Path(path).is_dir()
    name = Path(path).resolve().name if folder else Path(path).resolve().parent.name
    run = run or str(Path("runs") / name)
    if folder:
        if rest:
            raise UsageError(
                f"{path} is a folder of configs, and {rest[0]} would have to fit every stage of it; options of a field "
                f"need one config: t2i train {Path(path) / 'STAGE.py'}"
            )
        return _train_folder(Path(path), variant, run)
    experiment = _experiment(config, rest, "train")
    from t2i_jax.training import EXIT_AT_WORK, EXIT_DIVERGED, EXIT_UNSAVED, AtWork, NoRoom, SaveFailed
    from t2i_jax.training import train as run_training
    from t2i_jax.training.appender import say

    try:
        return run_training(experiment, run)
    except (SaveFailed, NoRoom, FloatingPointError, AtWork) as error:
        say(f"t2i train: {error}")
        final = {FloatingPointError: EXIT_DIVERGED, AtWork: EXIT_AT_WORK}
        return final.get(type(error), EXIT_UNSAVED)


def plan(args: list[str]) -> int:
    """Ask what a training would need on TPUs: ``t2i plan CONFIG --topology v5e:16x16 [--field value ...]``.

    Compiles the training's very step for that topology; no TPU is needed.
    """
    if not args or args[0] in ("-h", "--help"):
        print(
            "usage: t2i plan CONFIG --topology T [--slices N] [--search N] [--out FILE.json] [--keep DIR]\n"
            "                [--field value ...]\n"
            "       t2i plan FOLDER --sample N --topology T [--slices N] [--search N] [--out FILE.json] [--keep DIR]\n"
            "                [--mesh.model N ...]\n\n"
            "CONFIG      as for `t2i train`, e.g. configs/dalle2/decoder.py; its fields are options here too\n"
            "FOLDER      of a cascade's configs, e.g. configs/dalle2\n"
            "--sample    plan the painting of pictures for so many captions at once\n"
            "--topology  generation and shape of a slice, e.g. v5e:16x16, v6e:16x16, v5p:8x8x8 (default v5e:16x16)\n"
            "--slices    how many such slices, joined by the data-centre network (default 1)\n"
            "--search    compile up to so many meshes, micro-batches and sets of kept values (to paint: meshes), the\n"
            "            most promising first, and list those that fit, the fastest first (default 0: as configured)\n"
            "--out       file for the whole plan, or the fastest, as JSON, and beside it a picture of its memory and\n"
            "            time by part, as PNG (default: none)\n"
            "--keep      directory for what was compiled, which is not compiled again (default: none)\n\n"
            "Prints memory a chip, FLOPs, every message between chips, and an estimate of time and cost. Exits with 1\n"
            "where the program does not fit. Needs the extra `plan` (libtpu), and no TPU."
        )
        return 0 if args else USAGE
    config, rest = args[0], args[1:]
    topology, rest = _take(rest, "--topology", "v5e:16x16")
    slices, rest = _take(rest, "--slices", "1")
    trials, rest = _take(rest, "--search", "0")
    out, rest = _take(rest, "--out", "")
    keep, rest = _take(rest, "--keep", "")
    captions, rest = _take(rest, "--sample", "0")
    for option, number, least in (("slices", slices, 1), ("search", trials, 0), ("sample", captions, 0)):
        if not number.isdigit() or int(number) < least:
            raise UsageError(f"--{option} {number}: a whole number of at least {least}")
    if int(trials) and int(captions) and rest:
        raise UsageError(f"{rest[0]}: with --search the mesh of --sample is what is looked for; leave it out")
    os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX looks for a TPU
    from t2i_jax.parallel.mesh import Mesh
    from t2i_jax.planning import plan_painting, plan_training, report

    kept, (folder, _, variant) = Path(keep) if keep else None, config.partition(":")
    if int(captions):
        sizes = [option.replace("--mesh.", "--") for option in rest]
        mesh = tyro.cli(Mesh, default=Mesh(), args=sizes, prog=f"t2i plan {config}")
        described = {name: one for name, (_, one) in _folder(Path(folder), variant or "config").items()}
        found = plan_painting(described, mesh, int(captions), topology, int(slices), int(trials), kept)
    elif Path(folder).is_dir():
        raise UsageError(f"{config} is a folder: name one of its files, or plan its cascade's pictures by --sample N")
    else:
        found = plan_training(_experiment(config, rest, "plan"), topology, int(slices), int(trials), kept)
    if found is not None:
        report(found, Path(out) if out else None)
    return 0 if found is not None and found.fits else 1


def doctor(args: list[str]) -> int:
    """Look at the machines before a training: ``t2i doctor CONFIG --run RUN``, on every host as the training.

    Exits with 1 where something is wrong, and says which host.
    """
    if not args or args[0] in ("-h", "--help"):
        print(
            "usage: t2i doctor CONFIG --run RUN [--field value ...]\n\n"
            "Every process tells its versions, devices, memory, clock and free disk, reads the data, writes to RUN\n"
            "and renames there; what differs is named with its host; then an all-reduce over each axis of the mesh\n"
            "is timed.\n"
            "CONFIG, RUN and the fields are those of `t2i train`."
        )
        return 0 if args else USAGE
    run, rest = _take(args[1:], "--run", str(Path("runs") / Path(args[0]).resolve().parent.name))
    experiment = _experiment(args[0], rest, "doctor")
    from t2i_jax.parallel.hosts import join
    from t2i_jax.training.doctor import examine

    join()
    return 1 if examine(experiment, run) else 0


def _experiment(config: str, options: list[str], command: str):
    """What ``CONFIG[:NAME]`` returns, with the options' fields."""
    path, _, variant = config.partition(":")
    experiment = checked(read_config(path, variant or "config"), path, variant or "config")
    return with_options(experiment, options, f"t2i {command} {config}")


def _train_folder(folder: Path, variant: str, run: str) -> int:
    """Train every stage that a file of ``folder`` describes."""
    from t2i_jax.dalle2 import POLISH, SECOND, STAGES
    from t2i_jax.training.cascade import train_all

    files = _folder(folder, variant)
    reads = {name: experiment.stage.reads for name, (_, experiment) in files.items()}
    command = [sys.executable, "-m", "t2i_jax.cli", "train"]
    known = (*STAGES, SECOND, POLISH)  # the polish, for which nothing waits, keeps no core from the decoder
    order = sorted(files, key=lambda name: known.index(name) if name in known else len(known))
    return train_all({name: [*command, f"{files[name][0]}:{variant}", "--run", run] for name in order}, reads)


def _folder(folder: Path, variant: str) -> dict:
    """Path and experiment of every stage that a file of ``folder`` describes, by the stage's name."""
    files = {}
    for path in sorted(folder.glob("*.py")):
        make = function_of(path, variant)
        if make is not None:
            experiment = checked(make(), path, variant)
            name = experiment.stage.name
            if name in files:
                raise UsageError(f"{path} and {files[name][0]} both train {name!r}: move one of them away")
            files[name] = path, experiment
    if not files:
        raise UsageError(f"no file in {folder} has a function {variant}(); name a folder such as configs/emoji")
    return files


def demo(run: str = "runs/demo", configs: str = "configs/emoji", out: str = "") -> int:
    """Train all five stages on the embedded pictures, in minutes, and draw a sheet of pictures for sentences.

    Args:
        run: Directory of the cascade; a demo that was interrupted goes on where it was.
        configs: Folder with one config a stage, each with ``demo()`` (``FOLDER:config``: the full length), and
            captions.py, the sentences.
        out: The sheet, a PNG; default RUN/sheet.png.
    """
    from t2i_jax.painting import check_name, paint
    from t2i_jax.training.run import make_folder

    check_name(out := out or str(Path(run) / "sheet.png"))
    folder, _, variant = configs.partition(":")
    if not Path(folder).is_dir():
        raise UsageError(f"no folder {folder} here; run this in t2i_jax's repository or give its --configs FOLDER")
    captions = read_config(Path(folder) / "captions.py", "captions")
    make_folder(Path(out).parent)
    started = time.monotonic()
    if code := _train_folder(Path(folder), variant or "demo", run):
        return code
    print(f"trained all stages in {(time.monotonic() - started) / 60:.1f} min", flush=True)
    paint(run, captions, 4, 0, out)
    return 0


def sample(
    run: Annotated[str, tyro.conf.Positional],
    caption: Annotated[str, tyro.conf.Positional] = "",
    n: int = 1,
    seed: int = 0,
    out: str = "sample.png",
    captions: str = "",
    guidance: float | None = None,
    best_of: int = 1,
) -> None:
    """Pictures for a sentence, or for every line of a file.

    Args:
        run: The cascade's run directory.
        caption: The sentence.
        n: Pictures a caption.
        seed: The same seed gives the same pictures.
        out: A .png sheet, or an .npz with `images` uint8 [n, h, w, 3] in the captions' order.
        captions: A JSON-lines file with a field `caption` (or plain strings), instead of the sentence.
        guidance: Classifier-free guidance of the decoder, by the caption alone where its config has an image_guidance;
            default: the config's.
        best_of: Paint so many times as many and keep those that CLIP finds nearest to the caption.
    """
    if bool(caption) == bool(captions):
        raise UsageError('give either a sentence, `t2i sample RUN "a red apple"`, or --captions FILE.jsonl')
    from t2i_jax.painting import paint, read_captions

    paint(run, [caption] if caption else read_captions(captions), n, seed, out, guidance, best_of)


def replay(stage: Annotated[str, tyro.conf.Positional], step: int) -> None:
    """Do one step of a training again and look inside: loss, gradient, what is not finite, the examples.

    Args:
        stage: Directory of a trained stage, RUN/STAGE.
        step: The step's number, as in metrics.jsonl and nonfinite.jsonl.
    """
    from t2i_jax.training.replay import replay as run_replay
    from t2i_jax.training.run import read_experiment

    run = Path(os.path.abspath(stage)).parent  # of "." too; a link to a stage stays in the run where it stands
    print(run_replay(read_experiment(stage), run, step).report())


def evaluate(
    run: Annotated[str, tyro.conf.Positional], out: str = "", captions: int = 306, dataset: str = "", seed: int = 0
) -> None:
    """Measure a cascade: one JSON and one HTML page with pictures.

    Args:
        run: The cascade's run directory.
        out: Folder of the report; default RUN/eval.
        captions: How many captions of each split are painted; at most half of the training split.
        dataset: The data set to measure on; default the (first) one the cascade was trained on.
        seed: Of the chosen captions and the pictures' noise.
    """
    from t2i_jax.dalle2 import DallE2
    from t2i_jax.evaluation import evaluate as run_evaluation
    from t2i_jax.parallel.hosts import company, join, leader
    from t2i_jax.training.run import make_folder, read_experiment

    with company():
        join()
        if out and leader():
            make_folder(out)
        model = DallE2.load(run)
        dataset = dataset or read_experiment(Path(run) / "upsampler").data.parts[0][0]
        run_evaluation(model, dataset, out or Path(run) / "eval", captions=captions, seed=seed)


def export(run: Annotated[str, tyro.conf.Positional], out: Annotated[str, tyro.conf.Positional]) -> None:
    """Write every stage as diffusers and transformers load it: config.json, safetensors, tokenizer.

    Args:
        run: The cascade's run directory.
        out: Folder to write; one folder a stage.
    """
    from t2i_jax.interop import export_cascade

    export_cascade(run, out)


def data(args: list[str]) -> int:
    """Build, inspect and tokenise data sets: ``t2i data {build,tokenizer,inspect} ...``."""
    from t2i_jax.data import commands

    functions = {"build": commands.build, "tokenizer": commands.tokenizer, "inspect": commands.inspect}
    try:
        result = tyro.extras.subcommand_cli_from_dict(functions, args=args, prog="t2i data")
    except (FileExistsError, BlockingIOError) as error:  # OUT is built already, or just now
        raise UsageError(error) from error
    return result if isinstance(result, int) else 0


def ckpt(args: list[str]) -> int:
    """List, verify and compare checkpoints: ``t2i ckpt {list,verify,diff} ...``."""
    from t2i_jax.training import commands

    functions = {"list": commands.list_checkpoints, "verify": commands.verify, "diff": commands.diff}
    result = tyro.extras.subcommand_cli_from_dict(functions, args=args, prog="t2i ckpt")
    return result if isinstance(result, int) else 0


def _take(args: list[str], name: str, default: str) -> tuple[str, list[str]]:
    """Removes ``name VALUE`` or ``name=VALUE`` from the arguments."""
    for i, arg in enumerate(args):
        if arg == name:
            if i + 1 == len(args):
                raise UsageError(f"{name} needs a value")
            return args[i + 1], args[:i] + args[i + 2 :]
        if arg.startswith(name + "="):
            return arg.split("=", 1)[1], args[:i] + args[i + 1 :]
    return default, args


def _typed(function: Callable) -> Callable[[list[str]], int | None]:
    return lambda args: tyro.cli(function, args=args, prog=f"t2i {_name(function)}")


def _name(function: Callable) -> str:
    return next(name for name, one in COMMANDS.items() if one[0] is function)


COMMANDS: dict[str, tuple[Callable, bool]] = {
    "train": (train, True),
    "plan": (plan, True),
    "doctor": (doctor, True),
    "demo": (demo, False),
    "replay": (replay, False),
    "sample": (sample, False),
    "eval": (evaluate, False),
    "data": (data, True),
    "ckpt": (ckpt, True),
    "export": (export, False),
}
"""Name -> (function, whether it reads its arguments itself)."""


def main(args: list[str] | None = None) -> int:
    """Entry point of ``t2i``; returns the exit code (64: wrong call or bad input)."""
    try:
        return _run(args)
    finally:
        _let_go()


def _let_go() -> None:
    """What is still to be printed, and finds no room on a full disk, must not change the exit code, to 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(args: list[str] | None) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:10} {f.__doc__.splitlines()[0]}" for name, (f, _) in COMMANDS.items())
        print(f"usage: t2i COMMAND ...\n\n{rows}\n\n`t2i COMMAND --help` tells more.")
        return 0 if args else USAGE
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `t2i {near[0]}`?" if near else f"there are: {', '.join(COMMANDS)}"
        print(f"t2i: no command {name!r}; {hint}", file=sys.stderr)
        return USAGE
    function, raw = COMMANDS[name]
    try:
        return (function if raw else _typed(function))(rest) or 0
    except (ValueError, OSError) as error:
        if os.environ.get("T2I_TRACEBACK"):
            raise
        print(f"t2i {name}: {error}\n(T2I_TRACEBACK=1 shows where)", file=sys.stderr)
        return USAGE if isinstance(error, ValueError | FileNotFoundError) else 1  # a disk may be well again
    except SystemExit as error:
        if error.code != 2:  # what tyro, which has said what is wrong, ends with
            raise
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
