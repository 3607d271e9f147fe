"""Streams on one connection: routing, flow control, and the end of the link."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobifarm.controller.errors import DeviceError, LinkLost
from mobifarm.controller.transport.mux import Multiplexer, MuxStream, StreamTimeoutError
from mobifarm.controller.transport.packets import CLSE, OKAY, OPEN, WRTE, Packet

WAIT_S = 30.0


@pytest.fixture
def pool() -> Any:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def open_stream(mux: Multiplexer, wire: Any, pool: ThreadPoolExecutor, remote_id: int = 70) -> MuxStream:
    opening = pool.submit(mux.open, "tcp:1", WAIT_S)
    request = wire.next_packet()
    assert (request.command, request.data) == (OPEN, b"tcp:1\0")
    wire.phone_sends(Packet(OKAY, remote_id, request.arg0))
    return opening.result(WAIT_S)


def test_data_goes_to_its_stream_and_is_acknowledged_when_taken(mux, wire, pool) -> None:
    first, second = open_stream(mux, wire, pool, 70), open_stream(mux, wire, pool, 71)
    wire.phone_sends(Packet(WRTE, 70, 1, b"for one"), Packet(WRTE, 71, 2, b"for two"))
    assert second.read(WAIT_S) == b"for two"
    # The packet for the first stream was routed before, but nobody has taken it.
    assert wire.next_packet() == Packet(OKAY, 2, 71)
    assert wire.sent_nothing_more
    assert first.read(WAIT_S) == b"for one"
    assert wire.next_packet() == Packet(OKAY, 1, 70)


def test_packets_of_unknown_streams_are_ignored(mux, wire, pool) -> None:
    wire.phone_sends(Packet(CLSE, 5, 99), Packet(WRTE, 5, 99, b"x"), Packet(OKAY, 5, 99))
    stream = open_stream(mux, wire, pool)
    assert wire.sent_nothing_more
    wire.phone_sends(Packet(WRTE, 70, 1, b"still here"))
    assert stream.read(WAIT_S) == b"still here"


def test_end_of_stream_that_overtakes_the_reader_is_kept(mux, wire, pool) -> None:
    stream = open_stream(mux, wire, pool)
    wire.phone_sends(Packet(WRTE, 70, 1, b"last words"), Packet(CLSE, 70, 1))
    assert stream.read(WAIT_S) == b"last words"
    assert stream.read(WAIT_S) == b""
    with pytest.raises(DeviceError, match="the phone closed the stream to tcp:1"):
        stream.write(b"too late")


def test_data_before_the_answer_to_open_is_kept(mux, wire, pool) -> None:
    opening = pool.submit(mux.open, "tcp:1", WAIT_S)
    local_id = wire.next_packet().arg0
    wire.phone_sends(Packet(WRTE, 70, local_id, b"eager"), Packet(OKAY, 70, local_id))
    assert opening.result(WAIT_S).read(WAIT_S) == b"eager"


def test_a_write_waits_for_the_acknowledgement_of_the_last(mux, wire, pool) -> None:
    stream = open_stream(mux, wire, pool)
    writing = pool.submit(stream.write, b"a" * 4096 + b"b", WAIT_S)
    assert wire.next_packet() == Packet(WRTE, 1, 70, b"a" * 4096)
    # What arrives meanwhile is neither lost nor mistaken for the acknowledgement.
    wire.phone_sends(Packet(WRTE, 70, 1, b"meanwhile"))
    assert stream.read(WAIT_S) == b"meanwhile"
    assert wire.next_packet() == Packet(OKAY, 1, 70)
    assert not writing.done()
    wire.phone_sends(Packet(OKAY, 70, 1))
    assert wire.next_packet() == Packet(WRTE, 1, 70, b"b")
    writing.result(WAIT_S)


def test_refused_open(mux, wire, pool) -> None:
    opening = pool.submit(mux.open, "localabstract:nobody", WAIT_S)
    wire.phone_sends(Packet(CLSE, 0, wire.next_packet().arg0))
    with pytest.raises(DeviceError, match="refused to open localabstract:nobody"):
        opening.result(WAIT_S)


def test_an_open_that_is_answered_too_late_is_closed(mux, wire) -> None:
    with pytest.raises(StreamTimeoutError, match="no answer to opening tcp:1"):
        mux.open("tcp:1", timeout_s=0)
    assert wire.next_packet().command == OPEN
    wire.phone_sends(Packet(OKAY, 70, 1))
    assert wire.next_packet() == Packet(CLSE, 1, 70)


def test_a_phone_that_opens_streams_is_refused(mux, wire) -> None:
    wire.phone_sends(Packet(OPEN, 8, 0, b"tcp:22\0"))
    assert wire.next_packet() == Packet(CLSE, 0, 8)


def test_close_says_so_once_and_ends_readers(mux, wire, pool) -> None:
    stream = open_stream(mux, wire, pool)
    reading = pool.submit(stream.read, WAIT_S)
    stream.close()
    stream.close()
    assert reading.result(WAIT_S) == b""
    assert wire.next_packet() == Packet(CLSE, 1, 70)
    assert wire.sent_nothing_more


def test_reading_nothing_in_time(mux, wire, pool) -> None:
    stream = open_stream(mux, wire, pool)
    with pytest.raises(StreamTimeoutError, match="nothing came from tcp:1"):
        stream.read(timeout_s=0)
    wire.phone_sends(Packet(WRTE, 70, 1, b"later"))
    assert stream.read(WAIT_S) == b"later"


def test_the_loss_of_the_link_wakes_everybody(mux, wire, pool) -> None:
    reader, writer = open_stream(mux, wire, pool, 70), open_stream(mux, wire, pool, 71)
    waiting: list[Future[Any]] = [pool.submit(reader.read) for _ in range(3)]
    waiting.append(pool.submit(writer.write, b"x" * 10_000))
    assert wire.next_packet().command == WRTE
    waiting.append(pool.submit(mux.open, "tcp:2", WAIT_S))
    assert wire.next_packet().command == OPEN
    ending = pool.submit(mux.wait_closed, WAIT_S)
    wire.phone_leaves("it was unplugged")
    wait(waiting, WAIT_S)
    for future in waiting:
        with pytest.raises(LinkLost, match="tcp:phone:5555: it was unplugged"):
            future.result(0)
    assert ending.result(WAIT_S)
    with pytest.raises(LinkLost):
        mux.open("tcp:1", WAIT_S)


def test_data_that_came_before_the_loss_is_delivered(mux, wire, pool) -> None:
    stream = open_stream(mux, wire, pool)
    wire.phone_sends(Packet(WRTE, 70, 1, b"result"))
    wire.phone_leaves()
    assert mux.wait_closed(WAIT_S)
    assert stream.read() == b"result"
    with pytest.raises(LinkLost):
        stream.read()


def test_a_failed_send_ends_the_link(mux, wire, pool) -> None:
    stream = open_stream(mux, wire, pool)
    reading = pool.submit(stream.read)
    wire.broken = True
    with pytest.raises(LinkLost):
        stream.write(b"x")
    with pytest.raises(LinkLost):
        reading.result(WAIT_S)
    assert mux.wait_closed(WAIT_S)


def test_close_ends_the_link(mux, wire, pool) -> None:
    reading = pool.submit(open_stream(mux, wire, pool).read)
    assert not mux.wait_closed(timeout_s=0)
    assert mux.loss_reason == ""
    mux.close()
    assert mux.wait_closed(timeout_s=0)
    assert mux.loss_reason == "tcp:phone:5555: the link was closed"
    with pytest.raises(LinkLost, match="the link was closed"):
        reading.result(WAIT_S)


@pytest.mark.parametrize(
    ("packets", "reason"),
    [
        ([Packet(WRTE, 70, 1, b"x")] * 3, "before the last was acknowledged"),
        ([Packet(WRTE, 71, 1, b"x")], "changed the id"),
        ([Packet(b"CNXN", 1, 1)], "unexpected b'CNXN' packet"),
    ],
)
def test_a_phone_that_breaks_the_protocol_loses_its_link(mux, wire, pool, packets, reason) -> None:
    stream = open_stream(mux, wire, pool)
    wire.phone_sends(*packets)
    assert mux.wait_closed(WAIT_S)
    with pytest.raises(LinkLost, match=reason):
        stream.write(b"x")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "not an ADB packet"),
        (
            b"WRTE" + bytes(8) + (2**31).to_bytes(4, "little") + bytes(4) + b"\xa8\xad\xab\xba",
            "2147483648 bytes",
        ),
    ],
)
def test_bytes_that_are_no_packet_end_the_link(mux, wire, sent, reason) -> None:
    wire.phone_sends_bytes(sent)
    assert mux.wait_closed(WAIT_S)
    with pytest.raises(LinkLost, match=reason):
        mux.open("tcp:1", WAIT_S)


class PhoneModel(threading.Thread):
    """Plays a phone that keeps to the protocol in an order of its own, with noise in between.

    Every stream sends ``outgoing[stream]`` in packets and closes when all was acknowledged and the host's
    ``expected[stream]`` bytes have come.
    """

    def __init__(
        self, wire: Any, outgoing: list[list[bytes]], expected: list[int], order: random.Random
    ) -> None:
        super().__init__(daemon=True)
        self._wire = wire
        self._outgoing = [list(packets) for packets in outgoing]
        self._expected = expected
        self._order = order
        self.received = [b"" for _ in outgoing]

    def run(self) -> None:
        local_ids: dict[int, int] = {}
        ready: list[list[Packet]] = [[] for _ in self._outgoing]
        busy = [False] * len(self._outgoing)
        open_streams = len(self._outgoing)
        while open_streams:
            packet = self._wire.next_packet()
            if packet.command == OPEN:
                stream = int(packet.data.rstrip(b"\0").removeprefix(b"tcp:"))
                local_ids[stream] = packet.arg0
                ready[stream].append(Packet(OKAY, 100 + stream, packet.arg0))
            else:
                stream = packet.arg1 - 100
                if packet.command == WRTE:
                    self.received[stream] += packet.data
                    ready[stream].append(Packet(OKAY, packet.arg1, packet.arg0))
                elif packet.command == OKAY:
                    busy[stream] = False
            for stream, local_id in local_ids.items():
                if not busy[stream] and self._outgoing[stream]:
                    busy[stream] = True
                    ready[stream].append(Packet(WRTE, 100 + stream, local_id, self._outgoing[stream].pop(0)))
                elif not busy[stream] and len(self.received[stream]) == self._expected[stream]:
                    busy[stream] = True
                    ready[stream].append(Packet(CLSE, 100 + stream, local_id))
                    open_streams -= 1
            while candidates := [packets for packets in ready if packets]:
                if self._order.random() < 0.2:
                    noise = self._order.choice([CLSE, WRTE, OKAY])
                    self._wire.phone_sends(Packet(noise, 5, 9999, b"noise" if noise == WRTE else b""))
                self._wire.phone_sends(self._order.choice(candidates).pop(0))


@settings(max_examples=40, deadline=None)
@given(
    streams=st.lists(
        st.tuples(
            st.lists(st.binary(min_size=1, max_size=40), max_size=5),
            st.lists(st.binary(min_size=1, max_size=9000), max_size=3),
        ),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 2**32),
)
def test_any_order_of_packets_gives_every_stream_its_own_bytes(wire_class, streams, seed) -> None:
    wire = wire_class()
    phone = PhoneModel(
        wire,
        outgoing=[from_phone for from_phone, _ in streams],
        expected=[sum(map(len, to_phone)) for _, to_phone in streams],
        order=random.Random(seed),
    )
    phone.start()
    mux = Multiplexer(wire, "phone", maximum_payload_bytes=4096)

    def use(index: int) -> bytes:
        stream = mux.open(f"tcp:{index}", WAIT_S)
        with ThreadPoolExecutor(1) as writer:
            writing = writer.submit(lambda: [stream.write(data, WAIT_S) for data in streams[index][1]])
            got = b"".join(iter(lambda: stream.read(WAIT_S), b""))
            writing.result(WAIT_S)
        stream.close()
        return got

    with ThreadPoolExecutor(len(streams)) as users:
        results = list(users.map(use, range(len(streams)), timeout=WAIT_S))
    phone.join(WAIT_S)
    mux.close()
    assert results == [b"".join(from_phone) for from_phone, _ in streams]
    assert phone.received == [b"".join(to_phone) for _, to_phone in streams]
