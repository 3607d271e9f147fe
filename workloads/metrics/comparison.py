"""Many measured edits as estimates with 95 % intervals: quality, and cost per successful edit. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mobifarm.workloads.metrics.measures import NO_SHARES, Metrics
from mobifarm.workloads.statistics import Interval, bootstrap_mean_interval, wilson_interval

_RESAMPLES = 2000
_TAIL = 0.025

# An edit is successful when the model says the new answer by itself; the probability form is far easier.
SUCCESS = "efficacy_greedy_begins"
COSTS = ("loss_evaluations", "token_layers", "edit_s")


@dataclass(frozen=True, slots=True)
class MeasuredEdit:
    """One record under one method.

    Attributes:
        record_id: the record.
        metrics: see measures.METRIC_NAMES.
        cost: each of COSTS.
        converged: the method reached its own goal.
        failure: why there is no edit; "" where there is one.
    """

    record_id: str
    metrics: Metrics
    cost: dict[str, float]
    converged: bool
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval; ``count`` records stand behind it."""

    value: float
    interval: Interval
    count: int


def mean_metric(edits: Sequence[MeasuredEdit], name: str, generator: np.random.Generator) -> Estimate | None:
    """Mean over the records that have such prompts, failed edits included; None where none has.

    Shares that are 0 or 1 on every record get Wilson's interval, others the bootstrap over records; of one
    record's fluency or drift there is no interval, so it is the value alone.
    """
    values = [value for edit in edits if (value := edit.metrics[name]) is not None]
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if name not in NO_SHARES and set(values) <= {0.0, 1.0}:
        interval = wilson_interval(round(sum(values)), len(values))
    else:
        interval = bootstrap_mean_interval(values, generator)
    return Estimate(mean, interval, len(values))


def median_cost(edits: Sequence[MeasuredEdit], name: str, generator: np.random.Generator) -> Estimate | None:
    """Median cost of the successful edits; None without any."""
    costs = np.array([edit.cost[name] for edit in edits if succeeded(edit)])
    return _bootstrap(len(costs), lambda drawn: float(np.median(costs[drawn])), generator)


def cost_per_success(
    edits: Sequence[MeasuredEdit], name: str, generator: np.random.Generator
) -> Estimate | None:
    """Cost of all edits, those in vain included, divided by the number of successes; None without any."""
    costs = np.array([edit.cost[name] for edit in edits])
    successes = np.array([succeeded(edit) for edit in edits], dtype=float)
    if not successes.any():
        return None

    def ratio(drawn: np.ndarray) -> float:
        number = successes[drawn].sum()
        return float(costs[drawn].sum() / number) if number else math.inf

    return _bootstrap(len(edits), ratio, generator)


def cost_ratio(
    edits: Sequence[MeasuredEdit],
    reference: Sequence[MeasuredEdit],
    name: str,
    generator: np.random.Generator,
) -> Estimate | None:
    """How many times the cost per success of ``reference`` is that of ``edits``, records drawn in pairs.

    Records that only one of the two has are left out; None where nothing can be compared.
    """
    others = {edit.record_id: edit for edit in reference}
    pairs = [(edit, others[edit.record_id]) for edit in edits if edit.record_id in others]
    if not pairs:
        return None
    costs = np.array([[edit.cost[name] for edit in pair] for pair in pairs]).T
    successes = np.array([[succeeded(edit) for edit in pair] for pair in pairs], dtype=float).T
    if not successes.any(axis=1).all() or not costs[0].sum():
        return None

    def ratio(drawn: np.ndarray) -> float:
        numbers, sums = successes[:, drawn].sum(axis=1), costs[:, drawn].sum(axis=1)
        if not numbers.all() or not sums[0]:
            return math.inf if not numbers[1] else 0.0
        return float((sums[1] / numbers[1]) / (sums[0] / numbers[0]))

    return _bootstrap(len(pairs), ratio, generator)


def succeeded(edit: MeasuredEdit) -> bool:
    """Whether the model says the new answer by itself after the prompt."""
    return edit.metrics[SUCCESS] == 1


def _bootstrap(
    count: int, statistic: Callable[[np.ndarray], float], generator: np.random.Generator
) -> Estimate | None:
    """Percentile bootstrap of any statistic over ``count`` records, given as indices."""
    if not count:
        return None
    drawn = generator.integers(0, count, size=(_RESAMPLES, count))
    values = np.sort([statistic(row) for row in drawn])
    # Order statistics, not interpolated: a resample without a success is infinite.
    low, high = values[int(_TAIL * _RESAMPLES)], values[int((1 - _TAIL) * _RESAMPLES)]
    return Estimate(statistic(np.arange(count)), Interval(float(low), float(high)), count)
