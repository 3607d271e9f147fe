from __future__ import annotations

from dataclasses import fields
from typing import Any

from mobifarm.workloads.cells import cells
from mobifarm.workloads.scores import Quality
from mobifarm.workloads.summary import EditRow


def edit(number: int, **changes: Any) -> EditRow:
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(EditRow))
    values |= {
        "trial_id": f"t{number}",
        "label": f"fact-{number}",
        "method": "forward",
        "record_id": f"fact-{number}",
        "status": "converged",
        "quality": Quality(float(number % 2), None, None, None, None),
        "edit_s": 2.0,
        "loss_evaluations": 100 + number,
        "attempt_id": f"a{number}",
        "device_id": "p1",
        "serial": "S1",
        "model": "Pixel 8",
        "execution": "virtual",
    }
    return EditRow(**{**values, **changes})


def test_a_method_is_shown_whole_and_on_each_phone() -> None:
    rows = [edit(i, device_id=f"p{i % 2}", serial=f"S{i % 2}") for i in range(4)]
    whole, first, second = cells(rows, {})
    assert (whole.device_id, whole.edits) == (None, 4)
    assert whole.success is not None
    assert whole.success.mean == 0.5
    assert whole.success.low < 0.5 < whole.success.high
    assert whole.loss_evaluations is not None
    assert whole.loss_evaluations.mean == 101.5
    assert [(cell.device_id, cell.edits) for cell in (first, second)] == [("p0", 2), ("p1", 2)]


def test_a_single_phone_is_its_own_whole_and_kinds_are_not_mixed() -> None:
    rows = [edit(0), edit(1, execution="phone", device_id="p2")]
    assert [(cell.execution, cell.device_id) for cell in cells(rows, {})] == [
        ("virtual", "p1"),
        ("phone", "p2"),
    ]


def test_a_failed_edit_is_unsuccessful_and_costs_nothing_that_is_known() -> None:
    failed = edit(1, status="failed", quality=Quality(0.0, None, None, None, None), loss_evaluations=None)
    (cell,) = cells([edit(3), failed, edit(9, status=None)], {})
    assert (cell.edits, cell.failed) == (2, 1)
    assert cell.success is not None
    assert cell.success.mean == 0.5
    assert cell.loss_evaluations is not None
    assert (cell.loss_evaluations.mean, cell.loss_evaluations.edits) == (103.0, 1)


def test_joules_are_labelled_and_their_absence_has_a_reason() -> None:
    (missing,) = cells([edit(1)], {"a1": {"energy": {"joules": None, "reason": "it was charging"}}})
    assert (missing.joules, missing.joules_provenance, missing.joules_reason) == (
        None,
        None,
        "it was charging",
    )
    (modelled,) = cells([edit(1)], {"a1": {"energy": {"joules": 3.5, "reason": None}}})
    assert modelled.joules is not None
    assert (modelled.joules.mean, modelled.joules_provenance) == (3.5, "modelled")
    (measured,) = cells([edit(1, execution="phone")], {"a1": {"energy": {"joules": 3.5}}})
    assert measured.joules_provenance == "measured"


def test_only_successful_edits_count_their_joules() -> None:
    passports = {f"a{number}": {"energy": {"joules": 1.0 + number}} for number in range(4)}
    (cell,) = cells([edit(number) for number in range(4)], passports)
    assert cell.joules is not None
    assert (cell.joules.mean, cell.joules.edits) == (3.0, 2)
    (none,) = cells([edit(0), edit(2)], passports)
    assert (none.joules, none.joules_reason) == (None, "no edit succeeded")


def test_an_amount_of_nothing_is_no_share() -> None:
    """Shares that are all 0 leave room for doubt; loss evaluations of a method that takes none do not."""
    (cell,) = cells([edit(number, loss_evaluations=0, edit_s=0.0) for number in range(0, 8, 2)], {})
    assert cell.loss_evaluations is not None
    assert (cell.loss_evaluations.low, cell.loss_evaluations.high) == (0.0, 0.0)
    assert cell.success is not None
    assert cell.success.high > 0.4
