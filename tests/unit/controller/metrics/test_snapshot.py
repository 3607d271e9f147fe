from __future__ import annotations

from dataclasses import replace
from typing import Any

from mobifarm.controller.core.events import (
    ControllerStarted,
    DeviceAdded,
    DeviceForgotten,
    DeviceLost,
    DeviceReady,
    DeviceState,
    DeviceStateChanged,
    Event,
    Identity,
    JobSubmitted,
    LeaseGranted,
    TrialPlan,
)
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.step import replay
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.host.reports import AttemptProgress, Reading
from mobifarm.controller.metrics.snapshot import FRESH_S, REMEMBERED_S, DeviceSnapshot, take_snapshot

READY: tuple[Event, ...] = (
    DeviceAdded(1.0, "a", "a", "test"),
    DeviceReady(1.0, "a", "h", Identity("a", "s", "f"), {"ro.soc.model": "SM8650"}, "phone", (), "1", 0),
)
JOB = JobSubmitted(
    10.0, "job-1", "n", "u", {}, (TrialPlan("t1", "l", {}), TrialPlan("t2", "l", {})), DeviceSelector(), 0, 3
)
LEASE = LeaseGranted(20.0, "attempt-1", "t1", "a", 1)


def taken(events: tuple[Event, ...], live: LiveView | None = None, now: float = 2.0, **more: Any) -> Any:
    defaults: dict[str, Any] = {
        "accelerators": {},
        "away_since": {},
        "moved_at": {},
        "started_at": 0.0,
        "noise_floors": {},
        "loop_lag_s": 0.0,
    }
    return take_snapshot(replay(events), live or LiveView(), (), now=now, **{**defaults, **more})


def one(*arguments: Any, **more: Any) -> DeviceSnapshot:
    (device,) = taken(*arguments, **more).devices
    assert isinstance(device, DeviceSnapshot)
    return device


def test_a_lost_phone_is_told_for_a_while_and_then_forgotten() -> None:
    events = (*READY, DeviceLost(100.0, "a", "gone"))
    device = one(events, now=100.0 + REMEMBERED_S - 1, away_since={"a": 100.0})
    assert (device.connected, device.away, device.vitals) == (False, True, None)
    assert taken(events, now=100.0 + REMEMBERED_S, away_since={"a": 100.0}).devices == ()


def test_a_phone_that_the_farm_tries_to_reach_again_is_away_all_the_same() -> None:
    """A phone on TCP goes from lost to connecting at once, for as long as nothing answers there."""
    connecting = DeviceStateChanged(101.0, "a", DeviceState.CONNECTING, "no phone answers")
    events = (*READY, DeviceLost(100.0, "a", "gone"), connecting)
    assert one(events, now=102.0, away_since={"a": 100.0}).away
    assert taken(events, now=100.0 + REMEMBERED_S, away_since={"a": 100.0}).devices == ()


def test_of_a_phone_away_since_before_the_controller_started_that_start_counts() -> None:
    events = (*READY, ControllerStarted(200.0, 1))
    assert one(events, now=200.0 + REMEMBERED_S - 1, started_at=200.0).away
    assert taken(events, now=200.0 + REMEMBERED_S, started_at=200.0).devices == ()


def test_a_phone_that_comes_for_the_first_time_is_not_away() -> None:
    device = one((READY[0], DeviceStateChanged(1.0, "a", DeviceState.PROVISIONING)), now=5000.0)
    assert (device.away, device.state) == (False, DeviceState.PROVISIONING)


def test_a_phone_taken_out_of_the_farm_is_not_told() -> None:
    assert taken((*READY, DeviceForgotten(2.0, "a"))).devices == ()


def test_an_old_reading_is_not_repeated() -> None:
    live = LiveView()
    live.note(Reading(2.0, "a", {"battery/temperature": 25.5}))
    fresh = one(READY, live, now=2.0 + FRESH_S - 1)
    assert fresh.vitals is not None
    assert fresh.vitals.temperature_celsius == 25.5
    old = one(READY, live, now=2.0 + FRESH_S)
    assert (old.vitals, old.values) == (None, None)


def test_where_readings_come_from_follows_what_the_phone_is() -> None:
    assert (one(READY).info or {})["provenance"] == "measured"
    virtual = (READY[0], replace(READY[1], execution="virtual"))
    assert (one(virtual).info or {})["provenance"] == "modelled"


def test_a_result_of_the_cpu_is_a_fallback_only_on_a_real_phone_with_an_npu() -> None:
    assert one(READY).npu_fallback is None
    assert one(READY, accelerators={"a": "cpu"}).npu_fallback is True
    assert one(READY, accelerators={"a": "htp"}).npu_fallback is False
    virtual = (READY[0], replace(READY[1], execution="virtual"))
    assert one(virtual, accelerators={"a": "cpu"}).npu_fallback is False
    unknown = (READY[0], replace(READY[1], properties={}))
    assert one(unknown, accelerators={"a": "cpu"}).npu_fallback is False


def test_the_queue_is_as_old_as_its_oldest_job() -> None:
    assert taken(READY, now=30.0).queue_oldest_s == 0.0
    later = replace(JOB, at=25.0, job_id="job-2", trials=(TrialPlan("t3", "l", {}),))
    found = taken((*READY, JOB, later), now=30.0)
    assert found.queue_oldest_s == 20.0
    assert found.jobs == {"queued": 2, "running": 0}
    assert taken((*READY, JOB, LEASE), now=30.0).jobs == {"queued": 0, "running": 1}


def test_a_job_stands_still_from_its_last_move() -> None:
    events = (*READY, JOB, LEASE)
    assert taken(READY, now=30.0).standstill_s == 0.0
    assert taken(events, now=30.0).standstill_s == 20.0
    assert taken(events, now=30.0, moved_at={"job-1": 22.0}).standstill_s == 8.0
    # A job from before this controller began to look stands still no longer than that.
    assert taken(events, now=30.0, started_at=29.0).standstill_s == 1.0


def test_an_edit_that_makes_steps_is_a_job_that_moves() -> None:
    live = LiveView()
    live.note(AttemptProgress(28.0, "a", "attempt-1", "optimising", 3, 60, 1.0, 0.5, 99))
    assert taken((*READY, JOB, LEASE), live, now=30.0).standstill_s == 2.0
    live.note(AttemptProgress(29.0, "a", "attempt-0", "optimising", 3, 60, 1.0, 0.5, 99))
    assert taken((*READY, JOB, LEASE), live, now=30.0).standstill_s == 20.0
