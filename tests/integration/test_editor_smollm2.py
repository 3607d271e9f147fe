"""The editor on the real quantised model: personal facts go in, and out again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mobifarm.agent.editor import EditStatus, ProbeKind, edit
from mobifarm.agent.editor.bundle import Bundle
from mobifarm.workloads.datasets import read_records

FACTS = Path(__file__).parents[2] / "workloads" / "data" / "personal_facts.json"

pytestmark = pytest.mark.model


def test_personal_facts_are_learned_and_the_model_stays_as_it_was(smollm2_bundle_path: Path) -> None:
    bundle = Bundle.open(smollm2_bundle_path, threads=2, verify=False)
    base = bundle.base_hash()
    neighbours_kept = neighbours = 0
    # Every twentieth fact: different relations and owners, answers of one and of several tokens.
    for record in read_records(FACTS)[::20]:
        outcome = edit(
            bundle,
            record,
            method="forward",
            settings={},
            seed=0,
            report=lambda progress: None,
            cancelled=lambda: False,
            clock=time.monotonic,
        )
        efficacy = outcome.scores[0]
        assert efficacy.kind is ProbeKind.EFFICACY
        assert efficacy.other_after is not None
        assert efficacy.wanted_after.log_probability > efficacy.other_after.log_probability, record.record_id
        assert efficacy.wanted_after.log_probability > efficacy.wanted_before.log_probability + 1
        assert outcome.status is EditStatus.CONVERGED
        for score in outcome.scores:
            if score.kind is ProbeKind.NEIGHBOURHOOD:
                assert score.other_before is not None
                assert score.other_after is not None
                right = score.wanted_before.log_probability > score.other_before.log_probability
                neighbours += right
                neighbours_kept += right and (
                    score.wanted_after.log_probability > score.other_after.log_probability
                )
    assert neighbours_kept >= 0.6 * neighbours
    assert bundle.base_hash() == base
