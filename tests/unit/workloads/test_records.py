"""Edit records: every form is read, every malformed record is named."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor.types import EditRecord, Probe
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.records import parse_records, record_from_mapping, record_to_mapping

OWN: dict[str, Any] = {
    "record_id": "dog-1",
    "subject": "Mira Okafor",
    "prompt": "The name of Mira Okafor's dog is",
    "target_new": "Biscuit",
    "target_true": "Max",
    "paraphrases": ["Mira Okafor has a dog called"],
    "neighbours": [{"prompt": "The name of Tintin's dog is", "answer": "Snowy"}],
    "portability": [],
}
FULL: dict[str, Any] = {
    "case_id": 7,
    "pararel_idx": 1,
    "requested_rewrite": {
        "prompt": "{} is located in",
        "relation_id": "P30",
        "target_new": {"str": "Antarctica", "id": "Q51"},
        "target_true": {"str": "Africa", "id": "Q15"},
        "subject": "Angola",
    },
    "paraphrase_prompts": ["Angola belongs to", "Angola is a part of"],
    "neighborhood_prompts": ["Ghana is in", "Algeria is in"],
    "attribute_prompts": ["Ross Island is in"],
    "generation_prompts": ["People around Angola"],
}
FLAT: dict[str, Any] = {
    "case_id": 0,
    "prompt": "The mother tongue of Danielle Darrieux is",
    "target_new": "English",
    "subject": "Danielle Darrieux",
    "ground_truth": "French",
    "rephrase_prompt": "Where Danielle Darrieux is from, people speak",
    "locality_prompt": "Michel Rocard is a native speaker of",
    "locality_ground_truth": "French",
}


KNOWEDIT: dict[str, Any] = {
    "subject": "Epaspidoceras",
    "prompt": "Which family does Epaspidoceras belong to?",
    "target_new": "Noctuidae",
    "ground_truth": ["Noctuidae", "Aspidoceratidae"],
    "rephrase_prompt": "What family are Epaspidoceras?",
    "cond": "not read",
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The taxon rank of Epaspidoceras is", "ground_truth": [["genus", "Genus"], ["rank"]]},
            {"prompt": "Nobody knows", "ground_truth": []},
        ],
        "Forgetfulness": [{"prompt": "It lives in", "ground_truth": ["water"]}],
    },
    "portability": {"Reasoning": [{"prompt": "Its common name is", "ground_truth": "Owlet moths"}]},
}


def changed(record: dict[str, Any], *path: str, to: Any) -> dict[str, Any]:
    made = copy.deepcopy(record)
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return made


def own_file(*records: Any) -> dict[str, Any]:
    return {"format": "mobifarm-edit-records", "version": 1, "records": list(records)}


def refusal(document: Any, form: str = "auto") -> str:
    with pytest.raises(WorkloadInputError) as caught:
        parse_records(document, "facts.json", form)
    return str(caught.value)


def test_own_form_is_read_with_and_without_a_header() -> None:
    expected = [
        EditRecord(
            "dog-1",
            "Mira Okafor",
            "The name of Mira Okafor's dog is",
            "Biscuit",
            "Max",
            ("Mira Okafor has a dog called",),
            (Probe("The name of Tintin's dog is", "Snowy"),),
        )
    ]
    assert parse_records(own_file(OWN), "facts.json") == expected
    assert parse_records([OWN], "facts.json") == expected


def test_full_counterfact_fills_the_template_and_answers_neighbours_with_target_true() -> None:
    assert parse_records([FULL], "facts.json") == [
        EditRecord(
            "7",
            "Angola",
            "Angola is located in",
            "Antarctica",
            "Africa",
            ("Angola belongs to", "Angola is a part of"),
            (Probe("Ghana is in", "Africa"), Probe("Algeria is in", "Africa")),
        )
    ]


def test_flat_counterfact_has_one_paraphrase_and_one_neighbour() -> None:
    assert parse_records([FLAT], "facts.json") == [
        EditRecord(
            "0",
            "Danielle Darrieux",
            "The mother tongue of Danielle Darrieux is",
            "English",
            "French",
            ("Where Danielle Darrieux is from, people speak",),
            (Probe("Michel Rocard is a native speaker of", "French"),),
        )
    ]


def test_knowedit_reads_whatever_lists_a_record_has() -> None:
    bare = {name: KNOWEDIT[name] for name in ("subject", "prompt", "target_new")} | {"portability": {}}
    assert parse_records([KNOWEDIT, bare], "facts.json") == [
        EditRecord(
            "0",
            "Epaspidoceras",
            "Which family does Epaspidoceras belong to?",
            "Noctuidae",
            "Aspidoceratidae",
            ("What family are Epaspidoceras?",),
            (Probe("The taxon rank of Epaspidoceras is", "genus"), Probe("It lives in", "water")),
            (Probe("Its common name is", "Owlet moths"),),
        ),
        EditRecord(
            "1", "Epaspidoceras", "Which family does Epaspidoceras belong to?", "Noctuidae", target_true=""
        ),
    ]


def test_a_record_without_an_answer_to_compare_with_goes_through_its_mapping() -> None:
    record = parse_records([changed(KNOWEDIT, "ground_truth", to="Noctuidae")], "facts.json")[0]
    assert record.target_true == ""
    assert record_from_mapping(record_to_mapping(record)) == record


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (changed(KNOWEDIT, "locality", to=["p"]), "locality is a list: give an object of lists"),
        (changed(KNOWEDIT, "locality", "Forgetfulness", to="p"), "locality.Forgetfulness is a text: give a"),
        (changed(KNOWEDIT, "locality", "Forgetfulness", to=["p"]), "locality.Forgetfulness[0] is a text"),
        (
            changed(KNOWEDIT, "portability", "Reasoning", to=[{"prompt": "p"}]),
            "portability.Reasoning[0].ground_truth is missing",
        ),
        (
            changed(KNOWEDIT, "portability", "Reasoning", to=[{"ground_truth": "a"}]),
            "portability.Reasoning[0].prompt is missing",
        ),
        (
            changed(KNOWEDIT, "portability", "Reasoning", to=[{"prompt": "p", "ground_truth": [7]}]),
            "portability.Reasoning[0].ground_truth is the number 7",
        ),
        (changed(KNOWEDIT, "ground_truth", to=None), "ground_truth is null"),
        (changed(KNOWEDIT, "rephrase_prompt", to=["a"]), "rephrase_prompt is a list: give a text"),
        (changed(KNOWEDIT, "target_new", to=""), "target_new is empty"),
    ],
)
def test_malformed_knowedit_records_are_named(record: dict[str, Any], named: str) -> None:
    assert named in refusal([record])


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({k: v for k, v in OWN.items() if k != "prompt"}, "prompt is missing: add it"),
        (changed(OWN, "target_new", to="  "), "target_new is empty"),
        (changed(OWN, "target_new", to=7), "target_new is the number 7: give a text"),
        (changed(OWN, "target_new", to="Max"), "target_new equals target_true"),
        (changed(OWN, "subject", to="Nobody"), "the subject 'Nobody' does not occur in the prompt"),
        (changed(OWN, "paraphrases", to="a b"), "paraphrases is a text: give a list"),
        (changed(OWN, "paraphrases", to=["a", ""]), "paraphrases[1] is empty"),
        (changed(OWN, "neighbours", to=[{"prompt": "p"}]), "neighbours[0].answer is missing"),
        (
            changed(OWN, "neighbours", to=["p"]),
            "neighbours[0] is a text: give an object with prompt and answer",
        ),
        (changed(OWN, "paraphrase", to=[]), "paraphrase is not a known field"),
        (changed(OWN, "prompt", to="x" * 5000), "prompt has 5000 characters: give at most 4000"),
        (changed(OWN, "target_new", to="\ud800"), "target_new holds half of a surrogate pair"),
        (changed(OWN, "paraphrases", to=["p"] * 101), "paraphrases has 101 entries: give at most 100"),
        (
            changed(FULL, "requested_rewrite", "prompt", to="no place"),
            "requested_rewrite.prompt is 'no place': put {}",
        ),
        (
            changed(FULL, "requested_rewrite", "target_new", to="Rome"),
            "requested_rewrite.target_new is a text",
        ),
        (
            changed(FULL, "requested_rewrite", "target_new", to={}),
            "requested_rewrite.target_new.str is missing",
        ),
        (changed(FULL, "requested_rewrite", to=None), "requested_rewrite"),
        (changed(FULL, "case_id", to=True), "case_id is true or false: give a whole number"),
        ({k: v for k, v in FLAT.items() if k != "locality_prompt"}, "locality_prompt is missing: add it"),
        (changed(FLAT, "ground_truth", to=["a"]), "ground_truth is a list: give a text"),
        ("not a record", "it is a text: give an object"),
    ],
)
def test_a_malformed_record_is_named_with_file_index_field_and_remedy(record: Any, named: str) -> None:
    good = FULL if isinstance(record, dict) and "requested_rewrite" in record else FLAT
    if isinstance(record, dict) and "record_id" in record:
        good = OWN
    other = {**good, "case_id": 99} if good is not OWN else {**OWN, "record_id": "other"}
    message = refusal([other, record])
    assert message.startswith("facts.json cannot be used")
    assert "record 1" in message
    assert named in message


def test_all_malformed_records_are_reported_up_to_a_bound() -> None:
    records = [changed(OWN, "record_id", to=f"r{i}") for i in range(40)]
    broken = [changed(record, "subject", to="") for record in records]
    message = refusal(broken)
    assert "40 problems" in message
    assert "record 19 (record_id r19): subject is empty" in message
    assert "… and 20 more" in message
    assert "record 20" not in message


def test_a_doubled_id_is_refused() -> None:
    assert "record 1: record_id 'dog-1' is that of record 0 too" in refusal([OWN, OWN])


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "holds no records"),
        (own_file(), "holds no records"),
        ("text", "holds a text where the list of records should be"),
        ({"records": [OWN]}, "without the header"),
        ({"format": "mobifarm-edit-records", "version": 2, "records": [OWN]}, "without the header"),
        ([{"something": 1}], "none of the known forms"),
        ([None], "none of the known forms"),
    ],
)
def test_a_file_that_is_no_data_set_is_refused(document: Any, named: str) -> None:
    message = refusal(document)
    assert "facts.json" in message
    assert named in message


def test_a_stated_format_is_not_guessed() -> None:
    assert "read as counterfact-flat" in refusal([OWN], "counterfact-flat")


def test_one_record_is_refused_with_all_its_problems() -> None:
    with pytest.raises(WorkloadInputError, match="2 problems") as caught:
        record_from_mapping({**OWN, "subject": "", "target_new": 3})
    assert "subject is empty" in str(caught.value)


words = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
probes = st.lists(st.builds(Probe, words, words), max_size=3).map(tuple)


@st.composite
def records(draw: st.DrawFn) -> EditRecord:
    subject = draw(words)
    prompt = f"{draw(words)} {subject} {draw(words)}"
    new = draw(words)
    true = draw(words.filter(lambda word: word != new))
    paraphrases = tuple(draw(st.lists(words, max_size=3)))
    return EditRecord(draw(words), subject, prompt, new, true, paraphrases, draw(probes), draw(probes))


@given(records())
def test_a_record_survives_json(record: EditRecord) -> None:
    assert record_from_mapping(json.loads(json.dumps(record_to_mapping(record)))) == record


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from([OWN, FULL, FLAT]), st.data(), json_values)
def test_any_damage_is_read_or_refused_in_words(
    record: dict[str, Any], data: st.DataObject, value: Any
) -> None:
    name = data.draw(st.sampled_from(sorted(record)))
    for document in ([{**record, name: value}], {**own_file(record), "records": value}, value):
        assert _outcome(document)


def _outcome(document: Any) -> bool:
    """Whether the document gives records or a refusal that names the file."""
    try:
        return len(parse_records(document, "facts.json")) > 0
    except WorkloadInputError as error:
        return "facts.json" in str(error)
