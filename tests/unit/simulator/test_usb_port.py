"""What a session does between a socket and two endpoints. Pairs of sockets that keep messages apart stand in
for the endpoints, one message a transfer. The rest needs a kernel with a USB device: tests/usb."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from mobifarm.simulator.adbd.packets import HEADER_SIZE, WRTE, Packet, encode
from mobifarm.simulator.usb_port import _Session

WAIT_S = 30.0
TRANSFER_BYTES = 16 * 1024


class Bus:
    def __init__(self) -> None:
        self.phone, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.host_out, self.from_host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host_in, self.to_host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.phone, self.host_in):
            end.settimeout(WAIT_S)
        self.hung_up = threading.Event()
        self.session = _Session(inside, self.from_host.fileno(), self.to_host.fileno())
        self.session.start(self.hung_up.set)

    def unplug(self) -> None:
        """Let the transfer that waits come to an end, and none begin, as the kernel does."""
        os.set_blocking(self.from_host.fileno(), False)
        self.host_out.send(b"last")
        self.session.end()


@pytest.fixture
def bus() -> Iterator[Bus]:
    bus = Bus()
    yield bus
    bus.unplug()
    assert not any(thread.is_alive() for thread in bus.session._threads)
    for end in (bus.phone, bus.host_in, bus.host_out, bus.from_host, bus.to_host):
        end.close()


def receive(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += end.recv(size - len(data))
    return data


@pytest.mark.parametrize("size", [0, 1, 511, 512, TRANSFER_BYTES, TRANSFER_BYTES + 1, 3 * TRANSFER_BYTES])
def test_header_and_payload_reach_the_host_as_transfers_of_their_own(bus: Bus, size: int) -> None:
    payload = os.urandom(size)
    packet = encode(Packet(WRTE, 1, 2, payload), with_checksum=False)
    # In two pieces that end where no packet does: the socket is a stream.
    bus.phone.sendall((packet + packet)[:30])
    bus.phone.sendall((packet + packet)[30:])
    for _ in range(2):
        assert bus.host_in.recv(TRANSFER_BYTES) == packet[:HEADER_SIZE]
        arrived = b""
        while len(arrived) < size:
            transfer = bus.host_in.recv(TRANSFER_BYTES + 1)
            assert len(transfer) == min(TRANSFER_BYTES, size - len(arrived))
            arrived += transfer
        assert arrived == payload


def test_the_phone_gets_a_stream_of_bytes(bus: Bus) -> None:
    content = os.urandom(100_000)
    for start in range(0, len(content), TRANSFER_BYTES):
        bus.host_out.send(content[start : start + TRANSFER_BYTES])
        assert (
            receive(bus.phone, len(content[start : start + TRANSFER_BYTES]))
            == (content[start : start + TRANSFER_BYTES])
        )


def test_a_phone_that_hangs_up_is_noticed(bus: Bus) -> None:
    bus.phone.close()
    assert bus.hung_up.wait(WAIT_S)


def test_a_phone_that_does_not_speak_adb_is_no_crash(bus: Bus) -> None:
    bus.phone.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    bus.session._threads[1].join(WAIT_S)
    assert not bus.session._threads[1].is_alive()
