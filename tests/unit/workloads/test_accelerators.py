"""What results say of the accelerator, in words."""

from __future__ import annotations

from typing import Any

import pytest

from mobifarm.workloads.accelerators import in_words, operators, why_not

ABSENT = "no worker for a neural processor runs on this phone"


@pytest.mark.parametrize(
    ("accelerator", "words"),
    [
        ({}, ""),
        ({"name": None, "details": None}, ""),
        ({"name": "cpu"}, "cpu"),
        ({"name": "cpu", "details": {"reason": ABSENT, "bundle_has_graphs": True}}, f"cpu ({ABSENT})"),
        ({"name": "cpu", "details": {"reason": "no graphs", "bundle_has_graphs": False}}, "cpu"),
        # From before it was told whether the bundle has graphs.
        ({"name": "cpu", "details": {"reason": ABSENT}}, f"cpu ({ABSENT})"),
        # A worker with --soc cpu, which counts no operators.
        (
            {
                "name": "cpu",
                "details": {"reason": ABSENT, "operators": 0, "operators_on_accelerator": 0},
            },
            f"cpu ({ABSENT})",
        ),
        (
            {"name": "htp_emulator", "details": {"operators": 146, "operators_on_accelerator": 145}},
            "htp_emulator (145 of 146 operators)",
        ),
        # A phone may write anything.
        ({"name": "x", "details": {"operators": "146", "reason": ["?"]}}, "x"),
    ],
)
def test_name_with_share_or_reason(accelerator: dict[str, Any], words: str) -> None:
    assert in_words(accelerator) == words


def test_a_phones_words_have_an_end() -> None:
    assert len(why_not({"details": {"reason": "no " * 1000}})) == 300
    assert operators({"details": {"operators": None}}) == ""
