from __future__ import annotations

from mobifarm.controller.metrics.noise import floors_of
from mobifarm.workloads.comparisons import ComparisonRow, Comparisons
from mobifarm.workloads.designs import Comparison, Verdict


def row(measure: str, phone: str, floor: float | None) -> ComparisonRow:
    return ComparisonRow(measure, Comparison(phone, 5, True, None, None, None, floor, Verdict.NOISE))


def test_the_row_over_all_phones_counts_and_a_missing_floor_is_missing() -> None:
    rows = (
        row("seconds per edit", "one", 0.2),
        row("seconds per edit", "all phones", 0.1),
        row("agent's peak memory", "one", 0.0),
        row("edit success", "one", None),
    )
    found = floors_of(Comparisons("aa", "A", None, 5, 0, rows))
    assert found == {"seconds_per_edit": 0.1, "agents_peak_memory": 0.0}
