"""``shell:``, ``shell,v2…:`` and ``exec:`` services.

The shell protocol (v2) frames each stream as ``id u8, length u32, data``; the last frame is the exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mobifarm.simulator.adbd.processes import Child, Children, Descriptor
from mobifarm.simulator.adbd.stream import Stream, StreamClosedError

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
EXIT: Final = 3
CLOSE_STDIN: Final = 4
WINDOW_SIZE: Final = 5

_FRAME = struct.Struct("<BI")
_TERMINAL_NAME = re.compile(r"[A-Za-z0-9._+-]{1,64}")


@dataclass(frozen=True, slots=True)
class ShellRequest:
    """What a destination asks for; an empty command is an interactive shell."""

    command: str
    framed: bool
    terminal: bool
    terminal_name: str = ""


@dataclass(frozen=True, slots=True)
class ShellSettings:
    """How this phone starts a shell."""

    shell: str
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)


def parse_destination(destination: str) -> ShellRequest | None:
    """Parse ``shell[,v2][,raw|pty][,TERM=…]:COMMAND`` or ``exec:COMMAND``; None for other services."""
    head, separator, command = destination.partition(":")
    kind, *options = head.split(",")
    if not separator or kind not in ("shell", "exec"):
        return None
    if kind == "exec":
        return ShellRequest(command, framed=False, terminal=False)
    terminal_name = ""
    for option in options:
        if option.startswith("TERM=") and _TERMINAL_NAME.fullmatch(option[5:]):
            terminal_name = option[5:]
    terminal = "pty" in options or ("raw" not in options and not command)
    return ShellRequest(command, "v2" in options, terminal, terminal_name)


def frame(kind: int, data: bytes) -> bytes:
    """One frame of the shell protocol."""
    return _FRAME.pack(kind, len(data)) + data


class FrameReader:
    """Splits the host's bytes into frames of the shell protocol. Pure."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes | bytearray) -> list[tuple[int, bytes]]:
        """The frames (id, data) that ``data`` completes."""
        self._waiting += data
        frames: list[tuple[int, bytes]] = []
        start = 0
        while len(self._waiting) - start >= _FRAME.size:
            kind, length = _FRAME.unpack_from(self._waiting, start)
            end = start + _FRAME.size + length
            if end > len(self._waiting):
                break
            frames.append((kind, bytes(self._waiting[start + _FRAME.size : end])))
            start = end
        del self._waiting[:start]
        return frames


async def serve_shell(
    stream: Stream, request: ShellRequest, settings: ShellSettings, children: Children
) -> None:
    """Run a command for a host until its outputs end; hang it up where the host goes away first."""
    environment = dict(settings.environment)
    if request.terminal_name:
        environment["TERM"] = request.terminal_name
    arguments = [settings.shell, "-c", request.command] if request.command else [settings.shell, "-"]
    child = children.start(
        arguments,
        environment=environment,
        directory=settings.directory,
        terminal=request.terminal,
        separate_stderr=request.framed and not request.terminal,
    )
    stream.accept()
    try:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(_feed(stream, child, framed=request.framed))
            outputs = [group.create_task(_drain(stream, child.stdout, STDOUT if request.framed else None))]
            if child.stderr is not None:
                outputs.append(group.create_task(_drain(stream, child.stderr, STDERR)))
            await asyncio.wait(outputs)
            exit_code = await child.exited
            if request.framed:
                # A shell reports a signal as 128 + its number; one byte is all the protocol has.
                code = exit_code if exit_code >= 0 else 128 - exit_code
                await stream.write(frame(EXIT, bytes([code & 0xFF])))
            feeding.cancel()
            stream.close()
    except* StreamClosedError:
        child.hang_up()
    finally:
        child.close()


async def _feed(stream: Stream, child: Child, *, framed: bool) -> None:
    """Host → process, until the host closes the stream (StreamClosedError)."""
    frames = FrameReader()
    while True:
        data = await stream.read()
        for kind, part in frames.feed(data) if framed else [(STDIN, bytes(data))]:
            if kind == STDIN:
                with contextlib.suppress(BrokenPipeError):
                    await child.stdin.write(part)
            elif kind == CLOSE_STDIN and child.stdin is not child.stdout:
                child.stdin.close()
            elif kind == WINDOW_SIZE and child.stdin is child.stdout:
                _resize(child, part)


def _resize(child: Child, text: bytes) -> None:
    """``ROWSxCOLUMNS,WIDTHxHEIGHT``; anything else is ignored."""
    match = re.fullmatch(rb"(\d{1,4})x(\d{1,4}),(\d{1,5})x(\d{1,5})\0?", text)
    if match:
        child.stdin.set_window_size(*(min(int(number), 0xFFFF) for number in match.groups()))


async def _drain(stream: Stream, source: Descriptor, kind: int | None) -> None:
    """Process → host, until the process's end is closed."""
    while data := await source.read(stream.max_payload - _FRAME.size):
        await stream.write(data if kind is None else frame(kind, data))
