from __future__ import annotations

from mobifarm.controller.farm.live import HISTORY_MOMENTS, LiveView
from mobifarm.controller.host.reports import AttemptProgress, Reading, TransferProgress

PROGRESS = AttemptProgress(0.0, "a", "attempt-1", "optimising", 3, 100, 2.0, 0.1, 30)


def test_the_recent_past_has_one_moment_a_second_and_the_phase_of_the_edit() -> None:
    view = LiveView()
    view.note(Reading(0.0, "a", {"thermal/skin": 30.0}))
    view.note(PROGRESS)
    for at in (0.5, 1.0, 1.5, 2.0):
        view.note(Reading(at, "a", {"thermal/skin": 30.0 + at}))
    view.finished("a")
    view.note(Reading(3.0, "a", {"thermal/skin": 40.0}))

    device = view.devices()["a"]

    assert [(one.vitals.at, one.phase, one.attempt_id) for one in device.history] == [
        (0.0, "", ""),
        (1.0, "optimising", "attempt-1"),
        (2.0, "optimising", "attempt-1"),
        (3.0, "", ""),
    ]
    assert device.vitals is not None
    assert device.vitals.temperature_celsius == 40.0


def test_the_recent_past_is_bounded_and_gone_with_the_phone() -> None:
    view = LiveView()
    for second in range(2 * HISTORY_MOMENTS):
        view.note(Reading(float(second), "a", {}))
    assert len(view.devices()["a"].history) == HISTORY_MOMENTS

    view.drop("a")

    assert "a" not in view.devices()


def test_a_transfer_that_is_complete_is_not_shown_any_more() -> None:
    view = LiveView()
    building = TransferProgress(0.0, "a", "runtime, which is built first", 0, 0)
    for report in (building, TransferProgress(1.0, "a", "model", 1, 2)):
        view.note(report)
        assert view.devices()["a"].transfer == report
    view.note(TransferProgress(2.0, "a", "model", 2, 2))
    assert view.devices()["a"].transfer is None
