"""The import law and the rules of the house, read from the source text: nothing is imported here."""

import ast
import gc
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "t2i_jax"
LAYERS = (
    {"types"},
    {"text"},
    {"data", "diffusion", "models", "parallel"},
    {"stages"},
    {"training"},
    {"dalle2", "evaluation", "interop"},
    {"serving", "painting", "planning", "configfile"},
    {"cli"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that is imported anywhere in a tree; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import; write it from t2i_jax down"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(path: Path) -> ast.Module:
    # What other tests left may be finalised by a collection within the parser, which Python 3.11 takes for an error.
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    finally:
        gc.enable()


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def top(name: str) -> str:
    return name.split(".")[0]


def law(of: str, name: str) -> str | None:
    """What is wrong with the room ``of`` importing ``name``; None where it may."""
    if top(name) in ("configs", "tests", "benchmarks"):
        return f"{name} stands outside the package"
    if top(name) != "t2i_jax" or of == "__init__":
        return None
    target = (name.split(".") + [""])[1]
    if target == "__version__":
        return None
    if target not in LEVEL or of not in LEVEL:
        return f"{of} or {target!r} has no place among the layers"
    if target != of and LEVEL[target] >= LEVEL[of]:
        return f"{of} is not above {target}"
    return None


def test_there_is_something_to_read():
    assert len(FILES) > 20
    assert {room(path) for path in FILES} >= {"types", "models", "stages", "training", "dalle2", "cli"}


@pytest.mark.parametrize("of, name", [
    ("models", "t2i_jax.diffusion.process"),
    ("diffusion", "t2i_jax.stages"),
    ("training", "t2i_jax.dalle2"),
    ("evaluation", "t2i_jax.dalle2"),
    ("data", "t2i_jax.models.vae"),
    ("stages", "configs.emoji"),
    ("stages", "t2i_jax.helpers"),
])  # fmt: skip
def test_the_law_refuses(of, name):
    assert law(of, name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards_only(path):
    broken = [f"{name}: {why}" for name in imports(parse(path)) if (why := law(room(path), name))]
    assert not broken


def test_training_names_no_stage_and_no_model():
    concrete = {path.stem for path in (PACKAGE / "stages").glob("*.py")} - {"__init__", "base"}
    for path in (PACKAGE / "training").rglob("*.py"):
        for name in imports(parse(path)):
            parts = name.split(".")
            if parts[:3] != ["t2i_jax", "models", "remat"]:  # a policy, no model
                assert parts[:2] != ["t2i_jax", "models"], f"{path.name} imports {name}"
            if parts[:2] == ["t2i_jax", "stages"]:
                assert not concrete & set(parts[2:]), f"{path.name} imports {name}"
                assert parts[-1] == "Stage" or "base" in parts, f"{path.name} imports {name}"


def test_only_models_and_stages_import_flax():
    rooms = {room(path) for path in FILES if "flax" in {top(name) for name in imports(parse(path))}}
    assert rooms <= {"models", "stages"}


def test_tensorflow_is_imported_only_inside_functions_of_data():
    for path in FILES:
        tree = parse(path)
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            if any(top(name) in ("tensorflow", "tensorflow_datasets") for name in imports(node)):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert room(path) == "data", f"{where} imports TensorFlow outside data/"
                assert id(node) in inside, f"{where} imports TensorFlow when the module loads"


def test_text_needs_no_jax():
    for path in FILES:
        if room(path) == "text":
            assert not {"jax", "tensorflow"} & {top(name) for name in imports(parse(path))}, path


@pytest.mark.parametrize("library", ["torch", "transformers", "diffusers", "pickle", "dill", "cloudpickle", "joblib"])
def test_the_package_never_imports(library):
    assert not [path for path in FILES if library in {top(name) for name in imports(parse(path))}]


def test_no_call_reads_a_pickle():
    for path in FILES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path


def test_configs_name_only_the_library_and_each_other():
    allowed = {"t2i_jax", "configs", "dataclasses", "functools", "math", "pathlib"}
    for path in (ROOT / "configs").rglob("*.py"):
        assert {top(name) for name in imports(parse(path))} <= allowed, path


def test_files_are_short():
    lines = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {path: n for path, n in lines.items() if n > 400}
    assert statistics.median(n for n in lines.values() if n > 20) < 180


def test_no_file_is_called_utils():
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]


def test_no_exception_is_swallowed():
    for path in FILES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ExceptHandler):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert node.type is not None, f"{where}: bare except"
                assert not all(isinstance(line, ast.Pass) for line in node.body), f"{where}: the error is dropped"


def test_every_module_says_what_it_is():
    assert not [path.relative_to(ROOT) for path in FILES if not ast.get_docstring(parse(path))]


def test_files_with_shapes_keep_their_annotations():
    for path in FILES:
        names = set(imports(parse(path)))
        assert not ("__future__.annotations" in names and any(top(name) == "jaxtyping" for name in names)), path
