"""Baselines in a farm: they run on its computer, beside the phones and apart from them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mobifarm.agent.home import AgentHome
from mobifarm.controller.errors import DeviceError
from mobifarm.controller.host.computer import ComputerConnector

Spec = Callable[..., Path]


@pytest.fixture
def compare(tmp_path: Path, tiny_bundle_path: Path) -> Spec:
    """Writes a spec over the first N personal facts with several methods."""

    def write(limit: int, methods: Sequence[dict[str, Any]]) -> Path:
        path = tmp_path / "compare.yaml"
        dataset = {"builtin": "personal-facts", "limit": limit}
        document = {"name": "compare", "model": str(tiny_bundle_path), "dataset": dataset, "methods": methods}
        path.write_text(json.dumps({**document, "devices": {"execution": "virtual", "count": 1}}))
        return path

    return write


def computer(farm: Any) -> int | None:
    """Process id of the computer's agent, None where it does not run."""
    try:
        pid = int((farm.home / "computer" / "agent" / "lock").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"mobifarm.workloads.baselines.serve" in command else None


def with_a_model_from_elsewhere(spec: Path, bundle: Path, folder: Path) -> Path:
    """The spec with a bundle whose weights nobody here knows."""
    foreign = folder / "foreign"
    foreign.mkdir()
    manifest = json.loads((bundle / "manifest.json").read_text())
    (foreign / "manifest.json").write_text(json.dumps({**manifest, "provenance": {"model": "Foreign"}}))
    changed = folder / "foreign.yaml"
    changed.write_text(json.dumps({**json.loads(spec.read_text()), "model": str(foreign)}))
    return changed


def test_baselines_run_on_the_computer_beside_the_phones(
    farm: Any, compare: Spec, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    process = farm.up()
    spec = compare(3, [{"name": "forward"}, {"name": "rome"}, {"name": "unedited"}])
    refused = farm.run("run", str(with_a_model_from_elsewhere(spec, tiny_bundle_path, tmp_path)))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "are not on this computer" in refused.stderr
    assert computer(farm) is None
    job_id = farm.submit(spec)
    farm.wait_done(job_id)

    document = json.loads(farm.run("results", job_id, "--json").stdout)
    rows = {row["label"]: row for row in document["summary"]["methods"]}
    assert {label: (row["execution"], row["edits"], row["failed"]) for label, row in rows.items()} == {
        "forward": ("virtual", 3, 0),
        "rome": ("computer", 3, 0),
        "unedited": ("computer", 3, 0),
    }
    assert rows["rome"]["loss_evaluations_median"] > 0
    assert rows["rome"]["peak_rss_bytes_max"] > 0
    assert all(row["execution"] == "virtual" for row in document["summary"]["phones"])
    assert [row["device_id"] for row in document["summary"]["computers"]] == ["computer"]
    for result in document["results"]:
        passport = result["passport"]
        assert passport["returned_to_base"]
        assert (result["device_id"] == "computer") == (passport["method"] != "forward")
        before, after = (result["result"]["scores"][0][f"wanted_{when}"] for when in ("before", "after"))
        gained = after["log_probability"] - before["log_probability"]
        assert gained == 0 if passport["method"] == "unedited" else gained > 0
    text = farm.run("results", job_id).stdout
    assert "torch in fp32 on this computer" in text
    assert "computer" in farm.run("devices").stdout

    pid = computer(farm)
    assert pid is not None
    token = farm.home / "computer" / "agent" / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    farm.stop(process)
    assert computer(farm) is None


def test_a_killed_computer_is_started_again_and_its_edit_is_done(farm: Any, compare: Spec) -> None:
    farm.up()
    job_id = farm.submit(compare(1, [{"name": "rome"}, {"name": "unedited"}]))
    # The first edit of a process starts with importing torch: time enough to kill it.
    attempt = farm.wait(
        lambda reader: next((view for view in reader.attempts(job_id) if view.state == "running"), None),
        "a running attempt",
    )
    assert attempt.device_id == "computer"
    pid = computer(farm)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    farm.wait_done(job_id)
    with farm.reader() as reader:
        assert len(list(reader.results(job_id))) == 2
        states = {view.attempt_id: view.state for view in reader.attempts(job_id)}
        assert states[attempt.attempt_id] == "broken"
        assert sorted(states.values()) == ["broken", "done", "done"]
    assert computer(farm) not in (None, pid)


def test_a_killed_farm_leaves_no_computer_behind_and_takes_its_job_up_again(farm: Any, compare: Spec) -> None:
    process = farm.up()
    job_id = farm.submit(compare(2, [{"name": "rome"}]))
    farm.wait(lambda reader: any(view.state == "running" for view in reader.attempts(job_id)), "an attempt")
    pid = computer(farm)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    farm.wait(lambda reader: computer(farm) is None, "the end of the computer's agent")
    farm.up()
    farm.wait_done(job_id)
    with farm.reader() as reader:
        assert len(list(reader.results(job_id))) == 2
    assert computer(farm) not in (None, pid)


async def test_a_computer_that_cannot_start_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    holder = AgentHome(tmp_path / "computer")
    holder.take()
    try:
        with ThreadPoolExecutor(4) as threads:
            connect = ComputerConnector("here", holder.root, tmp_path, threads)
            with pytest.raises(DeviceError, match="already runs in"):
                await connect("computer", lambda state: None, lambda what, done, total: None)
    finally:
        holder.release()
