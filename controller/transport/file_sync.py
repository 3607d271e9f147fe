"""Files to and from a phone: ADB's sync protocol, version 1 (AOSP, file_sync_protocol.h)."""

from __future__ import annotations

import struct
import time
from typing import BinaryIO, Final

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.transport.interface import ByteStream

_HEADER: Final = struct.Struct("<4sI")
_DATA_LIMIT_BYTES: Final = 64 * 1024
# Frames are sent together: each packet costs a round trip.
_FRAMES_PER_WRITE: Final = 4
_PATH_LIMIT_BYTES: Final = 1024
_REGULAR_FILE: Final = 0o100000


def send_file(
    stream: ByteStream, name: str, source: BinaryIO, target: str, mode: int, modified_s: int, timeout_s: float
) -> None:
    """Write what ``source`` holds to the file ``target`` of the phone, over a fresh ``sync:`` stream.

    Args:
        stream: left open.
        name: of the phone, for messages.
        source: read to its end.
        target: absolute path on the phone; missing directories are made by the phone.
        mode: permission bits.
        modified_s: modification time, seconds since 1970.
        timeout_s: for the whole transfer.

    Raises:
        DeviceError: the phone could not write the file, or not in time.
        LinkLost: the link went away.
    """
    deadline = time.monotonic() + timeout_s
    path = target.encode()
    if len(path) > _PATH_LIMIT_BYTES:
        raise DeviceError(f"{name}: the path {target!r} is longer than {_PATH_LIMIT_BYTES} bytes")
    request = path + f",{_REGULAR_FILE | mode}".encode()
    batch = bytearray(_HEADER.pack(b"SEND", len(request)) + request)
    frames = 0
    while data := source.read(_DATA_LIMIT_BYTES):
        batch += _HEADER.pack(b"DATA", len(data))
        batch += data
        frames += 1
        if frames == _FRAMES_PER_WRITE:
            stream.write(bytes(batch), _left(deadline))
            batch.clear()
            frames = 0
    batch += _HEADER.pack(b"DONE", modified_s & 0xFFFFFFFF)
    stream.write(bytes(batch), _left(deadline))
    reader = _Reader(stream, name, deadline)
    answer, size = reader.read_header()
    if answer != b"OKAY":
        raise reader.failure(f"could not write {target}", answer, size)


def receive_file(stream: ByteStream, name: str, source: str, timeout_s: float, limit_bytes: int) -> bytes:
    """The content of the file ``source`` of the phone, over a fresh ``sync:`` stream, which is left open.

    Raises:
        DeviceError: the phone could not read the file, not in time, or it is larger than ``limit_bytes``.
        LinkLost: the link went away.
    """
    deadline = time.monotonic() + timeout_s
    path = source.encode()
    stream.write(_HEADER.pack(b"RECV", len(path)) + path, timeout_s)
    reader = _Reader(stream, name, deadline)
    content = bytearray()
    while True:
        answer, size = reader.read_header()
        if answer == b"DONE":
            return bytes(content)
        if answer != b"DATA" or size > _DATA_LIMIT_BYTES:
            raise reader.failure(f"could not read {source}", answer, size)
        if len(content) + size > limit_bytes:
            raise DeviceError(f"{name}: {source} is larger than {limit_bytes} bytes")
        content += reader.read_exactly(size)


class _Reader:
    """Exact reads from a stream, until a deadline."""

    def __init__(self, stream: ByteStream, name: str, deadline: float) -> None:
        self._stream = stream
        self._name = name
        self._deadline = deadline
        self._buffer = bytearray()

    def read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._stream.read(_left(self._deadline))
            if not data:
                raise DeviceError(f"{self._name}: the phone ended a file transfer in the middle")
            self._buffer += data
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_header(self) -> tuple[bytes, int]:
        kind, size = _HEADER.unpack(self.read_exactly(_HEADER.size))
        return kind, size

    def failure(self, what: str, answer: bytes, size: int) -> DeviceError:
        if answer != b"FAIL" or size > _DATA_LIMIT_BYTES:
            return DeviceError(f"{self._name}: {what}: the phone broke the file transfer protocol")
        reason = self.read_exactly(size).decode(errors="replace")
        return DeviceError(f"{self._name}: {what}: {reason}")


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
