"""What a client of a forward sees where the phone cannot be reached."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mobifarm.controller.errors import DeviceError, FarmError, HostError
from mobifarm.controller.transport.forwarding import SocketForward
from mobifarm.controller.transport.interface import ByteStream

WAIT_S = 10.0


@pytest.mark.parametrize("error", [DeviceError, HostError])
def test_a_client_is_hung_up_on_where_the_phone_cannot_be_reached(
    tmp_path: Path, error: type[FarmError]
) -> None:
    def open_stream() -> ByteStream:
        raise error("it is not there")

    forward = SocketForward(tmp_path / "sockets" / "a.sock", open_stream)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(WAIT_S)
        client.connect(str(forward.path))
        assert client.recv(1) == b""
    forward.close()
