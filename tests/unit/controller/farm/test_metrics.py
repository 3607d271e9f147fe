from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from mobifarm.controller.core.events import DeviceAdded, DeviceLost, DeviceReady, Identity
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import replay
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.farm.metrics import render_metrics
from mobifarm.controller.host.reports import AttemptProgress, Reading

READY = [
    DeviceAdded(1.0, "a", "a", "test"),
    DeviceReady(1.0, "a", "h", Identity("a", "s", "f"), {"ro.product.model": 'M"1'}, "virtual", (), "1", 0),
]


def samples(state: FarmState, live: LiveView) -> dict[tuple[str, ...], float]:
    text = render_metrics(state, live).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def live() -> LiveView:
    view = LiveView()
    view.note(Reading(1.0, "a", {"battery/temperature": 25.5}))
    view.note(AttemptProgress(1.0, "a", "attempt-1", "optimising", 3, 60, 1.0, 0.5, 99))
    return view


def test_connected_phone_shows_what_it_reads() -> None:
    found = samples(replay(READY), live())
    assert found["mobifarm_device_up", "a"] == 1.0
    assert found["mobifarm_device_sensor", "a", "battery/temperature"] == 25.5
    assert found["mobifarm_edit_target_probability_ratio", "a"] == 0.5
    assert found["mobifarm_device_info", "a", "virtual", "h", 'M"1', ""] == 1.0


def test_lost_phone_keeps_only_up_zero() -> None:
    found = samples(replay([*READY, DeviceLost(2.0, "a", "gone")]), live())
    assert {key: value for key, value in found.items() if "a" in key} == {("mobifarm_device_up", "a"): 0.0}


def test_the_time_from_plugging_in_to_ready_is_shown_where_it_was_seen() -> None:
    assert ("mobifarm_device_ready_after_seconds", "a") not in samples(replay(READY), LiveView())
    seen = replay([READY[0], replace(READY[1], ready_after_s=4.25)])
    assert samples(seen, LiveView())["mobifarm_device_ready_after_seconds", "a"] == 4.25


def test_no_attempt_or_job_id_is_a_label() -> None:
    assert "attempt-1" not in render_metrics(replay(READY), live()).decode()


def test_every_state_of_trials_is_exported_even_at_zero() -> None:
    found = samples(FarmState(), LiveView())
    assert found["mobifarm_trials", "pending"] == 0.0
    assert found["mobifarm_trials", "abandoned"] == 0.0
