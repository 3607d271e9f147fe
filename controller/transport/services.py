"""What every link can do once it can open a stream to a service of the phone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from mobifarm.controller.errors import UserError
from mobifarm.controller.transport.file_sync import receive_file, send_file
from mobifarm.controller.transport.forwarding import SocketForward
from mobifarm.controller.transport.interface import ByteStream, ShellResult
from mobifarm.controller.transport.shell import run_command

_OPEN_TIMEOUT_S: Final = 10.0
_PULL_LIMIT_BYTES: Final = 256 << 20
_STREAM_SERVICES: Final = ("tcp:", "localabstract:", "localfilesystem:")


class OpenService(Protocol):
    """Opens a stream to a service, e.g. ``sync:``; raises DeviceError where the phone refuses."""

    def __call__(self, service: str, timeout_s: float) -> ByteStream: ...


class PhoneServices:
    """Shell, files, streams and forwards: most of an ``interface.DeviceTransport``."""

    def __init__(self, address: str, open_service: OpenService) -> None:
        self._address = address
        self._open_service = open_service

    @property
    def address(self) -> str:
        return self._address

    def shell(self, command: str, timeout_s: float = 30.0) -> ShellResult:
        stream = self._open_service(f"shell,v2,raw:{command}", min(timeout_s, _OPEN_TIMEOUT_S))
        return run_command(stream, self._address, command, timeout_s)

    def push(self, source: Path, target: str, mode: int = 0o644, timeout_s: float = 600.0) -> None:
        with source.open("rb") as file:
            self._send(file, target, mode, int(source.stat().st_mtime), timeout_s)

    def push_bytes(self, data: bytes, target: str, mode: int = 0o644, timeout_s: float = 60.0) -> None:
        self._send(io.BytesIO(data), target, mode, 0, timeout_s)

    def pull_bytes(self, source: str, timeout_s: float = 60.0) -> bytes:
        stream = self._open_service("sync:", min(timeout_s, _OPEN_TIMEOUT_S))
        try:
            return receive_file(stream, self._address, source, timeout_s, _PULL_LIMIT_BYTES)
        finally:
            stream.close()

    def open_stream(self, destination: str, timeout_s: float = 10.0) -> ByteStream:
        if not destination.startswith(_STREAM_SERVICES):
            raise UserError(
                f"{destination!r} is no socket on a phone; use one of {', '.join(_STREAM_SERVICES)}"
            )
        return self._open_service(destination, timeout_s)

    def forward(self, destination: str, socket_path: Path) -> SocketForward:
        return SocketForward(socket_path, lambda: self.open_stream(destination))

    def _send(self, file: BinaryIO, target: str, mode: int, modified_s: int, timeout_s: float) -> None:
        stream = self._open_service("sync:", min(timeout_s, _OPEN_TIMEOUT_S))
        try:
            send_file(stream, self._address, file, target, mode, modified_s, timeout_s)
        finally:
            stream.close()
