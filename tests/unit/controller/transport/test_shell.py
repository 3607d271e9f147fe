"""The frames of shell protocol 2."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.transport.interface import ShellResult
from mobifarm.controller.transport.shell import ShellFrames, run_command


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("<BI", kind, len(payload)) + payload


@given(
    frames=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=30)), max_size=10),
    cuts=st.lists(st.integers(1, 12), min_size=1),
)
def test_frames_survive_any_cutting(frames, cuts) -> None:
    data = b"".join(frame(kind, payload) for kind, payload in frames)
    parser = ShellFrames()
    found = []
    while data:
        cut = cuts[len(data) % len(cuts)]
        found += parser.feed(data[:cut])
        data = data[cut:]
    assert found == frames


def test_outcome_of_a_command(stream_class) -> None:
    stream = stream_class(
        frame(1, b"one ") + frame(2, b"oops\xff"),
        frame(9, b"?") + frame(1, b"two")[:3],
        frame(1, b"two")[3:],
        frame(3, b"\x07"),
    )
    assert run_command(stream, "phone", "true", 5) == ShellResult(7, "one two", "oops\ufffd")
    assert stream.written == frame(4, b"")
    assert stream.closed


def test_command_without_an_exit_code(stream_class) -> None:
    stream = stream_class(frame(1, b"Killed"))
    with pytest.raises(DeviceError, match="phone: `sleep 9` ended without an exit code"):
        run_command(stream, "phone", "sleep 9", 5)
    assert stream.closed


def test_command_that_does_not_end(stream_class) -> None:
    stream = stream_class(frame(1, b"..."), then_silent=True)
    with pytest.raises(DeviceError, match="phone: `sleep 9…` did not end within 5 s"):
        run_command(stream, "phone", "sleep 9\nsleep 9", 5)
    assert stream.closed
