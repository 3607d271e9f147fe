from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.adbd import packets
from mobifarm.simulator.adbd.keys import PublicKey
from mobifarm.simulator.adbd.link import Link
from mobifarm.simulator.adbd.packets import Packet, PacketReader
from mobifarm.simulator.adbd.stream import MAX_WAITING_PACKETS, Stream, StreamClosedError


class Wire(asyncio.Transport):
    """Records what the phone sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def abort(self) -> None:
        self.aborted = True

    def take(self) -> list[Packet]:
        found: list[Packet] = []
        reader = PacketReader()
        while self.sent:
            place = reader.buffer()
            size = len(place)
            place[:] = self.sent[:size]
            place.release()
            del self.sent[:size]
            packet = reader.advance(size)
            if packet is not None:
                found.append(packet)
        return found


class Phone:
    """A device that opens every stream and keeps it."""

    banner = b"device::features=shell_v2"

    def __init__(self) -> None:
        self.known_keys: list[PublicKey] = []
        self.streams: list[Stream] = []
        self.on_open: Callable[[Stream], None] = Stream.accept

    def offer_key(self, link: Link, key: PublicKey) -> None:
        link.authorise()

    def open_service(self, stream: Stream, destination: str) -> None:
        self.streams.append(stream)
        self.on_open(stream)

    def link_lost(self, link: Link) -> None:
        pass


def feed(link: Link, data: bytes) -> None:
    while data and (place := link.get_buffer(-1)):
        size = min(len(place), len(data))
        place[:size] = data[:size]
        place.release()
        link.buffer_updated(size)
        data = data[size:]


def send(link: Link, command: int, arg0: int, arg1: int, payload: bytes = b"") -> None:
    feed(link, packets.encode(Packet(command, arg0, arg1, payload), with_checksum=True))


def connected(version: int = packets.VERSION, max_payload: int = 4096) -> tuple[Link, Wire, Phone]:
    phone, wire = Phone(), Wire()
    link = Link(phone)
    link.connection_made(wire)
    send(link, packets.CNXN, version, max_payload, b"host::")
    link.authorise()
    wire.take()
    return link, wire, phone


def test_connection_is_challenged_and_nothing_else_answered() -> None:
    phone, wire = Phone(), Wire()
    link = Link(phone)
    link.connection_made(wire)
    send(link, packets.OPEN, 1, 0, b"shell:id\0")
    assert wire.take() == []
    send(link, packets.CNXN, packets.VERSION, 4096, b"host::")
    (challenge,) = wire.take()
    assert (challenge.command, challenge.arg0, len(challenge.payload)) == (packets.AUTH, 1, 20)
    send(link, packets.OPEN, 1, 0, b"shell:id\0")
    send(link, packets.AUTH, packets.AUTH_SIGNATURE, 0, bytes(256))
    (second,) = wire.take()
    assert second.command == packets.AUTH
    assert second.payload != challenge.payload
    assert phone.streams == []


@pytest.mark.parametrize("version", [packets.VERSION, packets.VERSION_WITH_CHECKSUMS])
def test_checksums_are_sent_to_peers_that_want_them(version: int) -> None:
    link, wire, _ = connected(version)
    link.authorise()
    header = packets.decode_header(wire.sent[: packets.HEADER_SIZE])
    wanted = 0 if version == packets.VERSION else sum(Phone.banner)
    assert (header.arg0, header.checksum) == (version, wanted)


async def test_stream_carries_bytes_both_ways_under_flow_control() -> None:
    link, wire, phone = connected(max_payload=256)
    send(link, packets.OPEN, 7, 0, b"echo:\0")
    (stream,) = phone.streams
    assert wire.take() == [Packet(packets.OKAY, stream.local_id, 7)]
    send(link, packets.WRTE, 7, stream.local_id, b"abc")
    assert wire.take() == []  # acknowledged when taken, not before
    assert await stream.read() == b"abc"
    assert wire.take() == [Packet(packets.OKAY, stream.local_id, 7)]

    writing = asyncio.create_task(stream.write(b"x" * 300))
    await asyncio.sleep(0)
    assert wire.take() == [Packet(packets.WRTE, stream.local_id, 7, b"x" * 256)]
    assert not writing.done()
    send(link, packets.OKAY, 7, stream.local_id)
    await writing
    assert wire.take() == [Packet(packets.WRTE, stream.local_id, 7, b"x" * 44)]

    send(link, packets.CLSE, 7, stream.local_id)
    assert wire.take() == [Packet(packets.CLSE, stream.local_id, 7)]
    with pytest.raises(StreamClosedError):
        await stream.read()
    send(link, packets.CLSE, 7, stream.local_id)
    assert wire.take() == []  # one CLSE from each side


async def test_bytes_that_came_before_the_close_are_still_read() -> None:
    link, _, phone = connected()
    send(link, packets.OPEN, 7, 0, b"echo:\0")
    (stream,) = phone.streams
    send(link, packets.WRTE, 7, stream.local_id, b"last words")
    send(link, packets.CLSE, 7, stream.local_id)
    assert await stream.read() == b"last words"
    with pytest.raises(StreamClosedError):
        await stream.read()


def test_refused_stream_is_closed_without_an_identifier() -> None:
    link, wire, phone = connected()
    phone.on_open = Stream.close
    send(link, packets.OPEN, 9, 0, b"nothing:\0")
    assert wire.take() == [Packet(packets.CLSE, 0, 9)]


async def test_lost_link_ends_readers_and_writers() -> None:
    link, _, phone = connected()
    send(link, packets.OPEN, 7, 0, b"echo:\0")
    (stream,) = phone.streams
    reading = asyncio.create_task(stream.read())
    await stream.write(b"first")
    writing = asyncio.create_task(stream.write(b"second"))
    await asyncio.sleep(0)
    link.connection_lost(None)
    for task in (reading, writing):
        with pytest.raises(StreamClosedError):
            await task


def test_host_that_ignores_flow_control_is_dropped() -> None:
    link, wire, phone = connected()
    send(link, packets.OPEN, 7, 0, b"echo:\0")
    (stream,) = phone.streams
    for _ in range(MAX_WAITING_PACKETS):
        send(link, packets.WRTE, 7, stream.local_id, b"x")
    assert not wire.aborted
    send(link, packets.WRTE, 7, stream.local_id, b"x")
    assert wire.aborted


COMMANDS = st.sampled_from(sorted(packets.COMMANDS))
IDENTIFIERS = st.integers(0, 6)


@given(st.lists(st.tuples(COMMANDS, IDENTIFIERS, IDENTIFIERS, st.binary(max_size=40)), max_size=60))
def test_any_sequence_of_packets_is_answered_or_dropped(sent: list[tuple[int, int, int, bytes]]) -> None:
    link, wire, _ = connected(version=packets.VERSION_WITH_CHECKSUMS)
    for packet in sent:
        if wire.aborted:
            break
        send(link, *packet)
    wire.take()  # what was sent is well-formed


@given(st.binary(min_size=24, max_size=200))
def test_garbage_drops_the_link(data: bytes) -> None:
    phone, wire = Phone(), Wire()
    link = Link(phone)
    link.connection_made(wire)
    feed(link, b"\x00" + data)
    assert wire.aborted
