"""ADB's RSA authentication: the public key format of libmincrypt and the signature over a token. Pure.

A public key file is ``base64(struct) user@host``; the struct holds the modulus length in 32-bit words,
-1/n[0] mod 2**32, the modulus and R**2 mod n (both little-endian), and the exponent. The host signs the
20-byte token as if it were a SHA-1 digest (PKCS #1 v1.5).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass

TOKEN_SIZE = 20
_WORDS = 64
_MODULUS_SIZE = 4 * _WORDS
_STRUCT = struct.Struct(f"<II{_MODULUS_SIZE}s{_MODULUS_SIZE}sI")
_SHA1_DIGEST_INFO = bytes.fromhex("3021300906052b0e03021a05000414")


class KeyFormatError(ValueError):
    """The text is not an ADB public key."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A host's RSA-2048 public key."""

    encoded: str
    name: str
    modulus: int
    exponent: int

    @property
    def fingerprint(self) -> str:
        """MD5 of the key's struct in hex pairs, as a phone's "Allow USB debugging?" dialogue shows it."""
        digest = hashlib.md5(base64.b64decode(self.encoded), usedforsecurity=False).hexdigest().upper()
        return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def parse_public_key(data: bytes | bytearray | str) -> PublicKey:
    """Parse the payload of an AUTH packet or a line of an ``adb_keys`` file.

    Raises :class:`KeyFormatError` where it is not a 2048-bit key in ADB's format.
    """
    try:
        text = data if isinstance(data, str) else bytes(data).decode("ascii")
        encoded, _, name = text.rstrip("\0\n").partition(" ")
        raw = base64.b64decode(encoded, validate=True)
    except (UnicodeDecodeError, binascii.Error, ValueError) as error:
        raise KeyFormatError("the key is not base64 text") from error
    if len(raw) != _STRUCT.size:
        raise KeyFormatError(f"the key has {len(raw)} bytes, expected {_STRUCT.size}")
    words, _, modulus, _, exponent = _STRUCT.unpack(raw)
    number = int.from_bytes(modulus, "little")
    if words != _WORDS or number.bit_length() != 8 * _MODULUS_SIZE or exponent not in (3, 65537):
        raise KeyFormatError("the key is not a 2048-bit RSA key")
    return PublicKey(encoded, name, number, exponent)


def verify(key: PublicKey, token: bytes, signature: bytes | bytearray) -> bool:
    """True where ``signature`` (256 bytes, big-endian) is the key's signature over the 20-byte ``token``."""
    if len(signature) != _MODULUS_SIZE:
        return False
    signed = pow(int.from_bytes(signature, "big"), key.exponent, key.modulus)
    tail = _SHA1_DIGEST_INFO + token
    padding = b"\xff" * (_MODULUS_SIZE - 3 - len(tail))
    return signed == int.from_bytes(b"\x00\x01" + padding + b"\x00" + tail, "big")
