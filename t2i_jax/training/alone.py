"""One training at a time in a stage's directory, for two would overwrite each other's files.

    with alone(paths.lock): ...

The lock is the kernel's (flock), so it ends with the process, however that ends; the file stays and means nothing,
but where a training is refused before it has written anything else.
"""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from t2i_jax.training.run import make_folder

EXIT_AT_WORK = 73
"""Exit code of a training that found another one at work in its directory. The supervisor does not take it for final:
the other process may be about to die."""
_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class AtWork(RuntimeError):
    """Another training is at work in the directory."""


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` inside, which is made where there is none. Raises AtWork where another process holds it,
    and ValueError where its folder can't be made; a file system that knows no locks has none."""
    make_folder(path.parent)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AtWork(
                f"another training is at work in {path.parent}: wait until it ends, or end it (`fuser {path}`, on its "
                f"machine, names its process). If its machine is gone and the file server keeps its lock, delete {path}"
            ) from error
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                if [entry.name for entry in path.parent.iterdir()] == [path.name]:  # refused before all else
                    path.unlink()
                    path.parent.rmdir()
            raise
