"""The package as it is installed: what it loads, what it declares, what it ships."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import t2i_jax

ROOT = Path(__file__).parents[1]
HEAVY = ("jax", "jaxlib", "flax", "tensorflow", "tensorflow_datasets", "orbax", "optax", "PIL")


def requirements() -> list[Requirement]:
    return [Requirement(line) for line in metadata.requires("t2i_jax")]


def fresh(code: str) -> str:
    """What ``code`` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy():
    assert fresh(f"import sys, t2i_jax; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_importing_the_cascade_does_not_load_tensorflow():
    assert fresh("import sys; from t2i_jax import DallE2; print('tensorflow' in sys.modules)") == "False"


def test_reading_the_help_loads_nothing_heavy():
    code = "import sys; from t2i_jax.cli import main; main(['--help'])"
    assert fresh(f"{code}; print([m for m in {HEAVY} if m in sys.modules])").splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", t2i_jax.__all__)
def test_every_public_name_exists(name):
    assert getattr(t2i_jax, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'DalE2'"):
        t2i_jax.DalE2  # noqa: B018


def test_the_installed_version_is_the_source_version():
    assert metadata.version("t2i_jax") == t2i_jax.__version__


def test_the_extras_are_there_and_each_asks_for_something():
    extras = set(metadata.metadata("t2i_jax").get_all("Provides-Extra"))
    assert extras >= {"tpu", "gpu", "serve", "export", "interop", "wandb", "dev"}
    for extra in extras:
        assert [r for r in requirements() if r.marker and r.marker.evaluate({"extra": extra})], extra


def test_the_lock_file_of_this_python_holds_what_is_required():
    lock = ROOT / "constraints" / f"py{sys.version_info.major}{sys.version_info.minor}.txt"
    pinned = [Requirement(line) for line in lock.read_text().splitlines() if line and line[0] not in "#-"]
    versions = {_plain(r.name): str(next(iter(r.specifier))).removeprefix("==") for r in pinned}
    wanted = [r for r in requirements() if r.marker is None or r.marker.evaluate({"extra": "dev"})]
    assert not [str(r) for r in wanted if _plain(r.name) not in versions or versions[_plain(r.name)] not in r.specifier]


@pytest.mark.parametrize("lock", sorted((ROOT / "constraints").glob("*.txt")), ids=lambda path: path.stem)
def test_a_lock_file_pins_exact_versions_and_names_no_place(lock):
    for line in lock.read_text().splitlines():
        assert re.fullmatch(r"(#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+|)", line), line


def test_only_the_interop_lock_files_hold_pytorch():
    for lock in (ROOT / "constraints").glob("*.txt"):
        assert ("torch==" in lock.read_text()) == lock.stem.endswith("-interop"), lock


def test_every_import_is_declared():
    declared = {_plain(r.name) for r in requirements()}
    homes = metadata.packages_distributions()
    missing = {}
    for path in (ROOT / "t2i_jax").rglob("*.py"):
        for name in _third_party(path):
            if not {_plain(home) for home in homes.get(name, [name])} & (declared | {"tensorflow-cpu"}):
                missing.setdefault(name, []).append(path.name)
    assert not missing


def test_every_core_requirement_is_imported():
    imported = {name for path in (ROOT / "t2i_jax").rglob("*.py") for name in _third_party(path)}
    homes = metadata.packages_distributions()
    used = {_plain(home) for name in imported for home in homes.get(name, [])}
    core = {_plain(r.name) for r in requirements() if r.marker is None or "extra" not in str(r.marker)}
    # TFDS loads array-record when a data set is in its format, and importlib-resources when it prepares one, and does
    # not ask for them itself; so does sentencepiece with protobuf.
    assert core - used <= {"array-record", "importlib-resources", "protobuf", "tensorflow", "tensorflow-cpu"}


def test_the_help_of_the_command_line_names_every_command():
    done = subprocess.run([sys.executable, "-m", "t2i_jax.cli", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for command in ("train", "demo", "sample", "eval", "data", "export"):
        assert f"  {command}" in done.stdout


def test_the_console_script_is_the_command_line():
    (script,) = [e for e in metadata.entry_points(group="console_scripts") if e.name == "t2i"]
    assert script.value == "t2i_jax.cli:main"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _third_party(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"t2i_jax"}
