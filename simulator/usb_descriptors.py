"""What a phone's ADB interface says of itself on USB, in the formats of linux/usb/functionfs.h. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

VENDOR_ID: Final = 0x18D1  # Google
PRODUCT_ID: Final = 0x4EE7  # an Android phone with ADB and nothing else
ADB_INTERFACE: Final = (0xFF, 0x42, 0x01)
HIGH_SPEED_PACKET_BYTES: Final = 512

_DESCRIPTORS_MAGIC_V2: Final = 3
_STRINGS_MAGIC: Final = 2
_HAS_FULL_SPEED, _HAS_HIGH_SPEED, _HAS_SUPER_SPEED = 1, 2, 4
_ENGLISH: Final = 0x0409
_BULK: Final = 2
_HOST_TO_PHONE, _PHONE_TO_HOST = 0x01, 0x82
_EVENT: Final = struct.Struct("<8sB3x")


class Event(IntEnum):
    """What happens to a function (``enum usb_functionfs_event_type``)."""

    BIND = 0
    UNBIND = 1
    ENABLE = 2
    DISABLE = 3
    SETUP = 4
    SUSPEND = 5
    RESUME = 6


@dataclass(frozen=True, slots=True)
class _Speed:
    flag: int
    packet_bytes: int
    companion: bytes = b""  # every endpoint has one at super speed: no bursts


_SPEEDS: Final = (
    _Speed(_HAS_FULL_SPEED, 64),
    _Speed(_HAS_HIGH_SPEED, HIGH_SPEED_PACKET_BYTES),
    _Speed(_HAS_SUPER_SPEED, 1024, struct.pack("<BBBBH", 6, 0x30, 0, 0, 0)),
)


def descriptors() -> bytes:
    """One interface with one bulk endpoint each way, as Android's adbd describes it, at three speeds."""
    flags = sum(speed.flag for speed in _SPEEDS)
    counts = b"".join(struct.pack("<I", 5 if speed.companion else 3) for speed in _SPEEDS)
    body = counts + b"".join(_interface(speed) for speed in _SPEEDS)
    return struct.pack("<III", _DESCRIPTORS_MAGIC_V2, 12 + len(body), flags) + body


def _interface(speed: _Speed) -> bytes:
    described = struct.pack("<9B", 9, 4, 0, 0, 2, *ADB_INTERFACE, 1)
    for address in (_HOST_TO_PHONE, _PHONE_TO_HOST):
        described += struct.pack("<BBBBHB", 7, 5, address, _BULK, speed.packet_bytes, 0) + speed.companion
    return described


def strings() -> bytes:
    """The interface's name."""
    body = struct.pack("<IIH", 1, 1, _ENGLISH) + b"ADB Interface\0"
    return struct.pack("<II", _STRINGS_MAGIC, 8 + len(body)) + body


def parse_events(data: bytes) -> list[Event]:
    """The events in what was read from the control endpoint; a piece of one at the end is left out."""
    whole = data[: len(data) // _EVENT.size * _EVENT.size]
    return [Event(kind) for _setup, kind in _EVENT.iter_unpack(whole)]
