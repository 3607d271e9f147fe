"""One ADB stream: bytes both ways, one unacknowledged WRTE packet a direction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from mobifarm.simulator.adbd import packets

# A host that obeys the protocol never has more than one packet waiting here.
MAX_WAITING_PACKETS = 16


class StreamClosedError(Exception):
    """The host closed the stream, or the link was lost."""


class Sender(Protocol):
    """What a stream needs of its link."""

    @property
    def max_payload(self) -> int: ...

    def send(
        self, command: int, arg0: int, arg1: int, payload: bytes | bytearray | memoryview = b""
    ) -> None: ...


class Stream:
    """The phone's end of a stream. Not thread-safe: it belongs to the event loop."""

    def __init__(self, link: Sender, local_id: int, remote_id: int, on_close: Callable[[Stream], None]):
        self._link = link
        self.local_id = local_id
        self.remote_id = remote_id
        self._on_close = on_close
        self._incoming: deque[bytes | bytearray] = deque()
        self._arrived = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._acknowledged.set()
        self._write_lock = asyncio.Lock()
        self._accepted = False
        self._closed = False

    def accept(self) -> None:
        """Tell the host that the service is there; before this, closing refuses the stream."""
        if not self._closed:
            self._accepted = True
            self._link.send(packets.OKAY, self.local_id, self.remote_id)

    @property
    def max_payload(self) -> int:
        """Bytes that fit into one packet."""
        return self._link.max_payload

    async def read(self) -> bytes | bytearray:
        """The next packet's bytes, acknowledged when taken. Raises :class:`StreamClosedError` at the end."""
        while not self._incoming:
            if self._closed:
                raise StreamClosedError
            self._arrived.clear()
            await self._arrived.wait()
        data = self._incoming.popleft()
        if not self._closed:
            self._link.send(packets.OKAY, self.local_id, self.remote_id)
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, waiting for the host's acknowledgement before each packet but the first.

        Raises :class:`StreamClosedError`. Writes of several tasks do not mix.
        """
        view = memoryview(data)
        async with self._write_lock:
            for start in range(0, len(view), self.max_payload):
                await self._wait_acknowledged()
                self._acknowledged.clear()
                part = view[start : start + self.max_payload]
                self._link.send(packets.WRTE, self.local_id, self.remote_id, part)

    async def _wait_acknowledged(self) -> None:
        await self._acknowledged.wait()
        if self._closed:
            raise StreamClosedError

    def close(self) -> None:
        """Close and tell the host; no effect on a closed stream.

        Like adbd it does not wait until the host has acknowledged the last data.
        """
        if self._closed:
            return
        self._link.send(packets.CLSE, self.local_id if self._accepted else 0, self.remote_id)
        self.lost()

    def lost(self) -> None:
        """The stream is gone without a word to the host; whoever waits gets :class:`StreamClosedError`."""
        if self._closed:
            return
        self._closed = True
        self._arrived.set()
        self._acknowledged.set()
        self._on_close(self)

    def received(self, data: bytes | bytearray) -> None:
        """A WRTE packet came in. Raises ProtocolError where the host ignores flow control."""
        if len(self._incoming) >= MAX_WAITING_PACKETS:
            raise packets.ProtocolError("the host does not wait for acknowledgements")
        self._incoming.append(data)
        self._arrived.set()

    def acknowledge(self) -> None:
        """An OKAY packet came in."""
        self._acknowledged.set()
