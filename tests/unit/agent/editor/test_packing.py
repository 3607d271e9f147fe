"""Chunks: every token stands once, and sees what it saw before and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor.packing import MASKED, ChunkShape, Sequences, chunks, fits

SHAPE = ChunkShape(rows=16, past=12, reads=4)


@st.composite
def calls(draw: st.DrawFn) -> Sequences:
    batch, width = draw(st.integers(1, 7)), draw(st.integers(1, 16))
    own, shared = draw(st.booleans()), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 9)))
    lengths = np.array([draw(st.integers(1, 12)) for _ in range(batch if own else 1)], np.int64)
    longest = max(int(lengths.max()), 1)
    past = random.standard_normal((4, len(lengths), 2, longest, 3)).astype(np.float32)
    if own:  # some prefixes are equal
        past[:, shared:], lengths[shared:] = past[:, :1], lengths[0]
    rows = random.integers(0, width, (batch, 2))
    residual = random.standard_normal((batch if own else 1, width, 5)).astype(np.float32)
    delta = random.standard_normal((batch, 5)).astype(np.float32)
    return Sequences(residual, delta, past, lengths, rows)


@given(call=calls())
def test_every_sequence_sees_itself_and_its_prefix(call: Sequences) -> None:
    assert fits(call, SHAPE)
    width, seen = call.residual.shape[1], []
    for chunk in chunks(call, SHAPE):
        feeds = chunk.feeds
        mask = feeds["mask"][0, 0]
        assert set(np.unique(mask)) <= {np.float32(0), np.float32(MASKED)}
        for index, start in zip(chunk.sequences, chunk.starts, strict=True):
            seen.append(index)
            one = index if len(call.lengths) > 1 else 0
            length = int(call.lengths[one])
            source = call.residual[index if len(call.residual) > 1 else 0]
            assert (feeds["residual"][0, start : start + width] == source).all()
            assert (feeds["delta"][0, start] == call.delta[index]).all()
            for step in range(width):
                row = mask[start + step]
                places = np.flatnonzero(row[: SHAPE.past] == 0)
                assert len(places) == length
                for tensor, name in enumerate(("key_0", "value_0", "key_1", "value_1")):
                    held = feeds[f"past_{name}"][0][:, places]
                    assert (held == call.past[tensor, one, :, :length]).all()
                visible = np.flatnonzero(row[SHAPE.past :] == 0)
                assert visible.tolist() == list(range(start, start + step + 1))
                assert feeds["positions"][start + step] == length + step
        # What is padding sees itself alone, and no token sees it.
        for row in range(len(chunk.sequences) * width, SHAPE.rows):
            assert np.flatnonzero(mask[row] == 0).tolist() == [SHAPE.past + row]
    assert sorted(seen) == list(range(len(call.delta)))


def test_what_is_too_long_does_not_fit() -> None:
    one = np.zeros((1, 17, 5), np.float32)
    nothing = np.zeros((2, 1, 2, 1, 3), np.float32)
    rows = np.zeros((1, 1), np.int64)
    assert not fits(Sequences(one, one[:, 0], nothing, np.array([0]), rows), SHAPE)
    assert not fits(Sequences(one[:, :2], one[:, 0], nothing, np.array([13]), rows), SHAPE)
    assert not fits(Sequences(one[:, :2], one[:, 0], nothing, np.array([0]), rows), SHAPE)
    assert fits(Sequences(one[:, :16], one[:, 0], nothing, np.array([12]), rows), SHAPE)
