"""What the farm needs from a link to a phone. Two implementations: ``direct`` and ``server``.

All methods may be called from several threads at once, all have deadlines, and all raise
:class:`~mobifarm.controller.errors.DeviceError` where the phone or the link is at fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ShellResult:
    """Outcome of a shell command on the phone. Output is untrusted text, decoded with replacement."""

    exit_code: int
    stdout: str
    stderr: str


class ByteStream(Protocol):
    """A full-duplex byte stream to a socket on the phone."""

    def read(self, timeout_s: float | None = None) -> bytes:
        """Some bytes; b"" at the end of the stream."""
        ...

    def write(self, data: bytes, timeout_s: float | None = None) -> None: ...

    def close(self) -> None: ...


class Forward(Protocol):
    """A listening unix socket on the host whose connections end at a socket on the phone."""

    @property
    def path(self) -> Path: ...

    def close(self) -> None: ...


class DeviceTransport(Protocol):
    """An open, authenticated link to one phone."""

    @property
    def address(self) -> str:
        """``tcp:HOST:PORT`` or ``usb:BUS-PORT.PORT``: the physical place of the phone."""
        ...

    def shell(self, command: str, timeout_s: float = 30.0) -> ShellResult: ...

    def push(self, source: Path, target: str, mode: int = 0o644, timeout_s: float = 600.0) -> None:
        """Write a file of the host to a file of the phone; missing folders are made.

        The phone gives group and others the owner's bits of ``mode``: folders have to keep secrets.
        """
        ...

    def push_bytes(self, data: bytes, target: str, mode: int = 0o644, timeout_s: float = 60.0) -> None: ...

    def pull_bytes(self, source: str, timeout_s: float = 60.0) -> bytes: ...

    def open_stream(self, destination: str, timeout_s: float = 10.0) -> ByteStream:
        """Open ``tcp:PORT``, ``localabstract:NAME`` or ``localfilesystem:PATH`` on the phone."""
        ...

    def forward(self, destination: str, socket_path: Path) -> Forward:
        """Listen on ``socket_path`` (mode 0600) and connect every client to ``destination``."""
        ...

    @property
    def loss_reason(self) -> str:
        """Why the link is lost or closed; "" while it is up."""
        ...

    def wait_closed(self, timeout_s: float | None = None) -> bool:
        """Block until the link is lost or closed; False at the timeout."""
        ...

    def close(self) -> None: ...
