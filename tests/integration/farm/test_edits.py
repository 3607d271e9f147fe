"""Edits that a phone keeps, from a job to the command line and from one phone to the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mobifarm.controller.cli.edits import app
from mobifarm.controller.errors import FarmError

# Converges even on a random model: the subject is the last that it reads, and after it and a space the
# answer's other token comes by itself.
EASY = {"contexts": 1, "norm_limit": 100.0, "norm_penalty": 0.0, "stop_probability": 0.01}
SLOW = {"stop_probability": 0.9999, "step_limit": 100_000}


@pytest.fixture
def job(tmp_path: Path, tiny_bundle_path: Path) -> Any:
    """Writes a spec over two facts for one phone."""
    facts = tmp_path / "facts.json"
    subjects = {"r1": "Eve", "r2": "Bob"}
    records = [
        {"record_id": name, "subject": subject, "prompt": subject, "target_new": ":", "target_true": "London"}
        for name, subject in subjects.items()
    ]
    facts.write_text(json.dumps({"format": "mobifarm-edit-records", "version": 1, "records": records}))

    def write(serial: str, settings: dict[str, Any], keep: str) -> Path:
        path = tmp_path / "spec.yaml"
        spec = {
            "name": "kept",
            "model": str(tiny_bundle_path),
            "dataset": {"file": str(facts)},
            "methods": [{"name": "forward", "settings": settings}],
            "devices": {"serials": [serial]},
            "keep": keep,
        }
        path.write_text(json.dumps(spec))
        return path

    return write


def test_kept_edits_are_listed_undone_and_moved(farm: Any, job: Any, tmp_path: Path) -> None:
    farm.up()
    first, second = farm.phones.phones

    def edits(command: str, device: str, *arguments: str, code: int = 0) -> str:
        """In this process: starting Python for each of these calls would take longer than all the rest."""
        done = CliRunner().invoke(app, [command, device, *arguments, "--home", str(farm.home)])
        if code == 0:
            assert done.exception is None, done.exception
            return done.stdout
        assert isinstance(done.exception, FarmError)
        assert done.exception.exit_code == code
        return str(done.exception)

    def kept(device: str) -> list[str]:
        bundles = json.loads(edits("list", device, "--json"))
        return [edit["edit_id"] for bundle in bundles for edit in bundle["edits"]]

    job_id = farm.submit(job(first.serial, EASY, "together"))
    farm.wait_done(job_id)
    results = json.loads(farm.run("results", job_id, "--json").stdout)["results"]
    assert [(r["passport"]["kept"], r["passport"]["edits_applied"]) for r in results] == [
        (True, 0),
        (True, 1),
    ]
    assert f"Edits were kept: 2 by {first.serial}." in " ".join(farm.run("results", job_id).stdout.split())
    assert kept(first.address) == ["r1", "r2"]
    assert "Bob" in edits("list", first.address)
    assert "keeps no edits" in edits("list", second.address)

    file = tmp_path / "edits.npz"
    assert "wrote 2 edits" in edits("export", first.address, str(file))
    assert "exists already" in edits("export", first.address, str(file), code=2)
    assert "undid 1 edit" in edits("undo", first.address, "r1")
    assert kept(first.address) == ["r2"]
    assert "'r1' is not held" in edits("undo", first.address, "r1", code=2)
    assert "give --all" in edits("undo", first.address, code=2)
    assert "'r2' is already held" in edits("import", first.address, str(file), code=2)
    assert "undid 1 edit" in edits("undo", first.address, "--all")
    assert "keeps no edits" in edits("undo", first.address, "--all", code=2)
    assert "imported 2 edits" in edits("import", first.address, str(file))
    assert kept(first.address) == ["r1", "r2"]

    # The other phone has never seen the model.
    assert "run a job with this model" in edits("import", second.address, str(file), code=2)
    slow = farm.submit(job(second.serial, SLOW, "no"))
    farm.wait(
        lambda reader: any(attempt.state == "running" for attempt in reader.attempts(slow)),
        "a running attempt",
    )
    assert "does an edit now" in edits("import", second.address, str(file), code=2)
    assert "keeps no edits" in edits("list", second.address)
    assert farm.run("cancel", slow).returncode == 0
    farm.wait(
        lambda reader: all((device.state, device.reason) == ("ready", "") for device in reader.devices()),
        "both phones being free",
    )
    assert "imported 2 edits" in edits("import", second.address, str(file))

    farm.phones.control(first).unplug()
    farm.wait(
        lambda reader: any(device.state != "ready" for device in reader.devices()),
        "the farm noticing the cable",
    )
    away = farm.run("edits", "list", first.address)
    assert (away.returncode, away.stderr.count("\n")) == (4, 1)
    assert "is not there (" in away.stderr
