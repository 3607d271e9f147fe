"""The first packets of an ADB connection: who we are, proof of our key, who the phone is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from mobifarm.controller.errors import AuthorisationRequired, DeviceError, LinkLost
from mobifarm.controller.transport.packets import (
    AUTH,
    CLSE,
    CNXN,
    MAXIMUM_PAYLOAD_BYTES,
    OKAY,
    OPEN,
    STLS,
    VERSION_WITHOUT_CHECKSUM,
    WRTE,
    Packet,
    ProtocolViolationError,
    read_packet,
)
from mobifarm.controller.transport.wire import Wire

_AUTH_TOKEN: Final = 1
_AUTH_SIGNATURE: Final = 2
_AUTH_PUBLIC_KEY: Final = 3
_TOKEN_BYTES: Final = 20
_FEATURES: Final = "shell_v2,cmd"
# A USB link has no end that the phone sees: until our CNXN it goes on with the streams of who came before.
_OF_EARLIER_LINKS: Final = frozenset((OPEN, OKAY, WRTE, CLSE))


class Signer(Protocol):
    """Signs the phone's challenges with the farm's key."""

    def sign(self, token: bytes) -> bytes:
        """The PKCS#1 v1.5 signature of a 20-byte SHA-1 digest."""
        ...

    def public_key(self) -> bytes:
        """The key in Android's format, as in ``adbkey.pub``."""
        ...


@dataclass(frozen=True, slots=True)
class Banner:
    """What the phone says about itself when the link is up. All text is untrusted."""

    checksums: bool
    maximum_payload_bytes: int
    system: str
    properties: Mapping[str, str]
    features: frozenset[str]


def parse_banner(packet: Packet) -> Banner:
    """Read a CNXN packet: ``SYSTEM:SERIAL:key=value;...;features=a,b``.

    Raises:
        ProtocolViolationError: the payload limit is out of range.
    """
    system, _, rest = bytes(packet.data).decode(errors="replace").rstrip("\0").partition(":")
    _serial, _, fields = rest.partition(":")
    properties = dict(field.split("=", 1) for field in fields.split(";") if "=" in field)
    features = frozenset(properties.pop("features", "").split(",")) - {""}
    if packet.arg1 < 4096:
        raise ProtocolViolationError(f"it accepts packets of only {packet.arg1} bytes")
    return Banner(
        checksums=packet.arg0 < VERSION_WITHOUT_CHECKSUM,
        maximum_payload_bytes=min(packet.arg1, MAXIMUM_PAYLOAD_BYTES),
        system=system,
        properties=MappingProxyType(properties),
        features=features,
    )


def shake_hands(
    wire: Wire,
    name: str,
    signer: Signer,
    timeout_s: float,
    authorisation_timeout_s: float,
    on_authorisation: Callable[[], None],
) -> Banner:
    """Introduce this host and authenticate.

    Args:
        wire: fresh connection; the caller closes it where this raises.
        name: of the phone, for messages.
        signer: the farm's key.
        timeout_s: for the whole exchange while nobody has to touch the phone.
        authorisation_timeout_s: how long a person has to accept the key. The question on the screen
            disappears with the connection, so it pays to wait on the same one.
        on_authorisation: called when the phone is about to ask.

    Raises:
        AuthorisationRequired: the key was not accepted in time.
        DeviceError: the phone cannot be used as it is.
        LinkLost: the connection ended (Silent: it did not, and nothing came).
    """
    wire.set_read_timeout(timeout_s)
    _send(
        wire,
        Packet(
            CNXN, VERSION_WITHOUT_CHECKSUM, MAXIMUM_PAYLOAD_BYTES, f"host::features={_FEATURES}\0".encode()
        ),
    )
    signed = asked = False
    while True:
        try:
            packet = read_packet(wire.read_exactly)
        except LinkLost as error:
            if asked:
                raise AuthorisationRequired(
                    f"{name} does not trust this farm's ADB key yet: unlock its screen, accept "
                    f"'Allow USB debugging?' and tick 'Always allow' (no answer: {error})"
                ) from error
            raise type(error)(f"{name}: {error} while the link was being set up") from error
        if packet.command in _OF_EARLIER_LINKS:
            continue
        if packet.command == CNXN:
            wire.set_read_timeout(None)
            return parse_banner(packet)
        if packet.command == STLS:
            raise DeviceError(
                f"{name} asks for wireless debugging with pairing, which this link cannot do; "
                "connect a cable (or switch the phone to plain TCP with `adb tcpip 5555`)"
            )
        if packet.command != AUTH or packet.arg0 != _AUTH_TOKEN or len(packet.data) != _TOKEN_BYTES:
            raise ProtocolViolationError(
                f"{name}: it sent an unexpected {packet.command!r} packet before the link was up"
            )
        if not signed:
            signed = True
            _send(wire, Packet(AUTH, _AUTH_SIGNATURE, 0, signer.sign(bytes(packet.data))))
        elif not asked:
            asked = True
            on_authorisation()
            wire.set_read_timeout(authorisation_timeout_s)
            _send(wire, Packet(AUTH, _AUTH_PUBLIC_KEY, 0, signer.public_key() + b"\0"))


def _send(wire: Wire, packet: Packet) -> None:
    # Until the phone has named its version it may be one that compares checksums.
    wire.write(packet.header(checksum=True), packet.data)
