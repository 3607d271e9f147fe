"""A phone's end of an ADB connection, in memory."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from mobifarm.controller.errors import LinkLost
from mobifarm.controller.transport.mux import Multiplexer, StreamTimeoutError
from mobifarm.controller.transport.packets import Packet

WAIT_S = 30.0


class MemoryWire:
    """A wire whose other end is the test."""

    def __init__(self) -> None:
        self._incoming: queue.SimpleQueue[bytes | str] = queue.SimpleQueue()
        self._buffer = b""
        self._sent: queue.SimpleQueue[Packet] = queue.SimpleQueue()
        self.closed = False
        self.broken = False

    def phone_sends(self, *packets: Packet) -> None:
        for packet in packets:
            self._incoming.put(packet.header(checksum=False) + bytes(packet.data))

    def phone_sends_bytes(self, data: bytes) -> None:
        self._incoming.put(data)

    def phone_leaves(self, reason: str = "it closed the connection") -> None:
        self._incoming.put(reason)

    def next_packet(self) -> Packet:
        return self._sent.get(timeout=WAIT_S)

    @property
    def sent_nothing_more(self) -> bool:
        return self._sent.empty()

    def read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            item = self._incoming.get(timeout=WAIT_S)
            if isinstance(item, str):
                raise LinkLost(item)
            self._buffer += item
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def set_read_timeout(self, timeout_s: float | None) -> None:
        pass

    def write(self, header: bytes, payload: bytes | memoryview) -> None:
        if self.broken:
            raise LinkLost("the connection broke")
        command = header[:4]
        arg0, arg1 = (int.from_bytes(header[start : start + 4], "little") for start in (4, 8))
        self._sent.put(Packet(command, arg0, arg1, bytes(payload)))

    def interrupt(self) -> None:
        self._incoming.put("the link was interrupted")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def wire() -> MemoryWire:
    return MemoryWire()


@pytest.fixture
def mux(wire: MemoryWire) -> Iterator[Multiplexer]:
    multiplexer = Multiplexer(wire, "tcp:phone:5555", maximum_payload_bytes=4096)
    yield multiplexer
    multiplexer.close()
    assert wire.closed


@pytest.fixture(scope="session")
def wire_class() -> type[MemoryWire]:
    return MemoryWire


class MemoryStream:
    """A stream to a phone that answers with given bytes, in given pieces."""

    def __init__(self, *pieces: bytes, then_silent: bool = False) -> None:
        self._pieces = list(pieces)
        self._then_silent = then_silent
        self.written = b""
        self.closed = False

    def read(self, timeout_s: float | None = None) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._then_silent:
            raise StreamTimeoutError("nothing came")
        return b""

    def write(self, data: bytes, timeout_s: float | None = None) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="session")
def stream_class() -> type[MemoryStream]:
    return MemoryStream
