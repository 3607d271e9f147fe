"""One connection from a host: handshake, authentication and the dispatch of packets to streams."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Protocol, cast

from mobifarm.simulator.adbd import packets
from mobifarm.simulator.adbd.keys import TOKEN_SIZE, KeyFormatError, PublicKey, parse_public_key, verify
from mobifarm.simulator.adbd.packets import Packet, PacketReader, ProtocolError
from mobifarm.simulator.adbd.stream import Stream

log = logging.getLogger("adbd")

FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir,sendrecv_v2"

# Below this, copying header and payload together is cheaper than a second system call.
_JOIN_LIMIT = 128 * 1024


class Device(Protocol):
    """What a link needs of the phone."""

    @property
    def banner(self) -> bytes:
        """``device::name=value;…;features=…``"""
        ...

    @property
    def known_keys(self) -> list[PublicKey]: ...

    def offer_key(self, link: Link, key: PublicKey) -> None:
        """A host shows an unknown key; :meth:`Link.authorise` is called if and when it is accepted."""
        ...

    def open_service(self, stream: Stream, destination: str) -> None:
        """Serve an opened stream; the service closes it."""
        ...

    def link_lost(self, link: Link) -> None: ...


class Link(asyncio.BufferedProtocol):
    """The phone's end of one connection."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._reader = PacketReader()
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._next_id = 1
        self._token = b""
        self._online = False
        self._with_checksum = True
        self._max_payload = 4096

    @property
    def max_payload(self) -> int:
        """Bytes that the host takes in one packet."""
        return self._max_payload

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            packet = self._reader.advance(nbytes)
            if packet is not None:
                self._handle(packet)
        except ProtocolError as error:
            log.warning("link dropped: %s", error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._drop_streams()
        self._device.link_lost(self)

    def close(self) -> None:
        """Cut the link."""
        if self._transport is not None:
            self._transport.abort()

    def send(self, command: int, arg0: int, arg1: int, payload: bytes | bytearray | memoryview = b"") -> None:
        """Queue a packet. What waits is bounded by the protocol: one WRTE a stream."""
        if self._transport is None:
            return
        header = packets.encode_header(command, arg0, arg1, payload, with_checksum=self._with_checksum)
        if len(payload) <= _JOIN_LIMIT:
            self._transport.write(header + payload if payload else header)
        else:
            self._transport.write(header)
            self._transport.write(payload)

    def authorise(self) -> None:
        """The host may use the phone from now on."""
        self._online = True
        banner = self._device.banner
        version = packets.VERSION_WITH_CHECKSUMS if self._with_checksum else packets.VERSION
        self.send(packets.CNXN, version, packets.MAX_PAYLOAD, banner)

    def _handle(self, packet: Packet) -> None:
        handler = _HANDLERS[packet.command]
        if self._online or packet.command in (packets.CNXN, packets.AUTH):
            handler(self, packet)

    def _on_connect(self, packet: Packet) -> None:
        self._drop_streams()
        self._online = False
        self._with_checksum = packet.arg0 < packets.VERSION
        self._reader.verify_checksums = self._with_checksum
        if packet.arg1 < 256:
            raise ProtocolError(f"the host takes only {packet.arg1} bytes in a packet")
        self._max_payload = min(packet.arg1, packets.MAX_PAYLOAD)
        self._challenge()

    def _challenge(self) -> None:
        self._token = secrets.token_bytes(TOKEN_SIZE)
        self.send(packets.AUTH, packets.AUTH_TOKEN, 0, self._token)

    def _on_auth(self, packet: Packet) -> None:
        if self._online or not self._token:
            return
        if packet.arg0 == packets.AUTH_SIGNATURE:
            token, self._token = self._token, b""
            if any(verify(key, token, packet.payload) for key in self._device.known_keys):
                self.authorise()
            else:
                self._challenge()
        elif packet.arg0 == packets.AUTH_PUBLIC_KEY:
            try:
                key = parse_public_key(packet.payload)
            except KeyFormatError as error:
                raise ProtocolError(str(error)) from error
            self._device.offer_key(self, key)

    def _on_open(self, packet: Packet) -> None:
        destination = bytes(packet.payload).rstrip(b"\0").decode("utf-8", "surrogateescape")
        if packet.arg0 == 0:
            raise ProtocolError("a stream without an identifier")
        stream = Stream(self, self._next_id, packet.arg0, self._forget)
        self._next_id = self._next_id % 0xFFFFFFFF + 1
        self._streams[stream.local_id] = stream
        self._device.open_service(stream, destination)

    def _on_okay(self, packet: Packet) -> None:
        if stream := self._find(packet):
            stream.acknowledge()

    def _on_write(self, packet: Packet) -> None:
        if stream := self._find(packet):
            stream.received(packet.payload)

    def _on_close(self, packet: Packet) -> None:
        if stream := self._find(packet):
            # Hosts wait for this answer.
            stream.close()

    def _find(self, packet: Packet) -> Stream | None:
        stream = self._streams.get(packet.arg1)
        return stream if stream is not None and packet.arg0 in (0, stream.remote_id) else None

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.local_id, None)

    def _drop_streams(self) -> None:
        for stream in list(self._streams.values()):
            stream.lost()


_HANDLERS: dict[int, Callable[[Link, Packet], None]] = {
    packets.CNXN: Link._on_connect,
    packets.AUTH: Link._on_auth,
    packets.OPEN: Link._on_open,
    packets.OKAY: Link._on_okay,
    packets.CLSE: Link._on_close,
    packets.WRTE: Link._on_write,
}
