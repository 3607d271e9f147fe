"""``mobifarm npu-demo``: the agent on a virtual Snapdragon phone, through its neural processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 400


def run_demo(bundles: Path, *options: str) -> dict[str, Any]:
    # Bundles of its own; the agent's runtime comes out of the user's cache as in the other tests.
    command = [
        sys.executable,
        "-m",
        "mobifarm.controller.cli",
        "npu-demo",
        "--json",
        "--output",
        str(bundles),
    ]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=DEADLINE_S, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_edit_runs_on_the_emulated_htp_of_a_virtual_phone(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's HTP emulator: pip install mobifarm[htp]")
    report = run_demo(tmp_path)
    assert report["accelerator"] == "htp_emulator"
    assert report["success"]
    assert not report["success_before"]
    check = report["check"]
    assert check["compiled_ahead"]
    assert check["operators_on_accelerator"] == check["operators"] > 100
    # On a graph of the bundle that has other roundings.
    after = report["target_log_probability_after"]
    assert abs(after - report["target_log_probability_after_on_processor"]) < 0.05
    assert report["success_on_processor"]
    assert report["returned_to_base"]
