"""A phone's switches for tests and people: JSON lines over a unix socket of mode 0600.

Request ``{"command": NAME}``; answer ``{"ok": true, "status": {…}}`` or ``{"ok": false, "error": TEXT}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobifarm.simulator.phone import Phone, PhoneError

COMMANDS = (
    "status",
    "unplug",
    "plug",
    "hang",
    "resume",
    "fill_disk",
    "free_disk",
    "heat_up",
    "cool_down",
    "power_off",
    "power_on",
    "reboot",
    "authorise",
)

_LINE_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class PhoneRecord:
    """A running phone as its registry file ``HOME/NAME.json`` describes it; ``pid`` is its launcher.

    A farm that watches HOME connects to what is ``plugged``; ``plugs`` grows whenever that begins anew.
    """

    name: str
    serial: str
    profile: str
    address: str
    control: str
    pid: int
    sandboxed: bool
    plugged: bool = True  # whether a host can connect: cable in, power on
    plugs: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PhoneRecord:
        """Raises TypeError or ValueError where the text is no record."""
        return cls(**json.loads(text))


@contextlib.contextmanager
def _short_address(path: Path) -> Iterator[str]:
    """An address for ``path`` below the 108 bytes that a unix socket's may have."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class ControlServer:
    """Serves one phone's control socket."""

    def __init__(self, phone: Phone, path: Path) -> None:
        self._phone = phone
        self._path = path
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen at the path, replacing a socket that an earlier run left."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short_address(self._path) as address:
            listener.bind(address)
        self._path.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LINE_MAX)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            command = json.loads(line)["command"]
        except (ValueError, TypeError, KeyError):
            return {"ok": False, "error": 'a request looks like {"command": "status"}'}
        if command not in COMMANDS:
            return {"ok": False, "error": f"unknown command; choose one of: {', '.join(COMMANDS)}"}
        try:
            if command != "status":
                outcome = getattr(self._phone, command)()
                if outcome is not None:
                    await outcome
        except PhoneError as error:
            return {"ok": False, "error": str(error)}
        return {"ok": True, "status": self._phone.status()}


class PhoneControl:
    """Client of a phone's control socket; every call is one connection. Safe from several threads."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def request(self, command: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """The phone's status after the command. Raises :class:`PhoneError`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            try:
                with _short_address(self._path) as address:
                    connection.connect(address)
                connection.sendall(json.dumps({"command": command}).encode() + b"\n")
                with connection.makefile("rb") as answers:
                    answer = json.loads(answers.readline(_LINE_MAX))
            except (OSError, ValueError) as error:
                raise PhoneError(
                    f"the phone at {self._path} does not answer ({error}); is it running?"
                ) from error
        if not answer["ok"]:
            raise PhoneError(answer["error"])
        status: dict[str, Any] = answer["status"]
        return status

    def status(self) -> dict[str, Any]:
        """name, serial, address, powered, plugged, hung, links, pending_keys, …"""
        return self.request("status")

    def unplug(self) -> None:
        """Pull the cable: links are cut, the port is closed, the phone runs on."""
        self.request("unplug")

    def plug(self) -> None:
        """Connect the cable at the same port."""
        self.request("plug")

    def hang(self) -> None:
        """The link stays open and nothing answers."""
        self.request("hang")

    def resume(self) -> None:
        """End a hang."""
        self.request("resume")

    def fill_disk(self) -> None:
        """From now on no file of the phone can grow."""
        self.request("fill_disk")

    def free_disk(self) -> None:
        """End a full disk."""
        self.request("free_disk")

    def heat_up(self) -> None:
        """It has lain in the sun; the sensors show it within a second."""
        self.request("heat_up")

    def cool_down(self) -> None:
        """It is as warm as the air again."""
        self.request("cool_down")

    def power_off(self) -> None:
        """Kill all of the phone's processes."""
        self.request("power_off")

    def power_on(self) -> None:
        """Boot; returns when adbd listens."""
        self.request("power_on")

    def authorise(self) -> None:
        """Accept the keys on the phone's screen; waits for the first."""
        self.request("authorise")
