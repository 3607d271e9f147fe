"""``tcp:``, ``localabstract:``, ``localfilesystem:`` services: a stream joined to a socket on the phone."""

from __future__ import annotations

import asyncio
import contextlib

from mobifarm.simulator.adbd.root import PhoneRoot
from mobifarm.simulator.adbd.stream import Stream, StreamClosedError

_BUFFER_SIZE = 256 * 1024
_LOOPBACK = "127.0.0.1"


class UnreachableError(Exception):
    """Nothing listens at the destination."""


def is_socket_destination(destination: str) -> bool:
    """True for the destinations that :func:`serve_socket` takes."""
    return destination.partition(":")[0] in ("tcp", "localabstract", "localfilesystem", "local")


async def _connect(destination: str, root: PhoneRoot) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    kind, _, name = destination.partition(":")
    try:
        if kind == "tcp":
            # Like adbd: the port may be followed by a host name, and only the phone itself is allowed here.
            port, _, host = name.partition(":")
            if host not in ("", "localhost", _LOOPBACK) or not port.isdecimal():
                raise UnreachableError(destination)
            return await asyncio.open_connection(_LOOPBACK, int(port), limit=_BUFFER_SIZE)
        address = "\0" + name if kind == "localabstract" else root.resolve(name)
        return await asyncio.open_unix_connection(address, limit=_BUFFER_SIZE)
    except (OSError, OverflowError, ValueError) as error:
        raise UnreachableError(destination) from error


async def serve_socket(stream: Stream, destination: str, root: PhoneRoot) -> None:
    """Join the stream to the socket until either end closes. Raises :class:`UnreachableError`."""
    reader, writer = await _connect(destination, root)
    stream.accept()
    try:
        async with asyncio.TaskGroup() as group:
            upward = group.create_task(_to_socket(stream, writer))
            while data := await reader.read(min(stream.max_payload, _BUFFER_SIZE)):
                await stream.write(data)
            upward.cancel()
            stream.close()
    except* (StreamClosedError, ConnectionError):
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _to_socket(stream: Stream, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await stream.read())
        await writer.drain()
