"""Packs the sequences of a call into chunks of fixed size for static graphs. Pure numpy.

A chunk has R rows for tokens and P places for cached prefixes. Several sequences share it, one after the
other; the mask keeps them apart (a block of the diagonal each) and hides what is padding. Sequences with the
same prefix share its places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# Far below any score, and near enough that 16 bits still tell scores apart: exp(−64) is 1.6e-28.
MASKED = -64.0


@dataclass(frozen=True, slots=True)
class ChunkShape:
    """``rows`` R, ``past`` P, and ``reads`` N, the rows that one call of the read-out takes."""

    rows: int
    past: int
    reads: int


@dataclass(frozen=True, slots=True)
class Sequences:
    """A call of ``Bundle.upper``, see there: residual [b, S, d], delta [B, d], past
    [2L', b, H, P', h] with lengths [b], rows [b, N]; each b is 1 or B."""

    residual: Floats
    delta: Floats
    past: Floats
    lengths: Integers
    rows: Integers


@dataclass(frozen=True, slots=True)
class Chunk:
    """Inputs of the graph ``layers`` and where the rows that are asked for come out.

    Attributes:
        feeds: name of the input → array.
        sequences: which rows of the batch it holds.
        starts: the row where each of them begins.
    """

    feeds: Mapping[str, NDArray[np.generic]]
    sequences: Sequence[int]
    starts: Sequence[int]


def fits(call: Sequences, shape: ChunkShape) -> bool:
    """Whether every sequence fits into a chunk with its prefix; without one the scales do not fit it."""
    return (
        call.residual.shape[1] <= shape.rows
        and int(call.lengths.max()) <= shape.past
        and int(call.lengths.min()) > 0
    )


def chunks(call: Sequences, shape: ChunkShape) -> Iterator[Chunk]:
    """The chunks of a call, see :func:`fits`."""
    prefixes = _prefixes(call)
    group: list[int] = []
    places: dict[int, int] = {}
    used = 0
    width = call.residual.shape[1]
    for index in range(len(call.delta)):
        prefix = prefixes[index]
        needed = 0 if prefix in places else int(_one(call.lengths, index))
        if group and ((len(group) + 1) * width > shape.rows or used + needed > shape.past):
            yield _chunk(call, shape, group, prefixes, places)
            group, places, used, needed = [], {}, 0, int(_one(call.lengths, index))
        places.setdefault(prefix, used)
        used += needed
        group.append(index)
    if group:
        yield _chunk(call, shape, group, prefixes, places)


def _chunk(
    call: Sequences,
    shape: ChunkShape,
    group: Sequence[int],
    prefixes: Sequence[int],
    places: Mapping[int, int],
) -> Chunk:
    width, hidden = call.residual.shape[1:]
    tensors, _, heads, _, head_dim = call.past.shape
    residual, delta = (np.zeros((1, shape.rows, hidden), np.float32) for _ in range(2))
    positions = np.zeros(shape.rows, np.int32)
    # A row that is padding repeats the first one and sees itself alone: an HTP divides zeros by their norm
    # otherwise than the processor, and a probe compares all rows.
    mask = np.full((1, 1, shape.rows, shape.past + shape.rows), MASKED, np.float32)
    own = mask[0, 0, :, shape.past :]
    np.fill_diagonal(own, 0)
    past = np.zeros((tensors, 1, heads, shape.past, head_dim), np.float32)
    starts = [number * width for number in range(len(group))]
    causal = np.where(np.tri(width, dtype=bool), np.float32(0), np.float32(MASKED))
    for start, index in zip(starts, group, strict=True):
        length, place = int(_one(call.lengths, index)), places[prefixes[index]]
        here = slice(start, start + width)
        residual[0, here] = _one(call.residual, index)
        delta[0, start] = call.delta[index]
        positions[here] = length + np.arange(width)
        own[here, here] = causal
        mask[0, 0, here, place : place + length] = 0
        source = index if call.past.shape[1] > 1 else 0
        past[:, 0, :, place : place + length] = call.past[:, source, :, :length]
    residual[0, starts[-1] + width :] = residual[0, 0]
    feeds: dict[str, NDArray[np.generic]] = {
        "residual": residual,
        "delta": delta,
        "positions": positions,
        "mask": mask,
    }
    for index in range(tensors // 2):
        feeds[f"past_key_{index}"] = past[2 * index]
        feeds[f"past_value_{index}"] = past[2 * index + 1]
    return Chunk(feeds, tuple(group), tuple(starts))


def _prefixes(call: Sequences) -> list[int]:
    """A number for each sequence's prefix, the same for equal ones."""
    batch = len(call.delta)
    if call.past.shape[1] == 1 and len(call.lengths) == 1:
        return [0] * batch
    known: dict[tuple[int, bytes], int] = {}
    found = []
    for index in range(batch):
        length = int(_one(call.lengths, index))
        source = index if call.past.shape[1] > 1 else 0
        key = (length, call.past[:, source, :, :length].tobytes())
        found.append(known.setdefault(key, len(known)))
    return found


def _one(array: NDArray[np.generic], index: int) -> NDArray[np.generic]:
    """What belongs to one sequence of a batch, where one row may stand for all."""
    picked: NDArray[np.generic] = array[index if len(array) > 1 else 0]
    return picked
