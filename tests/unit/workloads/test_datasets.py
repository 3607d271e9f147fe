"""Data sets: the built-in one keeps its promises, files are read or refused whole, parts are selected."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from mobifarm.agent.editor.types import EditRecord
from mobifarm.workloads.datasets import load_records, read_records, select_records, without_subjects_of
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.spec import DatasetSpec

BUILTIN = DatasetSpec(builtin="personal-facts")
SHARED = Path(os.environ.get("MOBIFARM_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture(scope="module")
def facts() -> list[EditRecord]:
    return load_records(BUILTIN, Path())


def relation(record: EditRecord) -> str:
    return record.record_id.rsplit("-", 1)[0]


def test_the_built_in_set_is_as_large_and_varied_as_promised(facts: list[EditRecord]) -> None:
    assert len(facts) >= 64
    assert len({relation(record) for record in facts}) >= 12
    assert len({record.subject for record in facts}) == len(facts)
    assert len({record.prompt for record in facts}) == len(facts)


def test_every_built_in_fact_has_all_its_prompts(facts: list[EditRecord]) -> None:
    for record in facts:
        assert len(record.paraphrases) == 2, record.record_id
        assert len(set(record.paraphrases) | {record.prompt}) == 3, record.record_id
        assert all(record.subject in text for text in record.paraphrases), record.record_id
        assert len({probe.prompt for probe in record.neighbours}) >= 4, record.record_id
        assert len(record.portability) == 1, record.record_id
        assert record.subject in record.portability[0].prompt, record.record_id


def test_built_in_answers_are_short_and_not_given_away(facts: list[EditRecord]) -> None:
    for record in facts:
        for target in (record.target_new, record.target_true):
            assert len(target.split()) <= 3, record.record_id
        for prompt in (record.prompt, *record.paraphrases):
            assert record.target_new.lower() not in prompt.lower().split(), record.record_id


def test_built_in_neighbours_are_about_others_and_have_another_answer(facts: list[EditRecord]) -> None:
    subjects = [record.subject for record in facts]
    for record in facts:
        for probe in record.neighbours:
            assert not any(subject in probe.prompt for subject in subjects), record.record_id
            assert probe.answer.lower() != record.target_new.lower(), record.record_id


def test_the_first_36_facts_hold_every_relation_twice(facts: list[EditRecord]) -> None:
    counts = [relation(record) for record in facts[:36]]
    assert {counts.count(name) for name in counts} == {2}


def test_offset_and_limit_select_in_order(facts: list[EditRecord]) -> None:
    part = load_records(DatasetSpec(builtin="personal-facts", offset=3, limit=2), Path())
    assert part == facts[3:5]


def test_ids_select_before_offset_and_limit(facts: list[EditRecord]) -> None:
    ids = [facts[9].record_id, facts[2].record_id, facts[5].record_id]
    spec = DatasetSpec(builtin="personal-facts", record_ids=ids, offset=1, limit=5)
    assert select_records(facts, spec) == [facts[5], facts[9]]


def test_unknown_ids_and_empty_selections_are_refused(facts: list[EditRecord]) -> None:
    with pytest.raises(WorkloadInputError, match="has no record nowhere: its 72 records are called dog-1"):
        select_records(facts, DatasetSpec(builtin="personal-facts", record_ids=["dog-1", "nowhere"]))
    with pytest.raises(WorkloadInputError, match="choose a smaller offset"):
        select_records(facts, DatasetSpec(builtin="personal-facts", offset=1000))


def test_facts_about_the_same_subjects_are_left_out_whatever_their_case(facts: list[EditRecord]) -> None:
    first = dataclasses.replace(facts[0], subject=facts[0].subject.upper(), prompt=facts[0].prompt.upper())
    kept = without_subjects_of(facts, [first])
    assert kept == [record for record in facts if record.subject != facts[0].subject] != facts


def test_a_relative_file_is_found_beside_the_spec(tmp_path: Path) -> None:
    record = {
        "record_id": "a",
        "subject": "Ann",
        "prompt": "Ann likes",
        "target_new": "tea",
        "target_true": "coffee",
    }
    (tmp_path / "facts.json").write_text(json.dumps([record]))
    (loaded,) = load_records(DatasetSpec(file="facts.json"), tmp_path)
    assert loaded == EditRecord("a", "Ann", "Ann likes", "tea", "coffee")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "cannot be read"),
        (b"{", "is not JSON (line 1"),
        (b'["\xff"]', "is not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_refused_in_words(tmp_path: Path, content: bytes | None, named: str) -> None:
    path = tmp_path / "facts.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WorkloadInputError) as caught:
        read_records(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_the_home_of_nobody_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(WorkloadInputError, match="names the home folder of nobody"):
        load_records(DatasetSpec(file="~no-such-user-here/facts.json"), tmp_path)


@pytest.mark.parametrize(
    ("name", "number", "paraphrases", "neighbours"),
    [
        ("counterfact_full_250.json", 250, 2, 10),
        ("counterfact_flat_dev.json", 1000, 1, 1),
        ("counterfact_flat_train.json", 4000, 1, 1),
    ],
)
def test_real_counterfact_files_are_read(name: str, number: int, paraphrases: int, neighbours: int) -> None:
    path = SHARED / "counterfact" / name
    if not path.exists():
        pytest.skip(f"no {path}: the shared data is not on this machine")
    records = read_records(path)
    assert len(records) == number
    assert {len(record.paraphrases) for record in records} == {paraphrases}
    assert {len(record.neighbours) for record in records} == {neighbours}


@pytest.mark.parametrize(
    ("name", "number", "compared", "portability", "neighbours"),
    [
        ("zsre/zsre_knowedit_even.json", 652, 629, 652, 1304),
        ("knowedit/wiki_recent_train.json", 570, 0, 751, 1939),
    ],
)
def test_real_knowedit_files_are_read(
    name: str, number: int, compared: int, portability: int, neighbours: int
) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {path}: the shared data is not on this machine")
    records = read_records(path)
    assert len(records) == number
    assert sum(bool(record.target_true) for record in records) == compared
    assert sum(len(record.portability) for record in records) == portability
    assert sum(len(record.neighbours) for record in records) == neighbours


def test_a_real_file_of_another_form_is_refused_whole() -> None:
    path = SHARED / "zsre" / "zsre_knowedit_even.json"
    if not path.exists():
        pytest.skip(f"no {path}: the shared data is not on this machine")
    with pytest.raises(WorkloadInputError, match="locality_prompt is missing"):
        read_records(path, "counterfact-flat")
