"""The moment in which a checkpoint begins to count.

Orbax writes the files of a step into ``<step>.orbax-checkpoint-tmp`` and, when every process has written its own, asks
the temporary path to make that the step's directory. ``SealedPath`` is such a path: it writes the manifest of digests
first and renames then, so a directory with a step's name always has its manifest. Orbax's own path would rename alone.

    writer = Writer()
    writer.start(directory / str(step), Parts(train=..., ema=..., meta=...))
    writer.finish()
"""

import asyncio
import contextlib
import errno
import itertools
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from etils import epath

from t2i_jax.parallel.hosts import exchange, forget, leader
from t2i_jax.training.manifest import OtherForm, check, sync_directory, write_manifest

ITEMS = ("train", "ema", "meta")
"""What a checkpoint consists of, each a folder in the step's directory."""
TRASH = "trash"
"""Folder beside the steps for those that are on their way out: none is ever seen half deleted."""
LONGEST = 1200
"""Seconds that a save may take; processes wait so long for one that is alive and still writes."""
_SMALL = 2**16
"""Bytes that the directories and descriptions of a save take at most, a good deal more than they do."""
_AFTER = 3
"""Number of the meetings of a save."""
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)
_UNFINISHED = f"{ocp.path.atomicity.TMP_DIR_SUFFIX}"


class SealedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A step's directory while it is written; ``finalize`` seals it with a manifest and gives it the step's name."""

    async def finalize(self) -> None:
        await asyncio.to_thread(commit, Path(self.get()), Path(self.get_final()))


def commit(written: Path, final: Path) -> None:
    """Seal the files in ``written`` and make them the step ``final``, in place of what has that name."""
    write_manifest(written, int(final.name))
    if final.exists():
        discard(final)
    os.rename(written, final)
    sync_directory(final.parent)


def discard(step: Path) -> None:
    """Take a step away: out of sight in one move, then file by file."""
    trash = step.parent / TRASH
    trash.mkdir(exist_ok=True)
    gone = trash / f"{step.name}-{time.time_ns()}"
    os.rename(step, gone)
    shutil.rmtree(gone, ignore_errors=True)


class NoRename(ValueError):
    """The file system can't do what a commit is."""


def check_renames(directory: Path) -> None:
    """Do in ``directory`` what a commit does: give a folder with files another name. Raises NoRename.

    A disk that is full, or that fails, is passed over: the saves say so, and are tried again.
    """
    with contextlib.ExitStack() as after:
        try:
            probe = Path(tempfile.mkdtemp(suffix=_UNFINISHED, dir=directory))
            renamed = probe.with_name(f"{probe.name}-renamed")
            for left in (probe, renamed):
                after.callback(shutil.rmtree, left, ignore_errors=True)
            (probe / "folder").mkdir()
            (probe / "folder" / "file").write_bytes(b"here")
        except OSError:
            return
        try:
            os.rename(probe, renamed)
        except OSError as error:
            if error.errno not in _PASSING:
                raise NoRename(
                    f"the file system of {directory} can't rename folders ({error.strerror}), which is how a "
                    "checkpoint is committed. A bucket without a hierarchical namespace can't: make one that has it, "
                    "or train into another directory"
                ) from error


def clear(directory: Path) -> None:
    """Remove what killed and failed saves left; a step that lacked nothing but its name gets it."""
    for left in directory.glob(f"*{_UNFINISHED}*"):
        final = directory / left.name.split(".")[0]
        if final.name.isdigit() and not final.exists() and _whole(left):
            os.rename(left, final)
            sync_directory(directory)
        else:
            shutil.rmtree(left, ignore_errors=True)
    trash = directory / TRASH
    trash.mkdir(exist_ok=True)  # while there is room for it
    for gone in trash.iterdir():
        shutil.rmtree(gone, ignore_errors=True)


def _whole(left: Path) -> bool:
    """Whether every file is as it was written; not so where that can't be known, for it never counted."""
    try:
        return not check(left)
    except (OSError, OtherForm):
        return False


