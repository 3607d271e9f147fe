"""What the benchmarks of single edits say about a bundle that they cannot use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).parents[1] / "bench"


@pytest.mark.parametrize("name", ["edit_facts", "several_edits", "profile_edit", "npu_quality"])
def test_a_bundle_of_an_old_schema_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 1}))
    command = [sys.executable, str(BENCHES / f"{name}.py"), "--bundle", str(tmp_path)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: the bundle has schema version 1")
    assert outcome.stderr.count("\n") == 1
