"""Axes: where a value lies, and where the ticks stand. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_DECADES_WITH_HALVES: Final = 2
_PLAIN: Final = (0.001, 10_000)  # beyond, a logarithmic axis is labelled in powers of ten
_NARROWEST: Final = 1e-3  # of any quantity here, less is no difference


@dataclass(frozen=True, slots=True)
class Scale:
    """From values in ``low..high`` to positions in ``start..end``; ``logarithmic`` wants values above 0."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def label(self, tick: float) -> str:
        """A tick's number, with as many decimals as tell the ticks apart."""
        if self.logarithmic and not _PLAIN[0] <= self.low <= self.high <= _PLAIN[1]:
            return "1" if tick == 1 else f"10{_superscript(round(math.log10(tick)))}"
        if self.logarithmic:
            return f"{tick:g}"
        gap = min((b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)), default=1.0)
        decimals = next((count for count in range(6) if round(gap, count) == round(gap, 6)), 6)
        return f"{tick:,.{decimals}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def linear(values: Sequence[float], start: float, end: float, *, about: int = 5, zero: bool = False) -> Scale:
    """A scale that holds all values, with round ends and about so many gaps between its ticks.

    Args:
        zero: whether it begins at 0.

    Raises:
        ValueError: no values.
    """
    low, high = min(values), max(values)
    if zero:
        low = min(0.0, low)
    if high - low < _NARROWEST:
        high, low = high + 1, low if zero else low - 1
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * each for each in _STEPS if power * each >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(step * place, 10) for place in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def logarithmic(values: Sequence[float], start: float, end: float, *, ticks: int = 6) -> Scale:
    """A scale of whole powers of ten that holds all values, which must be above 0.

    Raises:
        ValueError: no values, or one that is not above 0.
    """
    if min(values) <= 0:
        raise ValueError(f"{min(values)} has no logarithm")
    low, high = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    if high == low:
        high += 1
    apart = math.ceil((high - low) / ticks)
    shown = [10.0**power for power in range(high, low - 1, -apart)][::-1]
    if high - low <= _DECADES_WITH_HALVES and _PLAIN[0] <= 10.0**low <= 10.0**high <= _PLAIN[1]:
        shown = sorted({*shown, *(m * 10.0**power for power in range(low, high) for m in (2, 5))})
    return Scale(10.0**low, 10.0**high, start, end, tuple(shown), logarithmic=True)


def _superscript(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
