import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.core import events
from mobifarm.controller.core.conditions import Conditions, Gates
from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    ControllerStarted,
    DeviceAdded,
    DeviceReady,
    DeviceState,
    DeviceStateChanged,
    Event,
    HeldAttempt,
    Identity,
    JobSubmitted,
    TrialPlan,
    decode,
    encode,
    kind,
    without_bulk,
)
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.errors import UserError

texts = st.text(max_size=8)
counts = st.integers(min_value=0, max_value=2**63)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
mappings = st.dictionaries(texts, plain, max_size=3)
properties = st.dictionaries(texts, texts, max_size=3)
by_name = {
    "at": st.floats(min_value=0, max_value=1e11),
    "epoch": counts,
    "fencing_token": counts,
    "priority": st.integers(),
    "attempt_limit": counts,
    "failed": st.booleans(),
    "base_proven": st.booleans(),
    "passed": st.booleans(),
    "by_person": st.booleans(),
    "number": counts,
    "state": st.sampled_from(DeviceState),
    "identity": st.builds(Identity, texts, texts, texts),
    "properties": properties,
    "versions": properties,
    "held_attempts": st.lists(
        st.builds(HeldAttempt, texts, counts, st.sampled_from(["running", "finished"])), max_size=3
    ).map(tuple),
    "spec": mappings,
    "methods": st.lists(texts, max_size=3).map(tuple),
    "tags": st.lists(texts, max_size=3).map(tuple),
    "memory_total_bytes": counts,
    "cpu_count": counts,
    "conditions": st.builds(
        Conditions,
        st.none() | st.floats(-40, 150),
        st.none() | st.floats(0, 1),
        st.none() | st.booleans(),
        st.none() | st.booleans(),
        st.none() | st.floats(0, 1e15),
    ),
    "gates": st.builds(
        Gates,
        st.none() | st.floats(-40, 150),
        st.none() | st.floats(0, 1),
        st.none() | st.booleans(),
        st.booleans(),
        st.none() | st.floats(0, 1e15),
        st.sampled_from(["allow", "refuse"]),
    ),
    "result": st.none() | mappings,
    "trials": st.lists(
        st.builds(TrialPlan, texts, texts, st.none() | mappings, texts, texts), max_size=3
    ).map(tuple),
    "selector": st.builds(
        DeviceSelector,
        st.none() | texts,
        st.lists(texts, max_size=3).map(tuple),
        properties,
        st.none() | st.integers(1, 9),
        st.lists(st.sampled_from(["npu.arch >= 73", "tag in a, b"]), max_size=2).map(tuple),
        st.sampled_from(["any", "spread"]),
    ),
}
any_event = st.one_of(
    *(
        st.builds(cls, **{field.name: by_name.get(field.name, texts) for field in fields(cls)})
        for cls in Event.__args__
    )
)


@given(any_event)
def test_every_event_survives_the_log(event):
    assert decode(json.loads(json.dumps(encode(event)))) == event


def test_every_kind_of_event_has_a_name_in_the_log():
    names = {kind(object.__new__(cls)) for cls in Event.__args__}
    assert names == {
        "controller_started",
        "device_added",
        "device_forgotten",
        "device_state_changed",
        "device_ready",
        "device_lost",
        "device_released",
        "device_tagged",
        "device_conditions",
        "device_quarantined",
        "device_drained",
        "device_undrained",
        "recovery_step",
        "health_check_started",
        "health_checked",
        "job_submitted",
        "job_cancelled",
        "lease_granted",
        "attempt_started",
        "attempt_finished",
        "attempt_failed",
        "lease_expired",
        "host_joined",
        "host_lost",
    }


def test_an_event_names_its_kind_and_version():
    body = encode(DeviceStateChanged(5.0, "p1", DeviceState.COOLING, "41 °C"))
    assert body == {
        "kind": "device_state_changed",
        "version": events.SCHEMA_VERSION,
        "at": 5.0,
        "device_id": "p1",
        "state": "cooling",
        "reason": "41 °C",
        "action": "",
    }


