from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.adbd.shell import FrameReader, ShellRequest, frame, parse_destination


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
