"""Addresses and streams of server mode; a real adb server is met in the integration tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from mobifarm.controller.errors import AuthorisationRequired, DeviceError
from mobifarm.controller.transport.adb_server import ServedPhone, SocketStream, _address, _refusal
from mobifarm.controller.transport.mux import StreamTimeoutError
from mobifarm.controller.transport.server import connect_server


@pytest.mark.parametrize(
    ("serial", "port_path", "address"),
    [
        ("R5CT", "1-2.4", "usb:1-2.4"),
        ("192.168.1.20:5555", None, "tcp:192.168.1.20:5555"),
        ("emulator-5554", None, "tcp:127.0.0.1:5555"),
        ("R5CT", None, "adb:R5CT"),
    ],
)
def test_a_phone_has_the_address_that_it_has_in_direct_mode(
    serial: str, port_path: str | None, address: str
) -> None:
    assert _address(serial, port_path) == address


def test_an_unauthorised_phone_waits_for_its_owner() -> None:
    message = "device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set"
    assert isinstance(_refusal("usb:1-2", message), AuthorisationRequired)
    assert not isinstance(_refusal("usb:1-2", "device offline"), AuthorisationRequired)


@pytest.fixture
def ends() -> Iterator[tuple[SocketStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    stream = SocketStream(ours, "usb:1-2 sync:")
    yield stream, theirs
    stream.close()
    theirs.close()


def test_bytes_go_both_ways_until_the_end(ends: tuple[SocketStream, socket.socket]) -> None:
    stream, phone = ends
    stream.write(b"ping", 30.0)
    assert phone.recv(10) == b"ping"
    phone.sendall(b"pong")
    assert stream.read(30.0) == b"pong"
    phone.shutdown(socket.SHUT_WR)
    assert stream.read() == b""


def test_deadlines_hold(ends: tuple[SocketStream, socket.socket]) -> None:
    stream, _ = ends
    with pytest.raises(StreamTimeoutError, match="nothing came"):
        stream.read(0.0)
    with pytest.raises(StreamTimeoutError, match="took no data"):
        stream.write(bytes(8 << 20), 0.0)


def test_closing_wakes_a_waiting_reader(ends: tuple[SocketStream, socket.socket]) -> None:
    stream, _ = ends
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(stream.read()))
    reader.start()
    stream.close()
    stream.close()
    reader.join(30.0)
    assert got == [b""]
    assert stream.read() == b""
    with pytest.raises(DeviceError, match="is closed"):
        stream.write(b"x")


class ListedServer:
    name = "127.0.0.1:5037"

    def __init__(self, *phones: ServedPhone) -> None:
        self._phones = list(phones)
        self.connected: list[str] = []

    def phones(self) -> list[ServedPhone]:
        return self._phones

    def connect(self, place: str) -> str:
        self.connected.append(place)
        return f"failed to connect to {place}"


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ("unauthorized", AuthorisationRequired, "does not trust the adb server's key"),
        ("offline", DeviceError, "is offline"),
        ("recovery", DeviceError, "recovery mode"),
        ("no", Exception, "may not use the phone"),
    ],
)
def test_a_phone_that_cannot_be_used_says_why(state: str, error: type[Exception], words: str) -> None:
    server = ListedServer(ServedPhone("usb:1-2", "S", state, 3))
    with pytest.raises(error, match=words):
        connect_server("usb:1-2", server)  # type: ignore[arg-type]


def test_a_phone_that_the_server_does_not_have() -> None:
    server = ListedServer()
    with pytest.raises(DeviceError, match="has no phone at usb:1-2"):
        connect_server("usb:1-2", server)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="failed to connect"):
        connect_server("tcp:h:5555", server)  # type: ignore[arg-type]
    assert server.connected == ["h:5555"]
