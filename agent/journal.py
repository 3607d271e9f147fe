"""Finished results on the phone's disk until the farm has acknowledged them.

One file per attempt: a JSON line with sizes and a checksum, then the serialised request and result. A file
that a crash or a bad block has damaged is put aside and logged; the farm then runs the attempt anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from mobifarm.agent.files import sync_folder, write_atomically
from mobifarm.v1.agent_pb2 import EditResult, RunRequest

_FORMAT = 1
_SUFFIX = ".result"
_log = logging.getLogger(__name__)


class DamagedEntryError(ValueError):
    """A journal file does not hold what was written."""


class Journal:
    """Results by attempt id in ``folder``, which must exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, request: RunRequest, result: EditResult) -> None:
        """Keep a result; when this returns, it survives a crash. Raises OSError where the disk is full."""
        write_atomically(self._path(request.attempt_id), encode(request, result))

    def remove(self, attempt_id: str) -> None:
        """Forget a result; an unknown one is already forgotten."""
        try:
            self._path(attempt_id).unlink()
        except FileNotFoundError:
            return
        sync_folder(self._folder)

    def load(self) -> Iterator[tuple[RunRequest, EditResult]]:
        """All results that are kept, oldest first."""
        for unfinished in self._folder.glob("*.tmp"):
            unfinished.unlink()
        for path in sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda file: file.stat().st_mtime_ns):
            try:
                yield decode(path.read_bytes())
            except DamagedEntryError as error:
                _log.error("journal entry %s is damaged (%s) and put aside", path.name, error)
                path.rename(path.with_suffix(".damaged"))

    def _path(self, attempt_id: str) -> Path:
        # Ids are the farm's words; their hash is a file name whatever they hold.
        return self._folder / (hashlib.sha256(attempt_id.encode()).hexdigest()[:32] + _SUFFIX)


def encode(request: RunRequest, result: EditResult) -> bytes:
    """One journal entry."""
    first, second = request.SerializeToString(), result.SerializeToString()
    header = {
        "format": _FORMAT,
        "attempt_id": request.attempt_id,
        "request_bytes": len(first),
        "sha256": hashlib.sha256(first + second).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + first + second


def decode(content: bytes) -> tuple[RunRequest, EditResult]:
    """Read what ``encode`` wrote; raises DamagedEntryError for anything else."""
    line, _, body = content.partition(b"\n")
    try:
        header = json.loads(line)
        size, checksum, version = header["request_bytes"], header["sha256"], header["format"]
    except (ValueError, KeyError, TypeError):
        raise DamagedEntryError("no header") from None
    if version != _FORMAT:
        raise DamagedEntryError(f"format {version} instead of {_FORMAT}")
    if hashlib.sha256(body).hexdigest() != checksum or not isinstance(size, int):
        raise DamagedEntryError("wrong checksum")
    try:
        return RunRequest.FromString(body[:size]), EditResult.FromString(body[size:])
    except DecodeError:
        raise DamagedEntryError("not a result") from None
