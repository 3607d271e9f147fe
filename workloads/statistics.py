"""Estimates with their uncertainty. Pure; randomness is passed in."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, ``low <= high``."""

    low: float
    high: float


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> Interval:
    """Confidence interval of a proportion (Wilson, 1927: Probable inference, the law of succession).

    ``successes`` is a fraction where trials are right in part; then the interval is rather too wide, since
    nothing between 0 and 1 varies more than what is 0 or 1.

    Raises:
        ValueError: no trials, or successes outside 0..trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is no proportion")
    z = _normal_quantile(confidence)
    share = successes / trials
    shrink = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def bootstrap_mean_interval(
    values: Sequence[float],
    generator: np.random.Generator,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap interval of a mean (Efron, 1979).

    Args:
        values: the observations, at least one.
        generator: source of the resamples.
        clusters: a name per observation; observations of one name are drawn together, as edits of one fact
            are not independent. Without it every observation stands for itself.

    Raises:
        ValueError: no values, or another number of cluster names.
    """
    if not values:
        raise ValueError("the mean of no values is unknown")
    _normal_quantile(confidence)
    names = list(range(len(values))) if clusters is None else list(clusters)
    if len(names) != len(values):
        raise ValueError(f"{len(values)} values but {len(names)} cluster names")
    position = {name: i for i, name in enumerate(dict.fromkeys(names))}
    owner = np.array([position[name] for name in names])
    sums = np.bincount(owner, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(owner)
    drawn = generator.integers(0, len(position), size=(resamples, len(position)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(low), float(high))


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value below which a share of the values lies (linear between neighbours); None of no values."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), share)) if values else None


def median(values: Sequence[float]) -> float | None:
    """The middle value; None of no values."""
    return quantile(values, 0.5)


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None of no values."""
    return math.fsum(values) / len(values) if values else None


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
