from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.usb_descriptors import Event, descriptors, parse_events, strings


def walk(data: bytes) -> list[bytes]:
    """Descriptors one after the other: the first byte of each is its length."""
    found = []
    while data:
        assert 2 <= data[0] <= len(data)
        found.append(data[: data[0]])
        data = data[data[0] :]
    return found


def test_each_speed_has_one_adb_interface_with_a_bulk_endpoint_each_way() -> None:
    data = descriptors()
    magic, length, flags, full, high, super_speed = struct.unpack_from("<6I", data)
    assert (magic, length, flags) == (3, len(data), 0b111)
    found = walk(data[24:])
    assert len(found) == full + high + super_speed
    for count, packet_bytes in ((full, 64), (high, 512), (super_speed, 1024)):
        speed, found = found[:count], found[count:]
        interface, *rest = speed
        assert interface[:2] == b"\x09\x04"
        assert (interface[4], interface[5:8]) == (2, b"\xff\x42\x01")
        endpoints = [struct.unpack("<BBBBHB", part) for part in rest if part[1] == 5]
        assert [(address, kind, size) for _, _, address, kind, size, _ in endpoints] == [
            (0x01, 2, packet_bytes),
            (0x82, 2, packet_bytes),
        ]
        # Each endpoint has a companion at super speed, and only there.
        assert sum(part[1] == 0x30 for part in rest) == (2 if packet_bytes == 1024 else 0)
    assert found == []


def test_the_interface_has_a_name() -> None:
    magic, length, count, languages, english = struct.unpack_from("<4IH", strings())
    assert (magic, length, count, languages, english) == (2, len(strings()), 1, 1, 0x0409)
    assert strings()[18:] == b"ADB Interface\0"


@given(st.lists(st.sampled_from(Event)), st.binary(max_size=11))
def test_events_are_read_in_order_and_whole(events: list[Event], rest: bytes) -> None:
    data = b"".join(bytes(8) + bytes([event]) + bytes(3) for event in events)
    assert parse_events(data + rest) == events