GOOD = {"kind": "device_lost", "version": 1, "at": 1.0, "device_id": "p1", "reason": ""}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "device_teleported"}, "unknown kind 'device_teleported'"),
        ({"kind": None}, "unknown kind None"),
        ({"kind": ["device_lost"]}, "unknown kind"),
        ({"version": 2}, "version 2, this MobiFarm reads up to 1: upgrade"),
        ({"version": None}, "no version"),
        ({"version": 0}, "no version"),
        ({"colour": "red"}, "damaged"),
        ({"kind": "device_ready"}, "damaged"),
        ({"kind": "device_state_changed", "state": "floating"}, "damaged"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(change, message):
    assert decode(GOOD)
    with pytest.raises(UserError, match=message):
        decode({**GOOD, **change})


def test_bulk_is_what_deciding_does_not_need():
    job = JobSubmitted(
        1.0, "job", "name", "user", {"a": 1}, (TrialPlan("t", "l", {"b": 2}),), DeviceSelector(), 0, 1
    )
    assert without_bulk(job).trials == (TrialPlan("t", "l", None),)
    assert without_bulk(job).spec == {"a": 1}
    assert without_bulk(AttemptFinished(1.0, "a", 1, "p", False, {"c": 3})).result is None
    ready = DeviceReady(1.0, "p", "h", Identity("p", "s", "f"), {"d": "4"}, "phone", (), "1", 0)
    assert without_bulk(ready) is ready


def test_a_log_from_before_bases_were_told_is_read():
    for event in (
        AttemptFinished(1.0, "a", 1, "p", False, {}),
        AttemptFailed(1.0, "a", 1, "p", "no answer"),
    ):
        older = encode(event)
        del older["base_proven"]
        assert decode(older) == event


def test_a_log_from_before_methods_were_placed_is_read():
    plan, ready = (
        TrialPlan("t", "l", {}),
        DeviceReady(1.0, "p", "h", Identity("p", "s", "f"), {}, "phone", (), "1", 0),
    )
    job = JobSubmitted(1.0, "job", "name", "user", {}, (plan,), DeviceSelector(), 0, 1)
    for event, older in ((ready, encode(ready)), (job, encode(job))):
        older.pop("methods", None)
        for trial in older.get("trials", ()):
            del trial["method"]
        assert decode(json.loads(json.dumps(older))) == event


def test_a_log_from_before_attributes_and_gates_is_read():
    job = JobSubmitted(
        1.0, "job", "n", "u", {}, (TrialPlan("t", "l", {}, "forward"),), DeviceSelector(), 0, 1
    )
    ready = DeviceReady(1.0, "p", "h", Identity("p", "s", "f"), {}, "phone", (), "1", 0)
    started = ControllerStarted(1.0, 3)
    newer = {"gates", "memory_total_bytes", "cpu_count", "policy"}
    for event in (job, ready, started):
        older = {name: value for name, value in encode(event).items() if name not in newer}
        if event is job:
            older["selector"] = {
                name: older["selector"][name] for name in ("execution", "serials", "properties", "count")
            }
            del older["trials"][0]["group"]
        assert decode(json.loads(json.dumps(older))) == event


def test_a_condition_that_cannot_be_read_is_damage():
    job = JobSubmitted(1.0, "job", "n", "u", {}, (TrialPlan("t", "l", {}),), DeviceSelector(), 0, 1)
    body = encode(job)
    body["selector"]["where"] = ["__import__('os')"]
    with pytest.raises(UserError, match="cannot be read"):
        decode(body)


def test_a_log_from_before_hosts_joined_is_read():
    added = DeviceAdded(1.0, "p", "p", "tcp")
    older = encode(added)
    del older["host"]
    assert decode(older) == added
