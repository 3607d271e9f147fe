"""What telemetry costs, from the command line to its JSON, on a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench" / "telemetry_cost.py"


def test_a_block_has_two_edits_with_and_two_without_telemetry(tiny_bundle_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    command = [sys.executable, str(BENCH), "--bundle", str(tiny_bundle_path), "--json", str(output)]
    command += ["--blocks", "1", "--steps", "2", "--idle-s", "0.1"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 0, outcome.stderr
    document = json.loads(output.read_text())
    assert [edit["telemetry"] for edit in document["edits"]] == [True, False, False, True]
    assert [edit["samples"] > 0 for edit in document["edits"]] == [True, False, False, True]
    assert document["summary"]["off_cpu_s"] > 0
    assert document["summary"]["cpu_s_per_sample"] > 0
    assert "of a core" in outcome.stdout


def test_without_a_bundle_it_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--bundle", str(tmp_path)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 1
    assert "--bundle" in outcome.stderr
    assert "Traceback" not in outcome.stderr
