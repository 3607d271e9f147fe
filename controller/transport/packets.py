"""ADB packets: a header of six little-endian 32-bit words, then the payload (AOSP, adb/protocol.txt)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mobifarm.controller.errors import DeviceError

CNXN: Final = b"CNXN"
AUTH: Final = b"AUTH"
STLS: Final = b"STLS"
OPEN: Final = b"OPEN"
OKAY: Final = b"OKAY"
WRTE: Final = b"WRTE"
CLSE: Final = b"CLSE"

VERSION_WITH_CHECKSUM: Final = 0x01000000
VERSION_WITHOUT_CHECKSUM: Final = 0x01000001
MAXIMUM_PAYLOAD_BYTES: Final = 1 << 20

_HEADER: Final = struct.Struct("<4s5I")


class ProtocolViolationError(DeviceError):
    """The phone sent something that ADB does not allow; the link cannot be trusted any further."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One ADB packet; on a stream ``arg0`` is the sender's id of it and ``arg1`` the receiver's."""

    command: bytes
    arg0: int
    arg1: int
    data: bytes | memoryview = b""

    def header(self, checksum: bool) -> bytes:
        """The 24 bytes before the payload; ``checksum`` is the sum of the payload's bytes, which is slow."""
        (command,) = struct.unpack("<I", self.command)
        total = sum(self.data) & 0xFFFFFFFF if checksum else 0
        return _HEADER.pack(self.command, self.arg0, self.arg1, len(self.data), total, command ^ 0xFFFFFFFF)


def read_packet(read_exactly: Callable[[int], bytes]) -> Packet:
    """Read one packet.

    Checksums are not compared: TCP and USB bulk transfers carry their own, and current phones send 0.

    Raises:
        ProtocolViolationError: the header's magic is wrong or the payload is larger than this host announced.
    """
    command, arg0, arg1, size_bytes, _checksum, magic = _HEADER.unpack(read_exactly(_HEADER.size))
    if struct.unpack("<I", command)[0] ^ 0xFFFFFFFF != magic:
        raise ProtocolViolationError("it sent bytes that are not an ADB packet")
    if size_bytes > MAXIMUM_PAYLOAD_BYTES:
        raise ProtocolViolationError(
            f"it sent a packet of {size_bytes} bytes; {MAXIMUM_PAYLOAD_BYTES} are allowed"
        )
    return Packet(command, arg0, arg1, read_exactly(size_bytes) if size_bytes else b"")
