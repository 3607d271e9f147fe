from __future__ import annotations

from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    DeviceAdded,
    DeviceLost,
    DeviceReady,
    Event,
    HostJoined,
    HostLost,
    Identity,
    JobSubmitted,
    LeaseExpired,
    LeaseGranted,
    TrialPlan,
)
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import step
from mobifarm.controller.metrics import families as f
from mobifarm.controller.metrics.tally import Tally

READY: tuple[Event, ...] = (
    DeviceAdded(1.0, "a", "a", "test"),
    DeviceReady(1.0, "a", "h", Identity("a", "s", "f"), {}, "phone", (), "1", 0, methods=("forward",)),
)
NAMED = JobSubmitted(
    *(10.0, "job-1", "n", "u", {}),
    (TrialPlan("t1", "l", {}, "forward"), TrialPlan("t2", "l", {}, "forward")),
    *(DeviceSelector(), 0, 3),
)
LEASE = LeaseGranted(20.0, "attempt-1", "t1", "a", 1)
ANSWER = {"log_probability": -1.0, "tokens": 1, "tokens_argmax": 1}
LESS = {**ANSWER, "log_probability": -2.0}
SCORE = {
    "kind": "efficacy",
    "wanted_before": LESS,
    "wanted_after": ANSWER,
    "other_before": ANSWER,
    "other_after": LESS,
}
RESULT: dict[str, Any] = {
    "status": "converged",
    "scores": [SCORE],
    "cost": {
        "load_s": 0.0,
        "edit_s": 3.0,
        "evaluation_s": None,
        "loss_evaluations": 276,
        "token_layers": 88_940,
    },
    "execution": {"accelerator": "cpu"},
}
FINISHED = AttemptFinished(25.0, "attempt-1", 1, "a", False, {"result": RESULT})
EDIT = {"method": "forward", "execution": "phone"}


class Followed:
    """A state and the tally that is told of each event, as the farm does it."""

    def __init__(self, *events: Event) -> None:
        self.state, self.registry = FarmState(), CollectorRegistry()
        self.tally = Tally(lambda: self.state, self.registry)
        self.follow(*READY, NAMED, LEASE, *events)

    def follow(self, *events: Event) -> None:
        for event in events:
            self.state, _ = step(self.state, event)
            self.tally.note(event)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def test_a_result_is_counted_with_its_cost_and_quality() -> None:
    found = Followed(FINISHED)
    assert found.value("mobifarm_attempts_total", outcome="done") == 1
    assert found.value("mobifarm_edits_total", status="converged", **EDIT) == 1
    assert found.value("mobifarm_edit_duration_seconds_sum", phase="edit", **EDIT) == 3.0
    assert found.value("mobifarm_edit_duration_seconds_bucket", phase="edit", le="5.0", **EDIT) == 1
    assert found.value("mobifarm_edit_duration_seconds_bucket", phase="edit", le="2.5", **EDIT) == 0
    assert found.value("mobifarm_edit_duration_seconds_count", phase="evaluation", **EDIT) is None
    assert found.value("mobifarm_edit_loss_evaluations_total", **EDIT) == 276
    assert found.value("mobifarm_edit_token_layers_total", **EDIT) == 88_940
    assert found.value("mobifarm_edit_quality_ratio_sum", measure="edit_success", **EDIT) == 1
    assert found.value("mobifarm_edit_quality_ratio_count", measure="paraphrase_success", **EDIT) is None
    assert found.tally.accelerators == {"a": "cpu"}
    assert found.tally.moved_at == {"job-1": 25.0}


def test_a_failed_edit_has_no_duration() -> None:
    failed = replace(FINISHED, failed=True, result={"result": {"status": "failed", "cost": None}})
    found = Followed(failed)
    assert found.value("mobifarm_attempts_total", outcome="failed") == 1
    assert found.value("mobifarm_edits_total", status="failed", **EDIT) == 1
    assert found.value("mobifarm_edit_duration_seconds_count", phase="edit", **EDIT) is None


def test_a_result_that_came_too_late_does_not_count() -> None:
    found = Followed(LeaseExpired(24.0, "attempt-1", "slow"), FINISHED)
    assert found.value("mobifarm_attempts_total", outcome="expired") == 1
    assert found.value("mobifarm_attempts_total", outcome="done") == 0
    assert found.tally.accelerators == {}


def test_the_farms_own_faults_are_counted_apart() -> None:
    found = Followed(AttemptFailed(24.0, "attempt-1", 1, "a", "the agent died"))
    assert found.value("mobifarm_attempts_total", outcome="broken") == 1
    assert found.value("mobifarm_edits_total", status="failed", **EDIT) is None


def test_what_a_phone_says_that_is_no_number_is_not_counted() -> None:
    cost = {"edit_s": -1.0, "loss_evaluations": -5, "token_layers": float("inf")}
    found = Followed(replace(FINISHED, result={"result": {**RESULT, "cost": cost}}))
    assert found.value("mobifarm_edit_duration_seconds_count", phase="edit", **EDIT) is None
    assert found.value("mobifarm_edit_loss_evaluations_total", **EDIT) == 0


def test_a_phone_that_goes_away_takes_its_accelerator_along() -> None:
    found = Followed(FINISHED, DeviceLost(30.0, "a", "gone"), DeviceLost(31.0, "a", "still gone"))
    assert (found.tally.accelerators, found.tally.away_since) == ({}, {"a": 30.0})
    found.follow(replace(READY[1], at=40.0))
    assert found.tally.away_since == {}


def test_with_a_host_go_its_phones() -> None:
    found = Followed(
        HostJoined(30.0, "hub", "10.0.0.2", {}),
        DeviceAdded(31.0, "hub/b", "b", "usb", "hub"),
        replace(READY[1], at=32.0, device_id="hub/b"),
        HostLost(33.0, "hub", "it does not answer"),
    )
    assert found.tally.away_since == {"hub/b": 33.0}


def test_a_job_that_ended_is_forgotten() -> None:
    only = replace(NAMED, at=11.0, job_id="job-2", trials=(TrialPlan("t9", "l", {}, "forward"),))
    found = Followed(FINISHED)
    found.follow(
        only,
        replace(LEASE, attempt_id="attempt-9", trial_id="t9", fencing_token=2),
        replace(FINISHED, attempt_id="attempt-9", fencing_token=2),
    )
    assert found.tally.moved_at == {"job-1": 25.0}


def test_the_catalogue_lists_what_is_counted() -> None:
    found = Followed(FINISHED)
    listed = {(family.name.removesuffix("_total"), family.kind, family.help) for family in f.TALLY_FAMILIES}
    counted = {(metric.name, metric.type, metric.documentation) for metric in found.registry.collect()}
    assert counted == listed
    assert b"_created" not in generate_latest(found.registry)
