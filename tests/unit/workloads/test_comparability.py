"""Two jobs may be subtracted only where nothing but one treatment differs; and then edit by edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobifarm.workloads.comparability import (
    Comparability,
    Family,
    Judgement,
    Verdict,
    compare_jobs,
)
from mobifarm.workloads.compared_edits import Edit, edits_of
from mobifarm.workloads.scores import Quality
from mobifarm.workloads.summary import TrialRecord, summarise

PHONES = (("S1", "pixel/8:user", 1), ("S2", "galaxy/24:user", 1))


def edit(record: int, *, phone: int = 0, seconds: float = 2.0, success: float = 1.0, **changed: Any) -> Edit:
    made = Edit(
        label="forward",
        record_id=f"fact-{record}",
        repeat=0,
        record_hash=f"hash-{record}",
        seed=record,
        bundle_hash="b" * 64,
        method="forward",
        settings_hash="s",
        agent_version="1",
        execution="phone",
        host="host",
        accelerator="cpu",
        processor="SM8650",
        phone=PHONES[phone],
        edits_applied=0,
        design=None,
        sensor="battery/temperature",
        temperature=30.0,
        charging=False,
        charge=0.8,
        status="converged",
        quality=Quality(success, 1.0, 1.0, 1.0, None),
        edit_s=seconds,
        loss_evaluations=100,
        token_layers=1000,
        peak_rss_bytes=10**8,
    )
    return replace(made, **changed)


jobs = st.lists(
    st.builds(
        edit,
        record=st.integers(0, 30),
        phone=st.integers(0, 1),
        seconds=st.floats(0.1, 100),
        success=st.sampled_from([0.0, 1.0]),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda made: made.record_id,
)

# What must be the same for times, and whether it must be for quality too.
NUISANCES: Sequence[tuple[dict[str, Any], str, bool]] = (
    ({"record_hash": "other"}, "text of the records", True),
    ({"seed": -1}, "seeds", True),
    ({"edits_applied": 3}, "kept", True),
    ({"execution": "virtual"}, "execution", True),
    ({"accelerator": "htp"}, "accelerator", True),
    ({"processor": "SM8750"}, "processor", True),
    ({"bundle_hash": None}, "bundle", True),
    ({"repeat": 7}, "same edits", True),
    ({"phone": ("S9", "pixel/8:user", 1)}, "phones", False),
    ({"phone": ("S1", "pixel/8:user", 2)}, "epoch 2", False),
    ({"phone": ("S1", "pixel/9:user", 1)}, "pixel/9:user", False),
    ({"temperature": 38.0}, "38.0 °C", False),
    ({"temperature": None}, "temperature was not measured", False),
    ({"sensor": "thermal/skin"}, "different sensors", False),
    ({"charging": True}, "charging", False),
    ({"charging": None}, "whether it was charging was not measured", False),
    ({"charge": 0.3}, "30%", False),
)
TREATMENTS: Sequence[tuple[dict[str, Any], str]] = (
    ({"bundle_hash": "c" * 64}, "model bundle"),
    ({"agent_version": "2"}, "agent's version"),
    ({"settings_hash": "t"}, "settings"),
    ({"method": "mobiedit", "settings_hash": "t"}, "method"),
)


def judged(a: Sequence[Edit], b: Sequence[Edit]) -> dict[Family, Judgement]:
    return {judgement.family: judgement for judgement in compare_jobs("a", a, "b", b).judgements}


@settings(max_examples=20)
@given(jobs)
def test_a_job_repeats_itself_without_a_difference(edits: list[Edit]) -> None:
    for judgement in judged(edits, edits).values():
        assert judgement.verdict is Verdict.REPEAT
        assert judgement.differences
        assert all(each.difference == 0 and each.a == each.b for each in judgement.differences)
        assert all(each.conclusion != "higher" for each in judgement.differences)


@settings(max_examples=20)
@given(jobs, st.data())
def test_the_order_of_results_says_nothing(edits: list[Edit], data: st.DataObject) -> None:
    slower = [replace(each, edit_s=2 * (each.edit_s or 0)) for each in edits]
    shuffled = data.draw(st.permutations(slower))
    assert compare_jobs("a", edits, "b", slower) == compare_jobs("a", edits, "b", shuffled)


@pytest.mark.parametrize(("changed", "words", "also_quality"), NUISANCES)
@settings(max_examples=10)
@given(edits=jobs)
def test_what_is_not_the_same_is_named_and_refused(
    edits: list[Edit], changed: dict[str, Any], words: str, also_quality: bool
) -> None:
    edits = [replace(each, phone=PHONES[0]) for each in edits]
    other = [replace(each, **changed) for each in edits]
    for first, second in ((edits, other), (other, edits)):
        found = judged(first, second)
        assert found[Family.TIME].verdict is Verdict.NO
        assert any(words in mismatch for mismatch in found[Family.TIME].mismatches)
        assert found[Family.TIME].differences == ()
        assert found[Family.WORK].verdict is (Verdict.NO if also_quality else Verdict.REPEAT)


@pytest.mark.parametrize(("changed", "words"), TREATMENTS)
@settings(max_examples=10)
@given(edits=jobs)
def test_one_treatment_is_what_a_difference_is_put_down_to(
    edits: list[Edit], changed: dict[str, Any], words: str
) -> None:
    for judgement in judged(edits, [replace(each, **changed) for each in edits]).values():
        assert judgement.verdict is Verdict.TREATMENT
        (treatment,) = judgement.treatments
        assert words in treatment


@settings(max_examples=20)
@given(jobs)
def test_two_treatments_at_once_say_nothing(edits: list[Edit]) -> None:
    other = [replace(each, agent_version="2", settings_hash="t") for each in edits]
    for judgement in judged(edits, other).values():
        assert judgement.verdict is Verdict.NO
        assert "more than one thing was changed" in judgement.mismatches[0]


@settings(max_examples=20)
@given(jobs, st.floats(1.1, 10))
def test_a_ratio_is_that_of_every_pair_and_turns_around(edits: list[Edit], factor: float) -> None:
    slower = [replace(each, edit_s=factor * (each.edit_s or 0), agent_version="2") for each in edits]

    def seconds(found: dict[Family, Judgement]) -> Any:
        return next(d for d in found[Family.TIME].differences if d.measure == "seconds per edit")

    there, back = seconds(judged(edits, slower)), seconds(judged(slower, edits))
    assert there.difference == pytest.approx(factor - 1)
    assert back.difference == pytest.approx(1 / factor - 1)
    if len(edits) >= 6:
        assert (there.conclusion, back.conclusion) == ("higher", "lower")
        assert there.low <= there.difference + 1e-9
        assert there.difference <= there.high + 1e-9
    else:
        assert there.low is None


def test_times_are_paired_on_one_phone_only_and_quality_on_any() -> None:
    here = [edit(1, phone=0), edit(2, phone=1), edit(3, phone=0)]
    there = [edit(1, phone=0), edit(2, phone=1), edit(3, phone=1)]
    found = judged(here, there)
    assert {each.pairs for each in found[Family.WORK].differences} == {3}
    assert {each.pairs for each in found[Family.TIME].differences} == {2}


def test_jobs_of_one_method_each_are_paired_whatever_it_is_called() -> None:
    ours = [edit(n, label="A") for n in range(4)]
    theirs = [edit(n, label="B", method="mobiedit", settings_hash="m") for n in range(4)]
    work = judged(ours, theirs)[Family.WORK]
    assert work.treatments == ("the method differs: forward and mobiedit",)
    assert {each.label for each in work.differences} == {"A → B"}


def test_a_job_without_results_is_not_compared() -> None:
    found = judged([edit(1)], [])
    assert [judgement.verdict for judgement in found.values()] == [Verdict.NO, Verdict.NO]
    assert found[Family.WORK].mismatches == ("one of the jobs has no results",)


def test_a_failed_edit_counts_in_quality_and_in_no_time() -> None:
    ours = [edit(n) for n in range(3)]
    failed = edit(2, success=0.0, status="failed", edit_s=None, loss_evaluations=None, token_layers=None)
    found = judged(ours, [edit(0), edit(1), failed])
    quality = next(d for d in found[Family.WORK].differences if d.measure == "edit success")
    assert quality.difference == pytest.approx(-1 / 3)
    seconds = next(d for d in found[Family.TIME].differences if d.measure == "seconds per edit")
    assert (seconds.pairs, seconds.conclusion) == (2, "fewer than 6 records")


def test_edits_are_read_from_stored_results() -> None:
    payload = {
        "bundle_hash": "b",
        "method": "forward",
        "method_label": "ours",
        "seed": 7,
        "record": {"record_id": "ann", "target_true": "x"},
        "repeat": 1,
    }
    stored = {
        "attempt_id": "a",
        "device_id": "tcp:1",
        "result": {"status": "converged", "scores": [], "cost": {"edit_s": 2.5}},
        "passport": {
            "phone": {"serial": "S1", "build_fingerprint": "f", "soc": "SM8650"},
            "measurement_epoch": 2,
            "execution": "virtual",
            "agent_version": "1",
            "settings_hash": "s",
            "accelerator": {"name": "cpu"},
            "temperatures": {"first": {"thermal/x": {"value": 1.0}, "battery/temperature": {"value": 31.5}}},
            "charge_state": {
                "first": {"battery/charging": {"value": 1.0}, "battery/capacity": {"value": 0.5}}
            },
        },
    }
    trials = [
        TrialRecord("j/1", "ann", "done", payload, stored),
        TrialRecord("j/2", "bob", "pending", {**payload, "repeat": 2}, None),
    ]
    (found,) = edits_of(trials, summarise(trials, []).edits)
    assert (found.label, found.record_id, found.repeat, found.seed) == ("ours", "ann", 1, 7)
    assert (found.phone, found.processor, found.edit_s) == (("S1", "f", 2), "SM8650", 2.5)
    assert (found.sensor, found.temperature) == ("battery/temperature", 31.5)
    assert (found.charging, found.charge) == (True, 0.5)
    assert isinstance(compare_jobs("a", [found], "b", [found]), Comparability)
