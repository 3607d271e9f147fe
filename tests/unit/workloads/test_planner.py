"""The planner: which trials a spec becomes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor.types import EditRecord, Probe
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.planner import Trial, plan, trial_seed
from mobifarm.workloads.records import record_to_mapping
from mobifarm.workloads.spec import EvaluationSpec, parse_spec

ANN = EditRecord("ann", "Ann", "Ann likes", "tea", "coffee", ("Ann drinks",), (Probe("Bob likes", "milk"),))
BOB = EditRecord("bob", "Bob", "Bob likes", "milk", "water")


def spec(methods: int = 1, repeats: int = 1, seed: int = 0) -> EvaluationSpec:
    named = [{"name": "forward", "label": f"m{i}", "settings": {"step_limit": i + 1}} for i in range(methods)]
    return parse_spec(
        {
            "name": "facts",
            "model": "tiny",
            "dataset": {"builtin": "personal-facts"},
            "methods": named,
            "repeats": repeats,
            "seed": seed,
        }
    )


def test_one_method_and_one_repeat_give_one_trial_per_record() -> None:
    trials = plan(spec(), [ANN, BOB], bundle_hash="b" * 64)
    assert [(trial.trial_id, trial.label) for trial in trials] == [("00001", "ann"), ("00002", "bob")]
    payload = dict(trials[0].payload)
    settings = payload.pop("settings")
    assert settings["step_limit"] == 1
    assert len(settings) > 1
    assert payload == {
        "bundle_hash": "b" * 64,
        "model": "tiny",
        "method": "forward",
        "method_label": "m0",
        "seed": 235964937833655,
        "record": record_to_mapping(ANN),
        "repeat": 0,
        "keep": "no",
        "telemetry": True,
        "idle_window_s": 0.0,
    }


def test_methods_change_fastest_then_records_then_repeats() -> None:
    trials = plan(spec(methods=2, repeats=2), [ANN, BOB], bundle_hash="b")
    assert [trial.label for trial in trials] == [
        "ann · m0 · repeat 1",
        "ann · m1 · repeat 1",
        "bob · m0 · repeat 1",
        "bob · m1 · repeat 1",
        "ann · m0 · repeat 2",
        "ann · m1 · repeat 2",
        "bob · m0 · repeat 2",
        "bob · m1 · repeat 2",
    ]
    assert [trial.trial_id for trial in trials] == [f"{i:05d}" for i in range(1, 9)]
    assert [trial.payload["repeat"] for trial in trials] == [0] * 4 + [1] * 4


def test_methods_share_the_seed_of_a_record_and_repeat() -> None:
    trials = plan(spec(methods=2, repeats=2), [ANN, BOB], bundle_hash="b")
    seeds = [trial.payload["seed"] for trial in trials]
    assert seeds[0::2] == seeds[1::2]
    assert len(set(seeds)) == 4


def test_too_many_trials_are_refused() -> None:
    records = [EditRecord(f"r{i}", "Ann", "Ann likes", "tea", "coffee") for i in range(201)]
    with pytest.raises(WorkloadInputError, match="201000 trials"):
        plan(spec(repeats=1000), records, bundle_hash="b")


@given(
    methods=st.integers(1, 3),
    repeats=st.integers(1, 3),
    ids=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 2**53 - 1),
)
def test_a_plan_is_complete_repeatable_and_plain_json(
    methods: int, repeats: int, ids: list[str], seed: int
) -> None:
    records = [EditRecord(name, "Ann", "Ann likes", "tea", "coffee") for name in ids]
    wanted = spec(methods, repeats, seed)
    trials = plan(wanted, records, bundle_hash="b")
    assert trials == plan(wanted, records, bundle_hash="b")
    assert len({trial.trial_id for trial in trials}) == len(trials) == methods * repeats * len(ids)
    combinations = {
        (t.payload["method_label"], t.payload["record"]["record_id"], t.payload["repeat"]) for t in trials
    }
    assert len(combinations) == len(trials)
    for trial in trials:
        assert json.loads(json.dumps(trial.payload)) == trial.payload


@given(st.integers(0, 2**53 - 1), st.text(), st.integers(0, 1000))
def test_seeds_are_exact_in_every_json_reader(seed: int, record_id: str, repeat: int) -> None:
    assert 0 <= trial_seed(seed, record_id, repeat) < 2**53


def designed(kind: str, methods: int, repeats: int = 2, seed: int = 0) -> EvaluationSpec:
    return spec(methods, repeats, seed).model_copy(update={"design": kind})


def test_a_design_has_blocks_of_one_fact_on_one_phone() -> None:
    trials = plan(designed("ab", 2), [ANN, BOB], bundle_hash="b")
    assert [trial.trial_id for trial in trials] == [f"{number:05d}" for number in range(1, 17)]
    blocks: dict[str, list[Trial]] = {}
    for trial in trials:
        blocks.setdefault(trial.group, []).append(trial)
    assert list(blocks) == [f"block-{number}" for number in range(1, 5)]
    orders, facts = [], []
    for number, block in enumerate(blocks.values(), 1):
        designs = [trial.payload["design"] for trial in block]
        assert [(d["block"], d["place"]) for d in designs] == [(number, place) for place in range(4)]
        orders.append("".join(d["arm"] for d in designs))
        assert [t.payload["method_label"] for t in block] == [
            "m0" if d["arm"] == "A" else "m1" for d in designs
        ]
        ((record, repeat, seed),) = {
            (t.payload["record"]["record_id"], t.payload["repeat"], t.payload["seed"]) for t in block
        }
        assert seed == trial_seed(0, record, repeat)
        facts.append((record, repeat))
    assert sorted(orders) == ["ABBA", "ABBA", "BAAB", "BAAB"]
    assert sorted(facts) == [("ann", 0), ("ann", 1), ("bob", 0), ("bob", 1)]


def test_the_seed_shuffles_a_design() -> None:
    def order(seed: int) -> list[str]:
        return [
            t.payload["record"]["record_id"]
            for t in plan(designed("aa", 1, 8, seed), [ANN, BOB], bundle_hash="b")
        ]

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1
    assert len(order(1)) == 32


def test_trials_without_a_design_belong_to_no_group() -> None:
    assert {trial.group for trial in plan(spec(2), [ANN], bundle_hash="b")} == {""}
