"""The comparison of the editors, from its command line to its JSON, on a small model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobifarm.workloads.metrics.measures import METRIC_NAMES

BENCH = Path(__file__).parents[1] / "bench" / "editors.py"
METHODS = ("unedited", "rome_cached:1", "forward", "forward+long:1")
RECORDS: list[dict[str, Any]] = [
    {
        "record_id": f"dog-{name}",
        "subject": name,
        "prompt": f"The dog of {name} is",
        "target_new": "Rex",
        "target_true": "Bo",
        "neighbours": [{"prompt": "The cat of Eve is", "answer": "Tom"}],
    }
    for name in ("Ada", "Tim")
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCH), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def test_methods_are_compared_in_one_run(tiny_bundle_path: Path, tmp_path: Path) -> None:
    data, text, output = tmp_path / "facts.json", tmp_path / "text.txt", tmp_path / "out.json"
    data.write_text(json.dumps({"format": "mobifarm-edit-records", "version": 1, "records": RECORDS}))
    text.write_text("Ordinary words in an ordinary order. " * 30)
    given = (
        *("--model", "tiny-random", "--bundle", str(tiny_bundle_path), "--data", str(data)),
        *("--set", "forward.step_limit=2", "--set", "forward+long.step_limit=5", "--text", str(text)),
        *("--at-once", "2", "--records", "2", "--output", str(output)),
    )
    outcome = run(*given, "--methods", ",".join(METHODS))
    assert outcome.returncode == 0, outcome.stderr
    assert "peak RSS" in outcome.stdout
    methods = json.loads(output.read_text())["methods"]
    assert tuple(methods) == ("unedited", "rome_cached", "forward", "forward+long")
    for name, found in methods.items():
        number = 1 if name in ("rome_cached", "forward+long") else 2
        assert [edit["record_id"] for edit in found["edits"]] == ["dog-Ada", "dog-Tim"][:number]
        assert found["peak_rss_bytes"] > 50 * 2**20
        assert set(METRIC_NAMES) <= set(found["estimates"])
        assert found["estimates"]["efficacy_probability"]["records"] == number
        # Fluency and drift are measured on the first record alone.
        assert found["estimates"]["perplexity_drift"]["records"] == 1
        evaluations = [edit["cost"]["loss_evaluations"] for edit in found["edits"]]
        assert all(count == 0 for count in evaluations) == (name == "unedited")
    short, long = (methods[name]["edits"][0]["cost"] for name in ("forward", "forward+long"))
    assert long["loss_evaluations"] > short["loss_evaluations"]
    again = run(*given, "--methods", "forward,forward+long:2,unedited", "--resume")
    assert again.returncode == 0, again.stderr
    # What is there on the same records is kept, to the second; the rest is run.
    resumed = json.loads(output.read_text())["methods"]
    assert [resumed[name] == methods[name] for name in ("forward", "forward+long")] == [True, False]
    assert len(resumed["forward+long"]["edits"]) == 2
    other = run(*given, "--methods", "unedited", "--second-moment", "identity", "--threads", "2", "--resume")
    assert other.returncode == 0, other.stderr
    # Another number of threads makes other seconds: nothing is taken over.
    assert json.loads(output.read_text())["threads"] == 2
    assert methods["unedited"]["estimates"]["neighbourhood_unchanged"]["value"] == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--methods", "rome,magic"), "magic is no method"),
        (("--methods", "rome:none"), "rome:none names no number of records"),
        (("--records", "0"), "--records, --threads and --at-once must be at least 1"),
        (("--model", "nowhere"), "'nowhere' is neither a known model"),
    ],
)
def test_mistakes_are_named_in_one_sentence(arguments: tuple[str, ...], reason: str) -> None:
    outcome = run(*arguments)
    assert outcome.returncode != 0
    assert reason in outcome.stderr
    assert "Traceback" not in outcome.stderr
