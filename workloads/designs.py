"""Experiments that compare two methods on the same phone, and say when a difference is none. Pure.

A block is one fact in one repeat on one phone. In an ``ab`` design it holds four edits, in the order ABBA or
BAAB: what drifts evenly over a block (a phone that warms up, a battery that empties) cancels in the mean of
the two A and the two B. The two edits of one method are an A/A run: their difference is what this phone
makes of nothing, its noise. An ``aa`` design holds only such pairs.

An effect is reported as a difference only where it is beyond the phone's noise floor and its interval leaves
out zero; everything else is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Arm = Literal["A", "B"]
DesignKind = Literal["ab", "aa"]

BLOCKS_NEEDED: Final = 3
CONFIDENCE: Final = 0.95
RESAMPLES: Final = 4000
ALL_PHONES: Final = "all phones"

_ORDERS: Final[Mapping[DesignKind, Sequence[tuple[Arm, ...]]]] = {
    "ab": (("A", "B", "B", "A"), ("B", "A", "A", "B")),
    "aa": (("A", "A"),),
}


class Verdict(StrEnum):
    """What may be said about B against A."""

    LOWER = "B is lower"
    HIGHER = "B is higher"
    INCONCLUSIVE = "inconclusive"
    TOO_FEW = f"fewer than {BLOCKS_NEEDED} blocks"
    NOISE = "noise floor"  # of an A/A design, where there is nothing else to say


@dataclass(frozen=True, slots=True)
class Block:
    """A complete block on one phone: what was measured, in the order of its edits."""

    phone: str
    arms: tuple[Arm, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A on one phone, or on all of them.

    Where ``relative``, ``effect`` is the ratio B/A less 1, else the difference B - A; None without B. ``low``
    and ``high`` are its 95 % interval, ``floor`` is what the mean of as many A/A differences stays below in
    95 % of cases. The floor of ABBA holds the drift that the effect is free of: it is rather too high.
    """

    phone: str
    blocks: int
    relative: bool
    effect: float | None
    low: float | None
    high: float | None
    floor: float | None
    verdict: Verdict


def block_orders(kind: DesignKind, blocks: int, generator: np.random.Generator) -> list[tuple[Arm, ...]]:
    """The order of the arms in each block: both orders equally often (but for one), shuffled."""
    orders = _ORDERS[kind]
    first = int(generator.integers(len(orders)))
    drawn = [orders[(first + number) % len(orders)] for number in range(blocks)]
    return [drawn[int(index)] for index in generator.permutation(blocks)]


def full_block(kind: DesignKind) -> int:
    """Edits of a complete block."""
    return len(_ORDERS[kind][0])


def compare(blocks: Sequence[Block], *, relative: bool, generator: np.random.Generator) -> list[Comparison]:
    """One comparison per phone, in the order in which they appear, then one over all where there are several.

    Args:
        blocks: complete ones; with ``relative`` all values must be above 0.
        relative: whether effects are ratios, as for times, or differences, as for shares.
    """
    by_phone: dict[str, list[Block]] = {}
    for block in blocks:
        by_phone.setdefault(block.phone, []).append(block)
    samples = {phone: _Sample.of(found, relative) for phone, found in by_phone.items()}
    rows = [_comparison(phone, [sample], relative, generator) for phone, sample in samples.items()]
    if len(rows) > 1:
        rows.append(_comparison(ALL_PHONES, list(samples.values()), relative, generator))
    return rows


@dataclass(frozen=True, slots=True)
class _Sample:
    """Of one phone: B - A of every block, (blocks,) or None, and its A/A differences, (pairs,)."""

    effects: NDArray[np.float64] | None
    nulls: NDArray[np.float64]
    blocks: int

    @classmethod
    def of(cls, blocks: Sequence[Block], relative: bool) -> _Sample:
        effects, nulls = [], []
        for block in blocks:
            values = [math.log(value) if relative else value for value in block.values]
            arms: dict[str, list[float]] = {}
            for arm, value in zip(block.arms, values, strict=True):
                arms.setdefault(arm, []).append(value)
            if "B" in arms:
                effects.append(float(np.mean(arms["B"]) - np.mean(arms["A"])))
            nulls += [
                # Of equal noise in all edits, B - A of ABBA has 1/√2 the spread of the difference of two.
                (second - first) / math.sqrt(2)
                for same in arms.values()
                for first, second in combinations(same, 2)
            ]
        return cls(np.array(effects) if effects else None, np.array(nulls), len(blocks))


def _comparison(
    phone: str, samples: Sequence[_Sample], relative: bool, generator: np.random.Generator
) -> Comparison:
    number = sum(sample.blocks for sample in samples)
    if min(sample.blocks for sample in samples) < BLOCKS_NEEDED:
        return Comparison(phone, number, relative, None, None, None, None, Verdict.TOO_FEW)
    tail = (1 - CONFIDENCE) / 2
    scale = math.expm1 if relative else float
    # Any of the two edits might have been the first: signs are drawn as well.
    null_means = np.mean([_null_means(sample, generator) for sample in samples], axis=0)
    floor = float(np.quantile(np.abs(null_means), CONFIDENCE))
    effects = [sample.effects for sample in samples if sample.effects is not None]
    if len(effects) < len(samples):
        return Comparison(phone, number, relative, None, None, None, scale(floor), Verdict.NOISE)
    effect = float(np.mean([np.mean(found) for found in effects]))
    drawn = np.mean([_resampled_means(found, generator) for found in effects], axis=0)
    low, high = (float(bound) for bound in np.quantile(drawn, (tail, 1 - tail)))
    clear = abs(effect) > floor and (low > 0 or high < 0)
    verdict = Verdict.INCONCLUSIVE if not clear else Verdict.LOWER if effect < 0 else Verdict.HIGHER
    return Comparison(phone, number, relative, scale(effect), scale(low), scale(high), scale(floor), verdict)


def _null_means(sample: _Sample, generator: np.random.Generator) -> NDArray[np.float64]:
    shape = (RESAMPLES, sample.blocks)
    drawn = sample.nulls[generator.integers(0, len(sample.nulls), size=shape)]
    signs: NDArray[np.float64] = generator.choice((-1.0, 1.0), size=shape)
    means: NDArray[np.float64] = (drawn * signs).mean(axis=1)
    return means


def _resampled_means(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    means: NDArray[np.float64] = values[
        generator.integers(0, len(values), size=(RESAMPLES, len(values)))
    ].mean(axis=1)
    return means
