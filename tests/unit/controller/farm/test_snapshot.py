from __future__ import annotations

import json
from typing import Any

from mobifarm.controller.core.events import (
    DeviceAdded,
    DeviceForgotten,
    DeviceReady,
    Identity,
    JobSubmitted,
    LeaseGranted,
    TrialPlan,
)
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.step import replay
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.farm.snapshot import history, snapshot
from mobifarm.controller.host.reports import AttemptProgress, Reading, TransferProgress


def ready(device_id: str) -> list[Any]:
    identity = Identity(device_id, "S1", "f")
    return [
        DeviceAdded(1.0, device_id, device_id, "tcp", ""),
        DeviceReady(
            2.0, device_id, "host", identity, {"ro.product.model": "M"}, "virtual", (), "1", 0, ("forward",)
        ),
    ]


def job(job_id: str, trials: int) -> JobSubmitted:
    plans = tuple(TrialPlan(f"{job_id}/{i}", f"fact-{i}", {}, "forward", "") for i in range(trials))
    return JobSubmitted(3.0, job_id, "n", "u", {}, plans, DeviceSelector(), 0, 3)


def rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    assert len({len(column) for column in columns.values()}) <= 1
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_an_empty_farm() -> None:
    shown = snapshot(replay([]), LiveView(), [], 5.0, with_past=True)
    assert (shown["at"], shown["jobs_total"], shown["past"], rows(shown["devices"])) == (5.0, 0, {}, [])
    json.dumps(shown, allow_nan=False)


def test_a_working_phone_tells_its_edit_and_how_it_is() -> None:
    state = replay([*ready("a"), job("job", 2), LeaseGranted(4.0, "attempt", "job/0", "a", 1)])
    live = LiveView()
    live.note(AttemptProgress(5.0, "a", "attempt", "optimising", 7, 100, 2.0, 0.12345, 30))
    live.note(Reading(5.0, "a", {"thermal/skin": 31.23456, "battery/charging": 1.0}))
    shown = snapshot(state, live, [], 6.0, with_past=False)
    (phone,) = rows(shown["devices"])
    assert (phone["state"], phone["label"], phone["job_id"]) == ("leased", "fact-0", "job")
    assert (phone["phase"], phone["step"], phone["target_probability"]) == ("optimising", 7, 0.123)
    assert (phone["temperature_celsius"], phone["charging"], phone["power_watts"]) == (31.235, True, None)
    assert phone["modelled"] is True
    (shown_job,) = rows(shown["jobs"])
    assert (shown_job["leased"], shown_job["remaining_s"]) == (1, None)
    assert "past" not in shown


def test_a_forgotten_phone_is_not_shown_and_one_that_was_not_heard_has_nothing() -> None:
    state = replay([*ready("a"), *ready("b"), DeviceForgotten(3.0, "b")])
    live = LiveView()
    live.note(TransferProgress(3.0, "b", "model", 5, 10))
    shown = snapshot(state, live, [], 6.0, with_past=True)
    (phone,) = rows(shown["devices"])
    assert phone["device_id"] == "a"
    assert phone["heard_at"] is None
    assert phone["temperature_celsius"] is None


def test_a_transfer_tells_its_share() -> None:
    live = LiveView()
    live.note(TransferProgress(3.0, "a", "model", 5, 10))
    (phone,) = rows(snapshot(replay(ready("a")), live, [], 6.0, with_past=False)["devices"])
    assert (phone["transfer"], phone["transfer_share"]) == ("model", 0.5)


def test_the_newest_jobs_come_first_and_those_that_go_on_are_all_there() -> None:
    state = replay([job(f"job{i}", 1) for i in range(30)])
    shown = rows(snapshot(state, LiveView(), [], 6.0, with_past=False)["jobs"])
    assert [each["job_id"] for each in shown] == [f"job{i}" for i in reversed(range(30))]


def test_history_has_a_column_for_each_rail_and_the_probability_of_the_edit() -> None:
    live = LiveView()
    for second in range(1, 4):
        rail = {"rail/CPU/energy": 2.0 * second} if second > 1 else {}
        live.note(Reading(float(second), "a", {**rail, "cpu/0/frequency": 1e9}))
        live.note(AttemptProgress(0.0, "a", "attempt", "optimising", 1, 9, 2.0, 0.5, 3))
    columns = history(live.devices()["a"].history)
    assert columns["at"] == [1.0, 2.0, 3.0]
    assert columns["rail_watts"] == {"CPU": [None, None, 2.0]}
    assert columns["target_probability"] == [None, 0.5, 0.5]
    assert columns["phase"] == ["", "optimising", "optimising"]
    assert history(live.devices()["a"].history, after=2.5)["at"] == [3.0]
