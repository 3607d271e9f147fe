"""Shell protocol version 2: stdout, stderr and the exit code of a command, in frames on one stream.

Frame: one byte of kind, the payload's size as a little-endian 32-bit word, the payload
(AOSP, shell_protocol.h).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Final

from mobifarm.controller.errors import DeviceError, LinkLost
from mobifarm.controller.transport.interface import ByteStream, ShellResult
from mobifarm.controller.transport.mux import StreamTimeoutError

_STDOUT: Final = 1
_STDERR: Final = 2
_EXIT: Final = 3
_CLOSE_STDIN: Final = 4
_HEADER: Final = struct.Struct("<BI")
_OUTPUT_LIMIT_BYTES: Final = 64 << 20


class ShellFrames:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take some bytes; yields the frames that they complete as (kind, payload)."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._buffer, start)
            end = start + _HEADER.size + size
            if len(self._buffer) < end:
                break
            yield kind, bytes(self._buffer[start + _HEADER.size : end])
            start = end
        del self._buffer[:start]


def run_command(stream: ByteStream, name: str, command: str, timeout_s: float) -> ShellResult:
    """Collect the outcome of a command that was started on ``stream``; closes the stream.

    Closing it early makes the phone hang up on the command (SIGHUP).

    Raises:
        DeviceError: the command did not end in time, wrote more than 64 MiB, or ended without an exit code.
        LinkLost: the link went away.
    """
    deadline = time.monotonic() + timeout_s
    frames = ShellFrames()
    output: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: []}
    size_bytes = 0
    try:
        try:
            # Without this a command that reads its standard input would wait for ever.
            stream.write(_HEADER.pack(_CLOSE_STDIN, 0), timeout_s)
        except (LinkLost, StreamTimeoutError):
            raise
        except DeviceError:
            # A quick command's stream may have ended before the write; its outcome waits to be read.
            pass
        while data := stream.read(max(0.0, deadline - time.monotonic())):
            size_bytes += len(data)
            if size_bytes > _OUTPUT_LIMIT_BYTES:
                raise DeviceError(
                    f"{name}: `{_shortened(command)}` wrote more than 64 MiB; redirect its output to a file"
                )
            for kind, payload in frames.feed(data):
                if kind == _EXIT and payload:
                    return ShellResult(
                        exit_code=payload[0],
                        stdout=b"".join(output[_STDOUT]).decode(errors="replace"),
                        stderr=b"".join(output[_STDERR]).decode(errors="replace"),
                    )
                if kind in output:
                    output[kind].append(payload)
    except StreamTimeoutError as error:
        raise DeviceError(f"{name}: `{_shortened(command)}` did not end within {timeout_s:g} s") from error
    finally:
        stream.close()
    raise DeviceError(f"{name}: `{_shortened(command)}` ended without an exit code")


def _shortened(command: str, length: int = 80) -> str:
    first, *more = command.strip().splitlines() or [""]
    return first[: length - 1] + "…" if len(first) >= length or more else first
