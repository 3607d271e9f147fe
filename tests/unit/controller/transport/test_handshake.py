"""Introductions: who may talk to the phone, and what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.errors import AuthorisationRequired, DeviceError, LinkLost
from mobifarm.controller.transport.handshake import Banner, parse_banner, shake_hands
from mobifarm.controller.transport.packets import AUTH, CNXN, STLS, Packet, ProtocolViolationError

BANNER = Packet(
    CNXN,
    0x01000001,
    1 << 20,
    b"device::ro.product.name=shiba;ro.product.model=Pixel 8;features=shell_v2,cmd\0",
)
TOKEN = Packet(AUTH, 1, 0, b"t" * 20)


class KnownSigner:
    def sign(self, token: bytes) -> bytes:
        return b"signed " + token

    def public_key(self) -> bytes:
        return b"QAAAA farm@host"


def shake(wire: Any, asked: list[str]) -> Banner:
    return shake_hands(wire, "tcp:phone:5555", KnownSigner(), 5, 5, lambda: asked.append("asked"))


def test_phone_without_authentication(wire) -> None:
    wire.phone_sends(BANNER)
    banner = shake(wire, [])
    hello = wire.next_packet()
    assert (hello.command, hello.arg0, hello.data) == (CNXN, 0x01000001, b"host::features=shell_v2,cmd\0")
    assert banner == Banner(
        checksums=False,
        maximum_payload_bytes=1 << 20,
        system="device",
        properties={"ro.product.name": "shiba", "ro.product.model": "Pixel 8"},
        features=frozenset({"shell_v2", "cmd"}),
    )


def test_known_key_is_proved_by_a_signature(wire) -> None:
    wire.phone_sends(TOKEN, BANNER)
    asked: list[str] = []
    shake(wire, asked)
    wire.next_packet()
    assert wire.next_packet() == Packet(AUTH, 2, 0, b"signed " + b"t" * 20)
    assert asked == []


def test_unknown_key_is_offered_and_the_wait_announced(wire) -> None:
    wire.phone_sends(TOKEN, TOKEN, TOKEN, BANNER)
    asked: list[str] = []
    shake(wire, asked)
    wire.next_packet()
    wire.next_packet()
    assert wire.next_packet() == Packet(AUTH, 3, 0, b"QAAAA farm@host\0")
    assert wire.sent_nothing_more
    assert asked == ["asked"]


def test_what_the_phone_still_says_on_an_earlier_link_is_left_out(wire) -> None:
    earlier = [
        Packet(b"WRTE", 7, 3, b"x"),
        Packet(b"OKAY", 7, 3),
        Packet(b"CLSE", 7, 3),
        Packet(b"OPEN", 9, 0),
    ]
    wire.phone_sends(*earlier, TOKEN, *earlier, BANNER)
    assert shake(wire, []).system == "device"
    wire.next_packet()
    assert wire.next_packet().command == AUTH
    assert wire.sent_nothing_more


def test_nobody_accepts_the_key(wire) -> None:
    wire.phone_sends(TOKEN, TOKEN)
    wire.phone_leaves("it did not answer in time")
    with pytest.raises(AuthorisationRequired, match="accept 'Allow USB debugging"):
        shake(wire, [])


@pytest.mark.parametrize(
    ("packets", "error", "reason"),
    [
        ([], LinkLost, "while the link was being set up"),
        ([Packet(STLS, 1, 0)], DeviceError, "adb tcpip 5555"),
        ([Packet(AUTH, 1, 0, b"short")], ProtocolViolationError, "unexpected b'AUTH'"),
        ([Packet(AUTH, 9, 0, b"t" * 20)], ProtocolViolationError, "unexpected b'AUTH'"),
        ([Packet(CNXN, 0x01000001, 16, b"device::\0")], ProtocolViolationError, "only 16 bytes"),
    ],
)
def test_phones_that_cannot_be_used(wire, packets, error, reason) -> None:
    wire.phone_sends(*packets)
    wire.phone_leaves()
    with pytest.raises(error, match=reason):
        shake(wire, [])


def test_old_phones_get_checksums() -> None:
    assert parse_banner(Packet(CNXN, 0x01000000, 4096, b"device::\0")).checksums


@given(st.binary())
def test_any_banner_is_read(data) -> None:
    banner = parse_banner(Packet(CNXN, 0x01000001, 4096, data))
    assert "" not in banner.features
