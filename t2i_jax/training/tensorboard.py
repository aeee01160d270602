"""Scalars as TensorBoard reads them, one event file a process.

Written here and not by tensorboardX's SummaryWriter, whose background thread dies of a full disk and then lets the
training wait for it for ever. The format is TFRecord's: length, its checksum, the event, its checksum.
"""

import os
import socket
import struct
import time
from pathlib import Path

from t2i_jax.training.appender import Appender


class Events:
    """The event file of a training that goes on after step ``start``: what another wrote beyond it is hidden."""

    def __init__(self, directory: Path, start: int):
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        directory.mkdir(parents=True, exist_ok=True)
        self._event = Event
        self._file = Appender(directory / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}")
        self._add(file_version="brain.Event:2")
        self._add(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(step=step, summary=scalar(name, value))

    def close(self) -> None:
        self._file.close()

    def _add(self, **fields) -> None:
        from tensorboardX.record_writer import masked_crc32c

        event = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))
        checks = (struct.pack("<I", masked_crc32c(data)) for data in (length, event))
        self._file.write(length + next(checks) + event + next(checks))
