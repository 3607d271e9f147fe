"""Messages between the phone's adbd and the process outside that owns its cable, screen and power switch.

They travel as JSON, one a datagram, over a SOCK_SEQPACKET socket pair; a ``link`` message carries an accepted
connection as a file descriptor. The other end closing means that the phone loses power.

To adbd: ``configure`` (first), ``link`` with a descriptor, ``authorised`` with a key.
From adbd: ``ready``, ``key_offered`` with link and key, ``link_closed`` with a link's number.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final

MESSAGE_MAX: Final = 128 * 1024


def send(channel: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
    """Send one message. Raises OSError (BlockingIOError where the other end does not read)."""
    data = json.dumps(message).encode()
    if len(data) > MESSAGE_MAX:
        raise ValueError(f"message of {len(data)} bytes is longer than {MESSAGE_MAX}")
    socket.send_fds(channel, [data], [] if descriptor is None else [descriptor])


def receive(channel: socket.socket) -> tuple[dict[str, Any], int | None] | None:
    """The next message and the descriptor that came with it; None where the other end is closed.

    Raises BlockingIOError where nothing waits.
    """
    data, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_MAX, 1)
    if not data:
        return None
    message: dict[str, Any] = json.loads(data)
    return message, descriptors[0] if descriptors else None
