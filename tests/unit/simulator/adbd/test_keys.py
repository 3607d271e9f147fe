from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.adbd.keys import KeyFormatError, PublicKey, parse_public_key, verify

PRIVATE_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
TOKEN = bytes(range(20))


def encode_public_key(key: rsa.RSAPublicKey) -> bytes:
    numbers = key.public_numbers()
    n0_inverse = (-pow(numbers.n, -1, 2**32)) % 2**32
    raw = (64).to_bytes(4, "little") + n0_inverse.to_bytes(4, "little")
    raw += numbers.n.to_bytes(256, "little") + pow(2, 4096, numbers.n).to_bytes(256, "little")
    return base64.b64encode(raw + numbers.e.to_bytes(4, "little")) + b" someone@somewhere\0"


def sign(token: bytes) -> bytes:
    return PRIVATE_KEY.sign(token, padding.PKCS1v15(), Prehashed(hashes.SHA1()))


@pytest.fixture(scope="module")
def public_key() -> PublicKey:
    return parse_public_key(encode_public_key(PRIVATE_KEY.public_key()))


def test_key_is_parsed(public_key: PublicKey) -> None:
    assert public_key.name == "someone@somewhere"
    assert public_key.modulus == PRIVATE_KEY.public_key().public_numbers().n
    assert parse_public_key(f"{public_key.encoded} {public_key.name}") == public_key
    assert len(public_key.fingerprint.split(":")) == 16


def test_signature_is_accepted(public_key: PublicKey) -> None:
    assert verify(public_key, TOKEN, sign(TOKEN))


@given(st.integers(0, 256 * 8 - 1))
def test_any_changed_bit_is_refused(public_key: PublicKey, bit: int) -> None:
    signature = bytearray(sign(TOKEN))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(public_key, TOKEN, signature)


def test_signature_of_another_token_or_length_is_refused(public_key: PublicKey) -> None:
    assert not verify(public_key, TOKEN, sign(bytes(20)))
    assert not verify(public_key, TOKEN, sign(TOKEN)[:-1])
    assert not verify(public_key, TOKEN, b"")


@given(st.binary(max_size=800) | st.binary(min_size=524, max_size=524).map(base64.b64encode))
def test_anything_else_is_no_key(data: bytes) -> None:
    with pytest.raises(KeyFormatError):
        parse_public_key(data)
