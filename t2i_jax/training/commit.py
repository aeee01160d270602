"""The moment in which a checkpoint begins to count.

Orbax writes the files of a step into ``<step>.orbax-checkpoint-tmp`` and, when every process has written its own, asks
the temporary path to make that the step's directory. ``SealedPath`` is such a path: it writes the manifest of digests
first and renames then, so a directory with a step's name always has its manifest. Orbax's own path would rename alone.

    writer = Writer()
    writer.start(directory / str(step), Parts(train=..., ema=..., meta=...))
    writer.finish()
"""

import asyncio
import os
import shutil
import time
from pathlib import Path

import orbax.checkpoint as ocp
from etils import epath

from t2i_jax.training.manifest import check, sync_directory, write_manifest

ITEMS = ("train", "ema", "meta")
"""What a checkpoint consists of, each a folder in the step's directory."""
TRASH = "trash"
"""Folder beside the steps for those that are on their way out: none is ever seen half deleted."""
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


def clear(directory: Path) -> None:
    """Remove what killed and failed saves left; a step that lacked nothing but its name gets it."""
    for left in directory.glob(f"*{_UNFINISHED}*"):
        final = directory / left.name.split(".")[0]
        if final.name.isdigit() and not final.exists() and not check(left):
            os.rename(left, final)
            sync_directory(directory)
        else:
            shutil.rmtree(left, ignore_errors=True)
    trash = directory / TRASH
    trash.mkdir(exist_ok=True)  # while there is room for it
    for gone in trash.iterdir():
        shutil.rmtree(gone, ignore_errors=True)


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


class Writer:
    """Writes sealed steps in the background, one at a time. One whose save has failed is not to be used again."""

    def __init__(self):
        directly = ocp.options.AsyncOptions(create_directories_asynchronously=False)  # else a full disk is waited for
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
        self._checkpointer.save(step, args=parts)

    def finish(self) -> None:
        """Wait until the step is committed. Raises what went wrong, when nothing writes any more."""
        try:
            self._checkpointer.wait_until_finished()
        finally:
            self._items.settle()

    def close(self) -> None:
        self._checkpointer.close()
