"""A config file, read: a Python file with a function that returns an experiment.

    experiment = read_config("configs/emoji/decoder.py")            # what config() returns
    experiment = read_config("configs/emoji/decoder.py", "demo")    # what demo() returns

Whatever goes wrong inside the file is a UsageError that names the file, the line and the error. Reading imports no JAX.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


class UsageError(ValueError):
    """Something the user typed; the message says what is right."""


def read_config(path: str | Path, variant: str = "config") -> Any:
    """The experiment that ``variant()`` in the Python file ``path`` returns.

    Raises UsageError where the file or the function is missing, or fails.
    """
    path = Path(path).resolve()
    if path.name.startswith("-"):
        raise UsageError(f"the config comes before its options: CONFIG {path.name} ...")
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise UsageError(f"no config at {path}; " + (f"there are: {', '.join(near)}" if near else "check the path"))
    make = function_of(path, variant)
    if make is None:
        raise UsageError(f"{path} has no function {variant}(); a config file defines `def config() -> Experiment`")
    return make()


def function_of(path: Path, name: str) -> Callable[[], Any] | None:
    """The function ``name`` of the Python file ``path``, None where it has none. Raises UsageError, now and when it is
    called."""
    path = path.resolve()
    function = getattr(_said(path, lambda: _module(path)), name, None)
    return None if function is None else lambda: _said(path, function)


def checked(made: Any, path: str | Path, variant: str) -> Any:
    """What a config's function returned. Raises UsageError unless it is an Experiment."""
    from t2i_jax.training.experiment import Experiment

    if not isinstance(made, Experiment):
        raise UsageError(
            f"{path}: {variant}() returns {type(made).__name__}, not an Experiment: is its `return` missing?"
        )
    return made


def with_options(experiment: Any, options: list[str], prog: str) -> Any:
    """The experiment with the fields that the options name, ``--stage.model.width 512``. Exits with 2 where one is
    wrong, with 0 after ``--help``; ``prog`` is the command that they are given to."""
    import tyro
    from jax import Array
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def number(field: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if field.type != float | Array:  # a number that a traced program may replace
            return None
        return PrimitiveConstructorSpec(1, "FLOAT", lambda words: float(words[0]), lambda x: True, lambda x: [str(x)])

    return tyro.cli(type(experiment), default=experiment, args=options, prog=prog, registry=registry)


def _module(path: Path) -> ModuleType:
    root = next((p for p in path.parents if p.name == "configs"), path.parent).parent
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    spec = importlib.util.spec_from_file_location(f"t2i_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and their docstrings look for a class that it defines
    spec.loader.exec_module(module)
    return module


def _said(path: Path, run: Callable[[], Any]) -> Any:
    """What ``run()`` returns; an error in it is one of the file ``path``, whose line it names."""
    try:
        return run()
    except Exception as error:
        where, what = _line(path, error), getattr(error, "msg", None) or error
        raise UsageError(f"{where}: {type(error).__name__}: {what}") from error


def _line(path: Path, error: Exception) -> str:
    """Where in the file an error came up, or where else if it does not compile."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    lines, trace = [], error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f"{path}, line {lines[-1]}" if lines else str(path)
