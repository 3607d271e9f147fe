"""The frames of ADB's file transfer."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.transport.file_sync import receive_file, send_file


def frame(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("<I", len(payload)) + payload


def frames(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    while data:
        kind, size = struct.unpack_from("<4sI", data)
        # DONE carries a time in the place of a size.
        payload = b"" if kind == b"DONE" else data[8 : 8 + size]
        found.append((kind, payload))
        data = data[8 + len(payload) :]
    return found


@given(size=st.integers(0, 600_000), answer_cut=st.integers(1, 7))
def test_sent_content(stream_class, size, answer_cut) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    answer = frame(b"OKAY", b"")
    stream = stream_class(answer[:answer_cut], answer[answer_cut:])
    send_file(stream, "phone", io.BytesIO(content), "/data/a,b", 0o640, 77, 5)
    first, *middle, last = frames(stream.written)
    assert first == (b"SEND", b"/data/a,b,33184")
    assert last == (b"DONE", b"")
    assert stream.written[-4:] == (77).to_bytes(4, "little")
    assert {kind for kind, _ in middle} <= {b"DATA"}
    assert max((len(data) for _, data in middle), default=0) <= 65536
    assert b"".join(data for _, data in middle) == content


def test_phone_that_cannot_write(stream_class) -> None:
    stream = stream_class(frame(b"FAIL", b"No space left on device"))
    with pytest.raises(DeviceError, match="phone: could not write /x: No space left on device"):
        send_file(stream, "phone", io.BytesIO(b"x"), "/x", 0o644, 0, 5)


@given(st.lists(st.binary(max_size=200), max_size=6), st.integers(1, 50))
def test_received_content(stream_class, parts, cut) -> None:
    data = b"".join(frame(b"DATA", part) for part in parts) + frame(b"DONE", b"")
    stream = stream_class(*(data[start : start + cut] for start in range(0, len(data), cut)))
    assert receive_file(stream, "phone", "/x", 5, limit_bytes=10_000) == b"".join(parts)
    assert frames(stream.written) == [(b"RECV", b"/x")]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (frame(b"FAIL", b"No such file"), "could not read /x: No such file"),
        (frame(b"DATA", b"abcdef"), "/x is larger than 5 bytes"),
        (b"DATA" + struct.pack("<I", 70_000), "broke the file transfer protocol"),
        (frame(b"DATA", b"abc"), "ended a file transfer in the middle"),
    ],
)
def test_phone_that_cannot_be_read(stream_class, answer, reason) -> None:
    with pytest.raises(DeviceError, match=reason):
        receive_file(stream_class(answer), "phone", "/x", 5, limit_bytes=5)
