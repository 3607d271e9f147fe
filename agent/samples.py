"""An attempt's telemetry: kept on the phone until the farm has it, so that a pulled cable loses no sample."""

from __future__ import annotations

import hashlib
import logging
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from mobifarm.agent.files import sync_folder, write_atomically
from mobifarm.v1.agent_pb2 import TelemetryBatch, TelemetryLog

BATCHES_LIMIT: Final = 3600  # an hour at ten samples a second
_SUFFIX: Final = ".samples"
_log = logging.getLogger(__name__)


class SampleLog:
    """Batches in order, compressed, for several threads; beyond the limit the oldest are dropped."""

    def __init__(self, limit: int = BATCHES_LIMIT) -> None:
        self._batches: deque[bytes] = deque()
        self._sizes: deque[int] = deque()
        self._limit = limit
        self._first = 0  # number of the oldest batch that is kept
        self._dropped = 0
        self._lock = threading.Lock()

    def append(self, batch: TelemetryBatch) -> None:
        """Keep one more."""
        data = zlib.compress(batch.SerializeToString(), 1)
        with self._lock:
            self._batches.append(data)
            self._sizes.append(len(batch.samples))
            if len(self._batches) > self._limit:
                self._batches.popleft()
                self._dropped += self._sizes.popleft()
                self._first += 1

    @property
    def end(self) -> int:
        """Number that the next batch will have."""
        with self._lock:
            return self._first + len(self._batches)

    @property
    def dropped(self) -> int:
        """Samples that were not kept."""
        with self._lock:
            return self._dropped

    def since(self, number: int, limit: int) -> tuple[int, list[TelemetryBatch]]:
        """At most ``limit`` batches from ``number`` on, and the number to go on with."""
        with self._lock:
            begin = max(number - self._first, 0)
            found = [self._batches[i] for i in range(begin, min(begin + limit, len(self._batches)))]
            following = self._first + begin + len(found)
        return following, [TelemetryBatch.FromString(zlib.decompress(data)) for data in found]

    def to_bytes(self) -> bytes:
        """All that is kept, as :func:`read_log` takes it."""
        with self._lock:
            return TelemetryLog(batches=self._batches).SerializeToString()


def read_log(content: bytes) -> list[TelemetryBatch]:
    """What :meth:`SampleLog.to_bytes` wrote. Raises ValueError for anything else."""
    try:
        return [
            TelemetryBatch.FromString(zlib.decompress(data))
            for data in TelemetryLog.FromString(content).batches
        ]
    except (DecodeError, zlib.error) as error:
        raise ValueError("no telemetry") from error


class SampleFiles:
    """Telemetry of finished attempts beside their results. A damaged file loses samples, no result.

    Args:
        held: ids of the attempts that the journal holds; files of others are removed.
    """

    def __init__(self, folder: Path, held: Iterable[str]) -> None:
        self._folder = folder
        wanted = {self._path(attempt_id) for attempt_id in held}
        for path in folder.glob(f"*{_SUFFIX}"):
            if path not in wanted:
                path.unlink()

    def write(self, attempt_id: str, log: SampleLog) -> None:
        """Keep an attempt's samples."""
        try:
            write_atomically(self._path(attempt_id), log.to_bytes())
        except OSError:
            _log.exception("the telemetry of attempt %s is not on disk", attempt_id)

    def read(self, attempt_id: str) -> Sequence[TelemetryBatch]:
        """What is kept of an attempt."""
        try:
            return read_log(self._path(attempt_id).read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError):
            _log.exception("the telemetry of attempt %s cannot be read", attempt_id)
            return []

    def remove(self, attempt_id: str) -> None:
        """Forget an attempt's samples."""
        try:
            self._path(attempt_id).unlink()
        except FileNotFoundError:
            return
        sync_folder(self._folder)

    def _path(self, attempt_id: str) -> Path:
        return self._folder / (hashlib.sha256(attempt_id.encode()).hexdigest()[:32] + _SUFFIX)
