"""Configs to JSON and back, so that sampling rebuilds a stage from ``RUN/<stage>/config.json``.

A frozen dataclass (a Linen module is one) becomes ``{"class": "t2i_jax.models.vae.AutoencoderKL", "layers": 2, ...}``;
numbers, strings, booleans, None, tuples and string-keyed dicts stand for themselves. Reading builds only dataclasses
that are defined inside ``t2i_jax`` (and those a caller passes in): no pickle, no eval, no import of anything else.

    text = json.dumps(encode(experiment)); experiment = decode(json.loads(text))
"""

import dataclasses
import difflib
import importlib
import json
from collections.abc import Iterator
from typing import Any

Json = Any
PACKAGE = "t2i_jax"
_LINEN = ("parent", "name")  # set by Flax on every module, no part of the config


class ConfigError(ValueError):
    """A config that cannot be written or read, or a run directory that belongs to another one."""


def encode(value: Any, where: str = "config") -> Json:
    """``value`` as plain JSON. Raises ConfigError, naming the field, on anything else than the kinds above."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value) and "class" not in value:
        return {key: encode(item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {name: encode(getattr(value, name), f"{where}.{name}") for name in _fields(kind)}
        return {"class": f"{kind.__module__}.{kind.__qualname__}"} | fields
    raise ConfigError(
        f"{where} is a {type(value).__name__}, which a config file cannot hold; use numbers, strings, tuples, "
        "string-keyed dicts and dataclasses (a dtype as its name, 'bfloat16')"
    )


def decode(data: Json, classes: tuple[type, ...] = (), where: str = "config") -> Any:
    """The value that ``encode`` wrote.

    ``classes``: further dataclasses, defined outside t2i_jax, that may be built. Lists come back as tuples. A class
    whose fields have changed may have a static method ``upgraded(fields)`` that takes what earlier versions wrote.
    Raises ConfigError, naming the place, for an unknown class or field, or a value that the class refuses.
    """
    if isinstance(data, list):
        return tuple(decode(item, classes, f"{where}[{i}]") for i, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    values = {key: decode(item, classes, f"{where}.{key}") for key, item in data.items() if key != "class"}
    if "class" not in data:
        return values
    kind = _find(data["class"], classes, where)
    values = kind.upgraded(values) if hasattr(kind, "upgraded") else values
    known = _fields(kind)
    for name in values:
        if name not in known:
            raise ConfigError(f"{where}: {data['class']} has no field {name!r}{_suggestion(name, known)}")
    _check_kinds(kind, values, where)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {data['class']} cannot be built: {error}") from error


def _check_kinds(kind: type, values: dict[str, Any], where: str) -> None:
    """Raise ConfigError where a plain value stands for what is a dataclass by now (``remat`` was a switch once)."""
    for field in dataclasses.fields(kind):
        value = values.get(field.name)
        if dataclasses.is_dataclass(field.default) and isinstance(value, bool | int | float | str):
            raise ConfigError(
                f"{where}.{field.name} is {json.dumps(value)}, where this version of t2i_jax has a "
                f"{type(field.default).__name__}: the run was trained by another version. Train it again, or replace "
                f"the value in its config.json, for instance by {json.dumps(encode(field.default))}"
            )


def differences(old: Json, new: Json, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, old and new value of every field in which two encoded configs differ."""
    if isinstance(old, dict) and isinstance(new, dict) and old.get("class") == new.get("class"):
        for key in old | new:
            yield from differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield where, old, new


def _fields(kind: type) -> tuple[str, ...]:
    linen = hasattr(kind, "scope") and hasattr(kind, "apply")
    names = (field.name for field in dataclasses.fields(kind) if field.init)
    return tuple(name for name in names if not (linen and name in _LINEN))


def _find(path: Any, classes: tuple[type, ...], where: str) -> type:
    for kind in classes:
        if path == f"{kind.__module__}.{kind.__qualname__}":
            return kind
    module_name, _, name = str(path).rpartition(".")
    if module_name.split(".")[0] != PACKAGE:
        raise ConfigError(
            f"{where}: the class {path!r} is not part of {PACKAGE}, so it is not loaded from a file; "
            "pass it in classes=(...) if it is yours"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}: there is no module {module_name!r} in this version of {PACKAGE}") from error
    kind = vars(module).get(name)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module_name):
        known = [key for key, item in vars(module).items() if dataclasses.is_dataclass(item)]
        raise ConfigError(f"{where}: {module_name} defines no config class {name!r}{_suggestion(name, known)}")
    return kind


def _suggestion(name: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f" (it has {', '.join(known) or 'none'})"
