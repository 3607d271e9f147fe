from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.adbd import packets
from mobifarm.simulator.adbd.shell import (
    EXIT,
    FrameReader,
    ShellRequest,
    ShellSettings,
    frame,
    parse_destination,
    serve_shell,
)
from mobifarm.simulator.adbd.stream import Stream


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("shell:", ShellRequest("", framed=False, terminal=True)),
        ("shell:echo a:b", ShellRequest("echo a:b", framed=False, terminal=False)),
        ("shell,v2,raw:id", ShellRequest("id", framed=True, terminal=False)),
        ("shell,v2,TERM=xterm-256color,pty:id", ShellRequest("id", True, True, "xterm-256color")),
        ("shell,v2,TERM=bad name;x,raw:id", ShellRequest("id", True, False, "")),
        ("exec:cat", ShellRequest("cat", framed=False, terminal=False)),
        ("shell", None),
        ("sync:", None),
    ],
)
def test_destinations(destination: str, expected: ShellRequest | None) -> None:
    assert parse_destination(destination) == expected


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50)), max_size=8),
    st.lists(st.integers(1, 60), min_size=1),
)
def test_frames_survive_any_cuts(frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
    wire = b"".join(frame(kind, data) for kind, data in frames)
    reader = FrameReader()
    found: list[tuple[int, bytes]] = []
    position, turn = 0, 0
    while position < len(wire):
        size = sizes[turn % len(sizes)]
        found += reader.feed(wire[position : position + size])
        position, turn = position + size, turn + 1
    assert found == frames


class RecordingLink:
    """A link to a host that acknowledges nothing."""

    max_payload = 4096

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def send(self, command: int, arg0: int, arg1: int, payload: bytes | bytearray | memoryview = b"") -> None:
        self.sent.append((command, bytes(payload)))


class EndedChild:
    """A process that wrote nothing and has exited with code 7."""

    stdin = stderr = None

    def __init__(self) -> None:
        self.stdout = self
        self.exited = asyncio.get_running_loop().create_future()
        self.exited.set_result(7)

    async def read(self, size: int) -> bytes:
        return b""

    def close(self) -> None:
        pass


class EndedChildren:
    def start(self, *_arguments: Any, **_options: Any) -> Any:
        return EndedChild()


async def test_a_stream_ends_without_waiting_for_the_acknowledgement_of_the_exit_code() -> None:
    link = RecordingLink()
    children: Any = EndedChildren()
    request = ShellRequest("exit 7", framed=True, terminal=False)
    async with asyncio.timeout(30):
        await serve_shell(Stream(link, 1, 2, lambda _: None), request, ShellSettings("sh", "/"), children)
    assert link.sent == [(packets.OKAY, b""), (packets.WRTE, frame(EXIT, b"\x07")), (packets.CLSE, b"")]
