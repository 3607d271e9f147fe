"""Messages between the agent and a worker process that owns an accelerator, over a stream socket.

On Android the accelerator's libraries belong to bionic and the agent to glibc, so that one process cannot
hold both; a worker in another language speaks this too. A message is

    u32 length of the header, u64 length of the body (both little-endian), header, body.

The header is a JSON object in UTF-8. Its ``arrays`` lists ``[name, dtype, shape]`` of the arrays in the body,
one after the other, little-endian, in C order. Requests have a ``call``; answers an ``error`` (text) where it
failed.

    hello                      → version, accelerator
    load  graph, array "model" (uint8: an ONNX file or one compiled ahead) → nothing
    run   graph, arrays        → arrays
    placement                  → operators, on_accelerator, estimated_cycles (number or null), proof

A worker forgets its graphs when the connection ends.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

VERSION: Final = 1
_LENGTHS: Final = struct.Struct("<IQ")
_HEADER_LIMIT: Final = 1 << 20
_BODY_LIMIT: Final = 1 << 31
_DTYPES: Final = frozenset({"float32", "int32", "int64", "uint8"})


class ProtocolError(Exception):
    """The other side sent what is no message."""


class Closed(Exception):
    """The other side closed the connection."""


@dataclass(frozen=True, slots=True)
class Message:
    """Fields of the header, and arrays."""

    fields: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def send(connection: socket.socket, message: Message, until: float | None = None) -> None:
    """Send a message.

    Args:
        until: ``time.monotonic()`` at which all of it is to be sent; None waits for ever.

    Raises:
        OSError: the connection broke, or the time passed (TimeoutError).
    """
    arrays = {name: np.asarray(array, order="C") for name, array in message.arrays.items()}
    described = [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({**message.fields, "arrays": described}).encode()
    body = sum(array.nbytes for array in arrays.values())
    _limit(connection, until)
    connection.sendall(_LENGTHS.pack(len(header), body) + header)
    for array in arrays.values():
        _limit(connection, until)
        connection.sendall(array.data.cast("B") if array.size else b"")


def receive(connection: socket.socket, until: float | None = None) -> Message:
    """Receive a message.

    Args:
        until: ``time.monotonic()`` at which all of it is to be here; None waits for ever.

    Raises:
        Closed: there is none and there will be none.
        ProtocolError: what came is no message.
        OSError: the connection broke, or the time passed (TimeoutError).
    """
    header_length, body_length = _LENGTHS.unpack(_receive(connection, _LENGTHS.size, until, first=True))
    if header_length > _HEADER_LIMIT or body_length > _BODY_LIMIT:
        raise ProtocolError(f"a message of {header_length} and {body_length} bytes is too long")
    try:
        fields = json.loads(bytes(_receive(connection, header_length, until)))
        described = [
            (str(name), str(kind), [int(n) for n in shape]) for name, kind, shape in fields["arrays"]
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError("the header of a message cannot be read") from error
    body = _receive(connection, body_length, until)
    arrays, start = {}, 0
    for name, kind, shape in described:
        if kind not in _DTYPES or any(size < 0 for size in shape):
            raise ProtocolError(f"an array of {kind[:20]!r} is not understood")
        count = math.prod(shape)
        stop = start + count * np.dtype(kind).itemsize
        if stop > body_length:
            raise ProtocolError("a message is shorter than its header says")
        try:
            arrays[name] = np.frombuffer(body, kind, count, start).reshape(shape)
        except (ValueError, OverflowError) as error:  # too many dimensions, or one that is too long
            raise ProtocolError("an array has a shape that cannot be") from error
        start = stop
    if start != body_length:
        raise ProtocolError("a message is longer than its header says")
    return Message({key: value for key, value in fields.items() if key != "arrays"}, arrays)


def _limit(connection: socket.socket, until: float | None) -> None:
    """A socket's timeout counts from each call: a message that comes byte by byte would never time out."""
    if until is not None:
        rest_s = until - time.monotonic()
        if rest_s <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(rest_s)


def _receive(
    connection: socket.socket, length: int, until: float | None, *, first: bool = False
) -> bytearray:
    # Grows as bytes arrive: what a header promises is not allocated on its word alone.
    found = bytearray()
    while len(found) < length:
        _limit(connection, until)
        part = connection.recv(min(length - len(found), 1 << 20))
        if not part:
            if first and not found:
                raise Closed
            raise ProtocolError("the connection ended in the middle of a message")
        found += part
    return found
