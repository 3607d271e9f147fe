"""A virtual phone as a real USB device, a real kernel between it and the farm. See tests/usb/README.md.

One run of the machine makes all checks (checks.py); each test here reads the result of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobifarm.agent.editor.types import EditRecord
from mobifarm.controller.provisioning.install import install_bundle
from mobifarm.controller.provisioning.provision import provision
from mobifarm.controller.transport.direct import connect_direct
from mobifarm.simulator.virtual_phones import VirtualPhones
from mobifarm.workloads.models.catalogue import bundle_named
from mobifarm.workloads.paths import cache_directory
from mobifarm.workloads.planner import plan
from mobifarm.workloads.spec import parse_spec

HERE = Path(__file__).parent
# machine.py stops the guest long before; the download of the kernel counts, too.
DEADLINE_S = 1700
UNAVAILABLE = 77
SERIAL = "VPUSB0000001"

pytestmark = [pytest.mark.usb, pytest.mark.timeout(DEADLINE_S + 100)]

Results = dict[str, dict[str, Any]]


def prepare(folder: Path, bundle: Path) -> dict[str, Any]:
    """A phone that has the agent and the model already, as one that was on this farm before, and one trial.

    Emulated, unpacking alone would take minutes; that installing works is shown elsewhere.
    """
    found = bundle_named(str(bundle))
    with VirtualPhones(1, ["pixel-8"], home=folder / "phones", serial=SERIAL) as phones:
        key = folder / "another-adbkey"
        link = connect_direct(phones.phones[0].address, key_path=key)
        provisioned = provision(link, cache=cache_directory(), bundles={})
        install_bundle(link, provisioned.home, found.path, found.hash)
        link.close()
    spec = parse_spec(
        {
            "name": "usb",
            "model": str(bundle),
            "dataset": {"builtin": "personal-facts"},
            # Never done by itself: there has to be a middle in which to pull the cable.
            "methods": [{"name": "forward", "settings": {"stop_probability": 0.9999, "step_limit": 60}}],
        }
    )
    record = EditRecord("ann", "Ann", "Ann likes", "tea", "coffee")
    (trial,) = plan(spec, [record], bundle_hash=found.hash)
    return {"phones": str(folder / "phones"), "serial": SERIAL, "payload": dict(trial.payload)}


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_bundle_path: Path) -> Results:
    """What each check said. Skips, with the reason, where the machine cannot be had."""
    machine = [sys.executable, str(HERE / "machine.py")]
    asked = subprocess.run([*machine, "--check"], capture_output=True, text=True, timeout=600, check=False)
    if asked.returncode == UNAVAILABLE:
        pytest.skip(asked.stderr.strip())
    assert asked.returncode == 0, asked.stderr
    folder = tmp_path_factory.mktemp("usb")
    share = folder / "share"
    share.mkdir()
    (share / "plan.json").write_text(json.dumps(prepare(folder, tiny_bundle_path)))
    job = [sys.executable, str(HERE / "checks.py"), "/run/share/plan.json", "/run/share/results.jsonl"]
    done = subprocess.run(
        [*machine, str(share), "--", *job], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    if done.returncode == UNAVAILABLE:
        pytest.skip(done.stderr.strip())
    said = done.stderr + _tail(share / "output.log")
    assert (share / "results.jsonl").exists(), said
    lines = [json.loads(line) for line in (share / "results.jsonl").read_text().splitlines()]
    return {**{line["check"]: line for line in lines}, "run": {"passed": done.returncode == 0, "said": said}}


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-4000:] if path.exists() else ""


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    asked = subprocess.run(
        [sys.executable, str(HERE / "machine.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert asked.returncode == UNAVAILABLE
    assert "qemu-system-x86" in asked.stderr
    assert "`make usb` installs" in asked.stderr


@pytest.mark.parametrize(
    "check",
    [
        "plug_is_seen",
        "person_accepts_the_key",
        "agent_answers_through_the_tunnel",
        "files_arrive_whole",
        "host_that_was_killed_leaves_nothing_behind",
        "phone_that_hangs_up_comes_back",
        "two_phones_share_a_serial_number",
        "cable_is_pulled_in_the_middle_of_an_edit",
        "result_is_taken_over",
        "foreign_adb_server_is_named_and_left_alone",
    ],
)
def test_on_real_usb(results: Results, check: str) -> None:
    outcome = results.get(check)
    if outcome is None:
        failed = [name for name, result in results.items() if not result["passed"]]
        if failed and failed != ["run"]:
            pytest.skip(f"the run ended with {failed[0]}")
        pytest.fail(f"the run ended before this check:\n{results['run']['said']}", pytrace=False)
    if not outcome["passed"]:
        pytest.fail(f"{outcome['error']}\n{outcome['launcher']}", pytrace=False)
    if reason := outcome.get("skipped"):
        pytest.skip(reason)
