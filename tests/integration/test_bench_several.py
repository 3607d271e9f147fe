"""Several edits held at once, from the command line to its JSON, on a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench" / "several_edits.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("order", ["together", "in_sequence"])
def test_several_numbers_of_edits_in_one_run(tiny_bundle_path: Path, tmp_path: Path, order: str) -> None:
    output = tmp_path / "out.json"
    outcome = run(
        *("--bundle", str(tiny_bundle_path), "--edits", "3,1", "--order", order),
        *("--set", "step_limit=2", "--json", str(output)),
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "3/3 " in outcome.stderr
    document = json.loads(output.read_text())
    assert [table["edits"] for table in document["tables"]] == [1, 3]
    assert len(document["edits"]) == len(document["tables"][1]["all_held"]) == 3
    first, last = document["tables"]
    # One edit at once is the edit alone; the last one was made with all of them.
    assert first["means"]["all"] == first["means"]["alone"] == first["means"]["when_made"]
    assert last["all_held"][-1] == document["edits"][-1]["when_made"]
    assert last["loss_evaluations"] == sum(edit["loss_evaluations"] for edit in document["edits"])


def test_more_edits_than_records_are_refused(tiny_bundle_path: Path) -> None:
    outcome = run("--bundle", str(tiny_bundle_path), "--edits", "1000")
    assert outcome.returncode == 1
    assert "lower --edits" in outcome.stderr
    assert "Traceback" not in outcome.stderr
