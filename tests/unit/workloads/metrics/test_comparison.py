"""Estimates over many edits: failures count, intervals hold the value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobifarm.workloads.metrics.comparison import (
    SUCCESS,
    MeasuredEdit,
    cost_per_success,
    cost_ratio,
    mean_metric,
    median_cost,
)
from mobifarm.workloads.metrics.measures import METRIC_NAMES


def edit(name: str, success: float, evaluations: float, **metrics: float) -> MeasuredEdit:
    values: dict[str, float | None] = dict.fromkeys(METRIC_NAMES)
    return MeasuredEdit(
        name, values | {SUCCESS: success} | metrics, {"loss_evaluations": evaluations}, bool(success)
    )


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_edits_in_vain_are_paid_for() -> None:
    edits = [edit("a", 1, 10), edit("b", 0, 50), edit("c", 1, 30)]
    per_success = cost_per_success(edits, "loss_evaluations", generator())
    median = median_cost(edits, "loss_evaluations", generator())
    assert per_success is not None
    assert median is not None
    assert per_success.value == 45
    assert median.value == 20
    assert median.count == 2


def test_without_a_success_there_is_no_cost_of_one() -> None:
    edits = [edit("a", 0, 10)]
    assert cost_per_success(edits, "loss_evaluations", generator()) is None
    assert median_cost(edits, "loss_evaluations", generator()) is None
    assert cost_ratio(edits, edits, "loss_evaluations", generator()) is None


def test_a_ratio_compares_cost_per_success_on_the_same_records() -> None:
    quick = [edit("a", 1, 10), edit("b", 1, 20), edit("c", 0, 30)]
    slow = [edit("a", 1, 100), edit("b", 1, 200), edit("c", 1, 300)]
    found = cost_ratio(quick, slow, "loss_evaluations", generator())
    assert found is not None
    assert found.value == pytest.approx((600 / 3) / (60 / 2))
    assert found.interval.low <= found.value <= found.interval.high
    in_part = cost_ratio(quick[:2], slow, "loss_evaluations", generator())
    assert in_part is not None
    assert (in_part.value, in_part.count) == (pytest.approx(10), 2)
    assert cost_ratio(quick, [edit("z", 1, 5)], "loss_evaluations", generator()) is None


def test_what_costs_nothing_has_no_ratio() -> None:
    assert cost_ratio([edit("a", 1, 0)], [edit("a", 1, 5)], "loss_evaluations", generator()) is None


def test_a_mean_leaves_out_records_without_such_prompts_only() -> None:
    edits = [
        edit("a", 1, 1, paraphrase_probability=0.5),
        edit("b", 1, 1),
        edit("c", 0, 1, paraphrase_probability=0),
    ]
    found = mean_metric(edits, "paraphrase_probability", generator())
    assert found is not None
    assert (found.value, found.count) == (0.25, 2)
    assert mean_metric(edits, "portability_teacher_forced", generator()) is None


def test_shares_of_all_or_nothing_keep_an_interval_that_is_wider_than_a_point() -> None:
    found = mean_metric([edit(str(i), 1, 1) for i in range(20)], SUCCESS, generator())
    assert found is not None
    assert found.value == found.interval.high == 1
    assert 0.8 < found.interval.low < 0.9
    drift = mean_metric([edit("a", 1, 1, perplexity_drift=0.0)], "perplexity_drift", generator())
    assert drift is not None
    assert drift.interval.low == drift.interval.high == 0


@settings(max_examples=15)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 500)), min_size=1, max_size=12))
def test_intervals_hold_the_value_and_are_reproducible(outcomes: list[tuple[bool, int]]) -> None:
    edits = [edit(str(i), float(success), cost) for i, (success, cost) in enumerate(outcomes)]
    first = cost_per_success(edits, "loss_evaluations", generator())
    assert first == cost_per_success(edits, "loss_evaluations", generator())
    if any(success for success, _ in outcomes):
        assert first is not None
        assert first.interval.low <= first.interval.high
        assert math.isfinite(first.value)
    else:
        assert first is None
