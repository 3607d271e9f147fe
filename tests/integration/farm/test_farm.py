"""The farm end to end on virtual phones with a tiny random model: nothing lost, nothing counted twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.core.views import AttemptView
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.transport.direct import connect_direct

# Never done by itself: the edit runs for as long as the test needs it to.
SLOW = {"stop_probability": 0.9999, "step_limit": 400}

Spec = Callable[..., Path]


def running_attempt(reader: StoreReader, job_id: str) -> AttemptView | None:
    return next((attempt for attempt in reader.attempts(job_id) if attempt.state == "running"), None)


def test_evaluation_runs_on_both_phones_and_is_read_without_the_farm(farm: Any, spec: Spec) -> None:
    process = farm.up()
    job_id = farm.submit(spec(6, {}, idle_window_s=2.0))
    farm.wait_done(job_id)
    farm.stop(process)

    shown = farm.run("results", job_id, "--json")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    results = document["results"]
    assert len(results) == 6
    assert len({result["device_id"] for result in results}) == 2
    passport = results[0]["passport"]
    assert passport["execution"] == "virtual"
    assert passport["phone"]["serial"]
    assert passport["accelerator"]["name"] == "cpu"
    check_energy(farm.home, [result["passport"] for result in results])
    table = farm.run("results", job_id)
    assert table.returncode == 0
    # Which phone does the few facts that this model learns is left to chance; one of them tells no joules.
    (method,) = document["summary"]["methods"]
    told = method["modelled_joules"] is not None
    assert ("energy (modelled), J per successful edit" in table.stdout) == told
    assert len(farm.run("results", job_id, "--csv").stdout.splitlines()) == 7
    assert "test" in farm.run("jobs").stdout
    assert "ready" not in farm.run("devices").stderr


def check_energy(home: Path, passports: list[dict[str, Any]]) -> None:
    """Modelled joules where rails can be read, a reason where only a charging phone's gauge can."""
    for passport in passports:
        file, energy = passport["telemetry"]["file"], passport["energy"]
        content = (home / file["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert file["samples"] == passport["telemetry"]["samples"] + passport["telemetry"]["idle_samples"]
        assert passport["phone_clock"]["bound_s"] > 0
        if passport["phone"]["model"] == "Pixel 8":
            assert (energy["source"], energy["provenance"]) == ("rails", "modelled")
            assert energy["baseline_watts"] > 0.4  # the profile's base power, and what else ran
            assert energy["gross_joules"] > 0
            assert energy["uncertainty_joules"] == pytest.approx(math.hypot(*energy["terms"].values()))
        else:
            assert energy["joules"] is None
            assert "confounded by charging" in energy["reason"]


def test_unplugged_phones_edit_is_done_once_elsewhere(farm: Any, spec: Spec) -> None:
    farm.up()
    job_id = farm.submit(spec(4, SLOW))
    attempt = farm.wait(lambda reader: running_attempt(reader, job_id), "a running attempt")
    phone = next(phone for phone in farm.phones.phones if phone.address == attempt.device_id)
    control = farm.phones.control(phone)
    control.unplug()
    retried = farm.wait(
        lambda reader: [
            other
            for other in reader.attempts(job_id)
            if other.trial_id == attempt.trial_id and other.attempt_id != attempt.attempt_id
        ],
        "a second attempt",
    )
    assert retried[0].device_id != attempt.device_id
    control.plug()
    farm.wait_done(job_id)
    with farm.reader() as reader:
        results = list(reader.results(job_id))
        states = {view.attempt_id: view.state for view in reader.attempts(job_id)}
    assert len(results) == len({result.trial_id for result in results}) == 4
    assert states[attempt.attempt_id] == "expired"


def test_short_unplugging_resumes_the_same_attempt(farm: Any, spec: Spec) -> None:
    farm.up(lost_grace_s=120.0)
    job_id = farm.submit(spec(2, SLOW))
    attempt = farm.wait(lambda reader: running_attempt(reader, job_id), "a running attempt")
    phone = next(phone for phone in farm.phones.phones if phone.address == attempt.device_id)
    control = farm.phones.control(phone)
    control.unplug()
    control.plug()
    farm.wait_done(job_id)
    with farm.reader() as reader:
        assert [len(trials) for trials in by_trial(reader, job_id).values()] == [1, 1]
        telemetry = [result.result["passport"]["telemetry"] for result in reader.results(job_id)]
    # What was sampled while the cable was out has come, too.
    assert [one["file"]["samples"] for one in telemetry] == [
        one["samples"] + one["idle_samples"] for one in telemetry
    ]


def by_trial(reader: StoreReader, job_id: str) -> dict[str, list[AttemptView]]:
    found: dict[str, list[AttemptView]] = {}
    for attempt in reader.attempts(job_id):
        found.setdefault(attempt.trial_id, []).append(attempt)
    return found


def test_killed_controller_takes_the_job_up_again(farm: Any, spec: Spec) -> None:
    process = farm.up()
    job_id = farm.submit(spec(6, SLOW))
    farm.wait(
        lambda reader: reader.job(job_id).done >= 1 and running_attempt(reader, job_id), "half of the job"
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    with farm.reader() as reader:
        done_before = {result.trial_id: result.attempt_id for result in reader.results(job_id)}
    assert len(done_before) < 6

    farm.up()
    farm.wait_done(job_id)
    with farm.reader() as reader:
        results = list(reader.results(job_id))
    assert len(results) == len({result.trial_id for result in results}) == 6
    after = {result.trial_id: result.attempt_id for result in results}
    assert done_before.items() <= after.items()


def test_killed_host_actor_comes_back_and_resumes(farm: Any, spec: Spec) -> None:
    farm.up()
    job_id = farm.submit(spec(2, SLOW))
    farm.wait(lambda reader: running_attempt(reader, job_id), "a running attempt")
    scratch = json.loads((farm.home / "running.json").read_text())["scratch"]
    os.kill(host_actor(scratch), signal.SIGKILL)
    farm.wait_done(job_id)
    with farm.reader() as reader:
        assert len(list(reader.results(job_id))) == 2


def test_killed_agent_is_started_again_and_its_edit_is_done(farm: Any, spec: Spec) -> None:
    farm.up()
    # Reaching the phone by a link of one's own takes seconds on a busy computer.
    job_id = farm.submit(spec(2, {**SLOW, "step_limit": 1000}))
    attempt = farm.wait(lambda reader: running_attempt(reader, job_id), "a running attempt")
    link = connect_direct(attempt.device_id, key_path=farm.home / "adbkey")
    try:
        home = "${ANDROID_DATA:-/data}/local/tmp/mobifarm"
        assert link.shell(f"kill -9 $(cat {home}/agent/lock)").exit_code == 0
    finally:
        link.close()
    farm.wait_done(job_id)
    with farm.reader() as reader:
        assert len(list(reader.results(job_id))) == 2
        states = {view.attempt_id: view.state for view in reader.attempts(job_id)}
    assert states[attempt.attempt_id] == "broken"
    farm.wait(
        lambda reader: all(device.state == "ready" for device in reader.devices()), "both phones being ready"
    )


def test_killed_ray_head_ends_the_farm_and_the_next_takes_the_job_up_again(
    farm: Any, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray gives its head a minute to come back; the edits go on meanwhile.
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
    process = farm.up()
    job_id = farm.submit(spec(4, SLOW))
    farm.wait(lambda reader: running_attempt(reader, job_id), "a running attempt")
    scratch = json.loads((farm.home / "running.json").read_text())["scratch"]
    (head,) = (
        pid
        for pid, line in command_lines().items()
        if "gcs_server" in line.split(" ", 1)[0] and any(folder in line for folder in scratch)
    )
    os.kill(head, signal.SIGKILL)
    process.wait(240)
    farm.up()
    farm.wait_done(job_id)
    with farm.reader() as reader:
        results = list(reader.results(job_id))
    assert len(results) == len({result.trial_id for result in results}) == 4


def command_lines() -> dict[int, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def host_actor(scratch: list[str]) -> int:
    """Process id of the host actor of the farm whose Ray session lies in one of these folders."""
    commands = command_lines()
    raylets = {
        pid for pid, line in commands.items() if "/raylet " in line and any(s in line for s in scratch)
    }
    for pid, line in commands.items():
        if line.startswith("ray::HostActor"):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent in raylets:
                return pid
    raise AssertionError("no host actor runs")


def test_second_farm_on_the_same_folder_is_refused(farm: Any) -> None:
    farm.up()
    second = farm.run("up")
    assert second.returncode == 2
    assert "Traceback" not in second.stderr


def test_cancelled_job_frees_its_phones(farm: Any, spec: Spec) -> None:
    farm.up()
    job_id = farm.submit(spec(6, SLOW))
    farm.wait(lambda reader: running_attempt(reader, job_id), "a running attempt")
    assert farm.run("cancel", job_id).returncode == 0
    farm.wait(
        lambda reader: all(device.state == "ready" for device in reader.devices()), "all phones being free"
    )
    with farm.reader() as reader:
        assert reader.job(job_id).state == "cancelled"


def test_mistakes_are_one_sentence(farm: Any, tmp_path: Path) -> None:
    no_farm = farm.run("cancel", "job-1")
    assert (no_farm.returncode, no_farm.stderr.count("\n")) == (2, 1)
    assert "mobifarm up" in no_farm.stderr
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: 3\nmodel: x\nnonsense: true\n")
    refused = farm.run("run", str(bad))
    assert refused.returncode == 2
    assert "nonsense" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_hung_phones_edit_is_done_elsewhere(farm: Any, spec: Spec) -> None:
    farm.up()
    job_id = farm.submit(spec(2, SLOW))
    attempt = farm.wait(lambda reader: running_attempt(reader, job_id), "a running attempt")
    phone = next(phone for phone in farm.phones.phones if phone.address == attempt.device_id)
    control = farm.phones.control(phone)
    control.hang()
    farm.wait(
        lambda reader: any(
            device.state != "leased" and device.device_id == attempt.device_id for device in reader.devices()
        ),
        "the farm noticing the hung phone",
    )
    farm.wait_done(job_id)
    control.resume()
    with farm.reader() as reader:
        results = list(reader.results(job_id))
    assert len(results) == 2
    assert attempt.attempt_id not in {result.attempt_id for result in results}
