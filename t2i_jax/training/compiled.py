"""What the TPU compiler made of a step: the program's text and its memory, kept on disk by what went in.

    compiled(program.step, arguments, "v5e:16x16", keep=Path("build/plan"))

A compilation takes minutes. With ``keep`` its result is a file named by the digest of the program, the topology and the
versions: a plan that is made again, by newer counting or after a change elsewhere, compiles nothing.
"""

import gzip
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import jax

_VERSIONS = ("jax", "jaxlib", "libtpu")
_PROGRAM = "*.after_codegen.txt"
"""What the TPU compiler names its last word on a program, in the directory that it is told to write to."""


@dataclass(frozen=True)
class Compiled:
    """One program. Bytes are of one chip, unless said."""

    text: str
    """The scheduled program."""
    arguments: int
    outputs: int
    aliased: int
    """Of the outputs, those in the place of arguments that the step gives away."""
    temporaries: int
    code: int
    seconds: float
    """That the compiler took, lowering included."""
    host: int
    """Largest memory of the process that compiled, in bytes."""

    @property
    def peak(self) -> int:
        """Bytes that the program needs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def compiled(
    step: Callable, arguments: tuple, where: str, keep: Path | None = None, options: Mapping[str, str] | None = None
) -> Compiled:
    """Lower and compile the jitted ``step`` for these shapes.

    ``where`` names what the program's text leaves open: topology and the step's own options. ``options``: the
    compiler's, in place of the step's own. Raises what the compiler raises.
    """
    options = dict(options or {})
    start = time.monotonic()
    lowered = step.lower(*arguments)
    path = keep and keep / f"{_digest(lowered, f'{where} {options}')}.json.gz"
    if path and path.exists():
        return Compiled(**json.loads(gzip.decompress(path.read_bytes())))
    with TemporaryDirectory() as folder:
        done = lowered.compile(options | {"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        seconds, stats = time.monotonic() - start, done.memory_analysis()
        # JAX asks for the program as a message, which it can't read where a TPU's has asynchronous updates
        dumped = max(Path(folder).glob(_PROGRAM), key=lambda file: file.stat().st_size, default=None)
        text = dumped.read_text() if dumped else done.as_text()
    result = Compiled(
        text, stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.alias_size_in_bytes,
        stats.temp_size_in_bytes, stats.generated_code_size_in_bytes, seconds, _largest(),
    )  # fmt: skip
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(gzip.compress(json.dumps(asdict(result)).encode()))
        part.replace(path)
    return result


def _digest(lowered: jax.stages.Lowered, where: str) -> str:
    versions = " ".join(f"{name} {version(name)}" for name in _VERSIONS)
    return hashlib.sha256("\n".join((where, versions, lowered.as_text())).encode()).hexdigest()[:32]


def _largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
