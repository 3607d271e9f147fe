"""ADB packets: 24-byte header (six little-endian 32-bit words) and a payload. Pure.

Format: AOSP ``packages/modules/adb/protocol.txt``.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

CNXN: Final = 0x4E584E43
AUTH: Final = 0x48545541
OPEN: Final = 0x4E45504F
OKAY: Final = 0x59414B4F
CLSE: Final = 0x45534C43
WRTE: Final = 0x45545257

COMMANDS: Final = frozenset({CNXN, AUTH, OPEN, OKAY, CLSE, WRTE})

AUTH_TOKEN: Final = 1
AUTH_SIGNATURE: Final = 2
AUTH_PUBLIC_KEY: Final = 3

VERSION_WITH_CHECKSUMS: Final = 0x01000000
VERSION: Final = 0x01000001
MAX_PAYLOAD: Final = 1024 * 1024
HEADER_SIZE: Final = 24

_HEADER = struct.Struct("<6I")
_WORD: Final = 0xFFFFFFFF


class ProtocolError(Exception):
    """The peer does not speak ADB; the link cannot be used any further."""


@dataclass(frozen=True, slots=True)
class Header:
    """A validated packet header; ``checksum`` is 0 from peers that skip checksums."""

    command: int
    arg0: int
    arg1: int
    length: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Packet:
    """One ADB message. ``payload`` is owned by the packet and never changed after decoding."""

    command: int
    arg0: int
    arg1: int
    payload: bytes | bytearray = b""


def checksum(payload: bytes | bytearray | memoryview) -> int:
    """Sum of all bytes modulo 2**32.

    Adler-32 of at most 256 bytes, started at 0, holds their exact sum in its low half (256 × 255 < 65521);
    this is about ten times as fast as ``sum``.
    """
    view = memoryview(payload)
    return sum(zlib.adler32(view[i : i + 256], 0) & 0xFFFF for i in range(0, len(view), 256)) & _WORD


def encode_header(
    command: int, arg0: int, arg1: int, payload: bytes | bytearray | memoryview, *, with_checksum: bool
) -> bytes:
    """The 24 header bytes that go before ``payload``."""
    total = checksum(payload) if with_checksum else 0
    return _HEADER.pack(command, arg0, arg1, len(payload), total, command ^ _WORD)


def encode(packet: Packet, *, with_checksum: bool) -> bytes:
    """Header and payload as sent on the wire."""
    return (
        encode_header(packet.command, packet.arg0, packet.arg1, packet.payload, with_checksum=with_checksum)
        + packet.payload
    )


def decode_header(data: bytes | bytearray | memoryview) -> Header:
    """Parse 24 bytes; raises :class:`ProtocolError` where they are no ADB header."""
    command, arg0, arg1, length, total, magic = _HEADER.unpack(data)
    if command not in COMMANDS or magic != command ^ _WORD:
        raise ProtocolError(f"not an ADB header: {bytes(data).hex()}")
    if length > MAX_PAYLOAD:
        raise ProtocolError(f"payload of {length} bytes is longer than {MAX_PAYLOAD}")
    return Header(command, arg0, arg1, length, total)


class PacketReader:
    """Assembles packets from a byte stream without copying: fill :meth:`buffer`, then :meth:`advance`."""

    def __init__(self) -> None:
        self._header: Header | None = None
        self._target = bytearray(HEADER_SIZE)
        self._filled = 0
        self.verify_checksums = False

    def buffer(self) -> memoryview:
        """The place for the next bytes of the stream; empty only after a ProtocolError."""
        return memoryview(self._target)[self._filled :]

    def advance(self, count: int) -> Packet | None:
        """Take ``count`` bytes that were written to :meth:`buffer`; the packet that they complete, if any.

        Raises :class:`ProtocolError` where the stream is not ADB.
        """
        self._filled += count
        if self._filled < len(self._target):
            return None
        if self._header is None:
            header = decode_header(self._target)
            if header.length:
                self._header = header
                self._restart(header.length)
                return None
            payload: bytes | bytearray = b""
        else:
            header, payload = self._header, self._target
            if self.verify_checksums and header.checksum != checksum(payload):
                raise ProtocolError("payload does not match its checksum")
        self._header = None
        self._restart(HEADER_SIZE)
        return Packet(header.command, header.arg0, header.arg1, payload)

    def _restart(self, size: int) -> None:
        self._target = bytearray(size)
        self._filled = 0