class Items(ocp.CompositeCheckpointHandler):
    """Orbax's writer of named items that also knows what is still being written when one of them has failed."""

    _writing: tuple[ocp.Future, ...] = ()

    async def async_save(self, directory: epath.Path, args: "Parts") -> list[ocp.Future]:
        self._writing = tuple(await super().async_save(directory, args) or ())
        return list(self._writing)

    def settle(self) -> None:
        """Wait until nothing is written any more."""
        for item in self._writing:
            try:
                item.result()
            except Exception:  # noqa: BLE001  the checkpointer raises the first one, which says it for all
                continue


@ocp.args.register_with_handler(Items, for_save=True, for_restore=True)
class Parts(ocp.args.Composite):
    """What is saved, by the name of the item."""


class Meetings:
    """Where the processes of a save wait for each other: before it, when all have written, and when it is committed.

    Orbax waits at barriers, where those that could write wait in vain for one that could not, until the save's time is
    over. Here each says how it went, and one that has failed comes all the same: one word ends the save for all. Before
    a save the first process looks for room, for where it makes the directories Orbax waits without end.
    """

    _saves = itertools.count()

    def __init__(self):
        self._name, self._next = "", _AFTER

    def begin(self, directory: Path) -> None:
        """Before a save into a new directory beside ``directory``, in every process. Raises SaveStopped."""
        before, self._name, self._next = self._name, f"t2i/save/{next(self._saves)}", 0
        if jax.process_count() > 1:
            if before and leader():
                forget(before)
            self._meet(_room(directory) if leader() else "", 1000 * LONGEST)

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """In place of Orbax's barrier, which has its own name for the place."""
        self._meet("", timeout_ms)

    def tell(self, fault: str) -> None:
        """Tell the others why this process does not go on with a save that is not over yet."""
        if jax.process_count() > 1 and self._next < _AFTER:
            with contextlib.suppress(SaveStopped):
                self._meet(fault, 1000 * LONGEST)

    def _meet(self, word: str, timeout_ms: int) -> None:
        place, self._next = self._next, self._next + 1
        words = exchange(f"{self._name}/{place}", word, timeout_ms)
        if any(words):
            self._next = _AFTER
            raise SaveStopped("; ".join(f"process {i}: {fault}" for i, fault in enumerate(words) if fault))


def _room(directory: Path) -> str:
    """What keeps a directory with a small file from being made beside ``directory``; "" if nothing does."""
    probe = directory.with_name(f"{directory.name}{_UNFINISHED}-room")
    try:
        probe.mkdir()
        (probe / "file").write_bytes(bytes(_SMALL))
    except OSError as error:
        return reason(error)
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    return ""


class SaveStopped(OSError):
    """A process could not write its part; the message says which, and why."""


class Writer:
    """Writes sealed steps in the background, one at a time. One whose save has failed is not to be used again."""

    def __init__(self):
        self._meetings = Meetings()
        directly = ocp.options.AsyncOptions(
            timeout_secs=LONGEST,
            create_directories_asynchronously=False,  # else a full disk is waited for
            barrier_sync_fn=self._meetings,
        )
        self._items = Items(*ITEMS, composite_options=ocp.CompositeOptions(async_options=directly))
        self._checkpointer = ocp.AsyncCheckpointer(
            self._items,
            async_options=directly,
            file_options=ocp.options.FileOptions(skip_sync_file_validations=True),  # a step that is there stays so long
            checkpoint_metadata_store=ocp.metadata.metadata_store(enable_write=True, blocking_write=True),
            temporary_path_class=SealedPath,
        )

    def start(self, step: Path, parts: Parts) -> None:
        """Copy the arrays and begin to write them; they may be donated as soon as this returns."""
        self._meetings.begin(step)
        try:
            self._checkpointer.save(step, args=parts)
        except OSError as error:
            self._meetings.tell(reason(error))
            raise

    def finish(self) -> None:
        """Wait until the step is committed. Raises what went wrong, here or in another process, when nothing writes
        any more."""
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            self._meetings.tell(reason(error))
            raise
        finally:
            self._items.settle()

    def close(self) -> None:
        self._checkpointer.close()


def reason(error: BaseException) -> str:
    """What kept a save from being written, without the many paths that TensorStore names."""
    if isinstance(error, SaveStopped):
        return str(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = error.errno if isinstance(error, OSError) else int(code[1]) if code else None
    return os.strerror(number) if number else f"{type(error).__name__}: {str(error)[:300]}"
