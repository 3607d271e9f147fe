"""An evaluation for neural processors on two virtual phones, of which one has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import mobifarm
from mobifarm.simulator.virtual_phones import VirtualPhones
from mobifarm.workloads.models.compile import compile_bundle
from mobifarm.workloads.models.npu import build_npu_bundle
from mobifarm.workloads.models.sources import find_source

# Short: the emulator takes a second for what a chip does in a millisecond.
SETTINGS = {"contexts": 1, "directions": 2, "memory": 0, "step_limit": 1}
SOC = "SM8650"


@pytest.fixture
def npu_farm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's HTP emulator: pip install mobifarm[htp]")
    farm = request.getfixturevalue("empty_farm")
    with ExitStack() as stack:
        farm.phones = stack.enter_context(
            VirtualPhones(2, profiles=("galaxy-s24", "pixel-8"), npu=True, home=farm.home / "virtual")
        )
        yield farm


def test_results_tell_where_they_ran_and_why(npu_farm: Any, tmp_path: Path, tiny_bundle_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle_path, tmp_path / "bundles" / "tiny-random"))
    npu_bundle = build_npu_bundle(find_source("tiny-random"), bundle).path
    compile_bundle(npu_bundle, SOC)
    npu_farm.up()
    with mobifarm.Client(home=npu_farm.home) as client:
        jobs = {}
        for phone in npu_farm.phones.phones:
            spec = {
                "name": "npu",
                "model": str(npu_bundle),
                "dataset": {"builtin": "personal-facts", "limit": 1},
                "methods": [{"name": "forward", "settings": SETTINGS}],
                "devices": {"serials": [phone.serial]},
            }
            jobs[phone.profile] = client.submit(spec)
        for job_id in jobs.values():
            npu_farm.wait_done(job_id)
        told = {}
        for profile, job_id in jobs.items():
            [result] = client.results(job_id)
            told[profile] = result["passport"]["accelerator"]
        rows = {profile: client.summary(job_id)["phones"] for profile, job_id in jobs.items()}
        pages = {profile: client.report(job_id) for profile, job_id in jobs.items()}

    emulated, processor = told["galaxy-s24"], told["pixel-8"]
    assert emulated["name"] == "htp_emulator", emulated
    details = emulated["details"]
    assert details["operators"] == details["operators_on_accelerator"] > 100
    assert details["compiled_ahead"]
    assert all(probe["rms_steps"] <= probe["allowed_rms_steps"] for probe in details["probe"].values())
    assert processor["name"] == "cpu"
    reason = processor["details"]["reason"]
    assert "no worker for a neural processor" in reason
    # What a person looks at says so too.
    share = f"{details['operators']} of {details['operators']} operators"
    assert [row["accelerator"] for row in rows["galaxy-s24"]] == [f"htp_emulator ({share})"]
    assert [row["accelerator"] for row in rows["pixel-8"]] == [f"cpu ({reason})"]
    assert share in pages["galaxy-s24"]
    assert reason in pages["pixel-8"]
