"""The frames of shell protocol 2."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.errors import DeviceError, LinkLost
from mobifarm.controller.transport.interface import ShellResult
from mobifarm.controller.transport.mux import StreamTimeoutError
from mobifarm.controller.transport.packets import CLSE, OKAY, OPEN, WRTE, Packet
from mobifarm.controller.transport.shell import ShellFrames, run_command

WAIT_S = 30.0


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


def test_outcome_of_a_command_whose_stream_ended_before_the_first_write(mux, wire) -> None:
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(mux.open, "shell,v2,raw:true", WAIT_S)
        local_id = wire.next_packet().arg0
        outcome = frame(1, b"done") + frame(3, b"\x07")
        wire.phone_sends(Packet(OKAY, 7, local_id), Packet(WRTE, 7, local_id, outcome))
        wire.phone_sends(Packet(CLSE, 7, local_id))
        stream = opening.result(WAIT_S)
    # Packets are taken in order: the answer to this one shows that the CLSE has arrived.
    wire.phone_sends(Packet(OPEN, 8, 0, b"tcp:22\0"))
    assert wire.next_packet() == Packet(CLSE, 0, 8)
    assert run_command(stream, "phone", "true", 5) == ShellResult(7, "done", "")


def test_command_whose_stream_ended_with_nothing(stream_class, monkeypatch) -> None:
    stream = stream_class()
    monkeypatch.setattr(stream, "write", raiser(DeviceError("the phone closed the stream")))
    with pytest.raises(DeviceError, match="phone: `true` ended without an exit code"):
        run_command(stream, "phone", "true", 5)
    assert stream.closed


@pytest.mark.parametrize(
    ("error", "said"),
    [(LinkLost("it left"), "it left"), (StreamTimeoutError("slow"), "did not end within 5 s")],
)
def test_command_that_cannot_be_started(stream_class, monkeypatch, error, said) -> None:
    stream = stream_class(frame(3, b"\x07"))
    monkeypatch.setattr(stream, "write", raiser(error))
    with pytest.raises(DeviceError, match=said):
        run_command(stream, "phone", "true", 5)
    assert stream.closed


def raiser(error: Exception) -> Callable[..., None]:
    def write(*_arguments: object) -> None:
        raise error

    return write


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
