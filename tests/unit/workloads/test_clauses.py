"""Conditions on attributes: what is read, what is refused, and what holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.workloads.clauses import ATTRIBUTES, Clause, parse_clause

PHONE = {
    "soc.model": "SM8650",
    "npu.arch": 75.0,
    "android.version": "14",
    "ram.gib": 7.4,
    "tag": ("bench", "loud"),
}


@pytest.mark.parametrize(
    "text",
    [
        "soc.model == SM8650",
        "soc.model == 'sm8650'",
        "soc.model != SM8550",
        "soc.model in SM8550, SM8650",
        "soc.model not in SM8550, SM8450",
        "npu.arch >= 73",
        "npu.arch>=75",
        "npu.arch < 75.5",
        "android.version >= 14",
        "android.version == 14.0",
        "android.version > 8.1.0",
        "android.version < 14.1",
        "ram.gib > 6",
        "tag == bench",
        "tag in quiet, loud",
        "tag != quiet",
        "tag not in quiet, new",
    ],
)
def test_conditions_that_hold(text: str) -> None:
    assert parse_clause(text).unmet(PHONE) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("soc.model == SM8550", "its soc.model is SM8650, wanted == SM8550"),
        ("npu.arch >= 79", "its npu.arch is 75, wanted >= 79"),
        ("android.version >= 15", "its android.version is 14, wanted >= 15"),
        ("soc.model not in SM8650, X", "its soc.model is SM8650, wanted not in SM8650, X"),
        ("tag == quiet", "it has no tag quiet"),
        ("tag not in loud, new", "it has the tag loud, new"),
        ("abi != x86_64", "its abi is not known (wanted != x86_64)"),
    ],
)
def test_conditions_that_do_not_hold_say_why(text: str, words: str) -> None:
    assert parse_clause(text).unmet(PHONE) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("npu.arhc >= 73", "did you mean npu.arch"),
        ("colour == red", "choose device, serial"),
        ("npu.arch", "write it like 'npu.arch >= 73'"),
        ("npu.arch >= ", "write it like"),
        ("npu.arch = 73", "write it like"),
        ("npu.arch >= fast", "which is not a number"),
        ("npu.arch >= 73 or 1", "which is not a number"),
        ("android.version >= new", "which is not a version such as 14"),
        ("soc.model >= SM8650", "orders a text"),
        ("soc.model == A, B", "a list goes with in"),
        ("soc.model in A,,B", "which is not a text"),
        ("__import__('os').system('x')", "cannot be read"),
        ("serial == " + "x" * 600, "longer than 500"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_name(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")) as refusal:
        parse_clause(text)
    assert len(str(refusal.value)) < 800


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        clause = parse_clause(text)
    except ValueError:
        return
    assert clause.name in ATTRIBUTES


@given(
    st.sampled_from(["soc.model", "serial", "tag"]),
    st.sampled_from(["==", "!=", "in", "not in"]),
    st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True), min_size=1, max_size=3),
)
def test_a_printed_condition_is_the_condition(name: str, operator: str, values: list[str]) -> None:
    given = tuple(values if "in" in operator else values[:1])
    clause = Clause(name, operator, given)
    assert parse_clause(str(clause)) == clause
