"""An error after the first steps of a process is no wrong call: its input was good a moment ago, and may be again.

    with midrun(lambda: number > 1): ...

So a mount that is gone for a minute, or a file that another program rewrites, does not end with the exit code of what
is hopeless.
"""

import contextlib
from collections.abc import Callable, Iterator

from t2i_jax.data.checks import TooManyBad


class MidrunError(RuntimeError):
    """Something that was well when the training began is not any more: start it again."""


@contextlib.contextmanager
def midrun(under_way: Callable[[], bool]) -> Iterator[None]:
    """Errors of a value or a missing file become MidrunError where ``under_way()``; too many bad examples stay so."""
    try:
        yield
    except TooManyBad:
        raise
    except (ValueError, FileNotFoundError) as error:
        if not under_way():
            raise
        raise MidrunError(f"in mid-run, so starting again may help: {error}") from error
