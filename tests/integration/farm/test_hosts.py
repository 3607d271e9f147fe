"""A farm of two machines. Each is a network namespace of its own where this computer allows that (Linux,
root), so that nothing of it is open to the network; else both are this computer itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.core.views import AttemptView
from mobifarm.controller.store.read import StoreReader
from mobifarm.simulator.virtual_phones import VirtualPhones
from mobifarm.workloads.models.catalogue import bundle_named
from mobifarm.workloads.paths import cache_directory, fetched_bundles_directory

from .conftest import DEADLINE_S, FarmUnderTest

# Never done by itself: the edit runs for as long as the test needs it to.
SLOW = {"stop_probability": 0.9999, "step_limit": 400}
# Longer than any test: an edit that goes on elsewhere does so because its host was given up.
CABLE_GRACE_S = 3600.0


@dataclass(frozen=True)
class Machine:
    """What to put before a command to run it there, and the address at which others reach it."""

    wrapper: tuple[str, ...]
    address: str


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    with ExitStack() as stack:
        holders = []
        for _ in range(2):
            holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stderr=subprocess.DEVNULL)
            stack.callback(holder.wait)
            stack.callback(holder.kill)
            holders.append(holder)
        try:
            yield _connect([holder.pid for holder in holders])
        except _NoNamespaces:
            yield Machine((), "127.0.0.1"), Machine((), "127.0.0.1")


class _NoNamespaces(Exception):
    pass


def _connect(pids: list[int]) -> tuple[Machine, Machine]:
    """Two namespaces with a cable between them."""
    own = os.readlink("/proc/self/ns/net")
    until = time.monotonic() + DEADLINE_S
    for pid in pids:
        with contextlib.suppress(OSError):
            while os.readlink(f"/proc/{pid}/ns/net") == own and time.monotonic() < until:
                if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                    raise _NoNamespaces
                time.sleep(0.01)
    inside = [("nsenter", f"--net=/proc/{pid}/ns/net") for pid in pids]
    steps: list[list[str]] = [
        [*inside[0], "ip", "link", "add", "cable0", "type", "veth", "peer", "cable1", "netns", str(pids[1])]
    ]
    for number, wrapper in enumerate(inside):
        steps += [
            [*wrapper, "ip", "address", "add", f"10.77.0.{number + 1}/24", "dev", f"cable{number}"],
            [*wrapper, "ip", "link", "set", "lo", "up"],
            [*wrapper, "ip", "link", "set", f"cable{number}", "up"],
        ]
    for step in steps:
        try:
            subprocess.run(step, check=True, capture_output=True, timeout=DEADLINE_S)
        except (OSError, subprocess.CalledProcessError):
            raise _NoNamespaces from None
    return Machine(inside[0], "10.77.0.1"), Machine(inside[1], "10.77.0.2")


class TwoMachines(FarmUnderTest):
    """The farm on the first machine, with one phone on each."""

    def __init__(self, home: Path, machines: tuple[Machine, Machine], stack: ExitStack) -> None:
        self.head, self.other = machines
        phones = [
            stack.enter_context(VirtualPhones(1, profiles=(profile,), wrapper=machine.wrapper))
            for machine, profile in zip(machines, ("pixel-8", "galaxy-s24"), strict=True)
        ]
        super().__init__(home, phones[0], stack)
        self.cache = _cache(home.parent / "farm-cache")
        self.hub_cache = _cache(home.parent / "hub-cache")
        self.hub_home = home.parent / "hub"
        self.hub_home.mkdir()
        self.hub_address = phones[1].phones[0].address
        self.hub_device = f"hub/{self.hub_address}"

    def command(self, *arguments: str) -> list[str]:
        return [*self.head.wrapper, *super().command(*arguments)]

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "MOBIFARM_CACHE": str(self.cache)}

    @property
    def door(self) -> str:
        return str(json.loads((self.home / "running.json").read_text())["join"])

    def join(self, *, patch: str = "", token: str = "") -> subprocess.Popen[str]:
        """Start `mobifarm join` on the second machine; ``patch`` is Python that runs before."""
        token_file = self.hub_home / "token"
        token_file.write_text(token or (self.home / "join-token").read_text())
        code = f"{patch}\nfrom mobifarm.controller.cli.main import main\nmain()"
        command = [*self.other.wrapper, sys.executable, "-c", code, "join", self.door]
        command += ["--token-file", str(token_file), "--name", "hub", "--no-usb"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # as in a terminal of its own
            env={
                **self.environment,
                "MOBIFARM_HOME": str(self.hub_home),
                "MOBIFARM_CACHE": str(self.hub_cache),
            },
        )
        self._stack.callback(self.end, process)
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        self.stop(process)
        if process.stderr:
            process.stderr.close()

    def hosts(self) -> dict[str, dict[str, Any]]:
        asked = self.run("hosts", "--json")
        assert asked.returncode == 0, asked.stderr
        return {row["host"]: row for row in json.loads(asked.stdout)}

    def wait_ready(self) -> None:
        self.wait(
            lambda reader: [device.state for device in reader.devices()] == ["ready", "ready"],
            "both phones being ready",
        )

    def running_attempts(self, reader: StoreReader, job_id: str) -> dict[str, AttemptView]:
        return {
            attempt.device_id: attempt for attempt in reader.attempts(job_id) if attempt.state == "running"
        }


def _cache(folder: Path) -> Path:
    """A cache of its own; what phones are provisioned with is taken from the user's."""
    (folder / "bundles").mkdir(parents=True)
    runtimes = cache_directory() / "runtimes"
    runtimes.mkdir(parents=True, exist_ok=True)
    (folder / "runtimes").symlink_to(runtimes)
    return folder


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[TwoMachines]:
    home = tmp_path / "farm"
    home.mkdir()
    with ExitStack() as stack:
        yield TwoMachines(home, stack.enter_context(two_machines()), stack)


def descendants(parent: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            above = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(above, []).append(int(folder.name))
    found = [parent]
    for pid in found:
        found += children.get(pid, [])
    return found


def pull_the_plug(process: subprocess.Popen[str]) -> None:
    """End all processes of a host at once, as a loss of power does."""
    for pid in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(30)


def of_tiny(spec: Path) -> Path:
    """The same with the model by its name, which each machine looks up in its own cache."""
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "model": "tiny"}))
    return spec


@pytest.mark.timeout(1500)
def test_a_host_joins_dies_and_comes_back_and_a_restarted_farm_finds_it_again(
    farm: TwoMachines, spec: Callable[[int, dict[str, Any]], Path], tiny_bundle_path: Path
) -> None:
    (farm.cache / "bundles" / "tiny").symlink_to(tiny_bundle_path)  # the host does not have it
    controller = farm.up("--accept-hosts", f"{farm.head.address}:0", lost_grace_s=CABLE_GRACE_S)

    # Who is refused is refused before anything starts, in one sentence.
    for join, message in (
        ({"token": "guessed"}, "token"),
        ({"patch": "import mobifarm; mobifarm.__version__ = '0.0.1'"}, "MobiFarm is 0.0.1 here"),
    ):
        process = farm.join(**join)
        _, complaint = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, complaint.count("\n")) == (2, 1), complaint
        assert message in complaint
    assert not (farm.hub_home / "join.log").exists()
    assert "hub" not in farm.hosts()

    # It joins, and its phone works beside the farm's own.
    host = farm.join()
    assert host.stdout is not None
    assert host.stdout.readline().startswith("joined")
    farm.wait(lambda _: farm.hosts().get("hub", {}).get("state") == "joined", "the host having joined")
    assert farm.run("devices", "add", farm.hub_address, "--host", "hub").returncode == 0
    farm.wait_ready()
    assert (farm.hosts()["hub"]["phones"], farm.hosts()["hub"]["connected"]) == (1, 1)
    assert {row["device_id"]: row["host"] for row in json.loads(farm.run("devices", "--json").stdout)}[
        farm.hub_device
    ] == "hub"
    job_id = farm.submit(of_tiny(spec(6, SLOW)))
    attempt = farm.wait(
        lambda reader: (running := farm.running_attempts(reader, job_id)) and running.get(farm.hub_device),
        "an edit on the host's phone",
    )
    fetched = fetched_bundles_directory({"MOBIFARM_CACHE": str(farm.hub_cache)})
    assert [path.name for path in fetched.iterdir() if path.is_dir()] == [
        bundle_named(str(tiny_bundle_path)).hash
    ]

    # It dies: what it did goes on elsewhere, although the cable's grace is an hour.
    killed_at = time.time()
    pull_the_plug(host)
    expired = farm.wait(
        lambda reader: next(
            (
                found
                for found in reader.attempts(job_id)
                if found.attempt_id == attempt.attempt_id and found.state == "expired"
            ),
            None,
        ),
        "the end of the lost host's lease",
    )
    print(f"leases of the dead host ended {expired.ended_at - killed_at:.1f} s after it had died")
    assert "hub" in expired.reason
    assert farm.hosts()["hub"]["state"] == "lost"
    assert "hub" in farm.hosts()["hub"]["reason"]

    # It is back, and so is its phone.
    host = farm.join()
    farm.wait(lambda _: farm.hosts()["hub"]["state"] == "joined", "the host having joined again")
    farm.wait_done(job_id)
    farm.wait_ready()
    with farm.reader() as reader:
        results = [result.trial_id for result in reader.results(job_id)]
    assert len(results) == len(set(results)) == 6

    # The controller dies and starts again: the host finds it by itself, the phone's edit is taken over.
    job_id = farm.submit(of_tiny(spec(2, SLOW)))
    attempt = farm.wait(
        lambda reader: (running := farm.running_attempts(reader, job_id)) and running.get(farm.hub_device),
        "an edit on the host's phone",
    )
    door = farm.door
    os.kill(controller.pid, signal.SIGKILL)
    controller.wait(30)
    farm.up("--accept-hosts", door, lost_grace_s=CABLE_GRACE_S)
    farm.wait_done(job_id)
    farm.wait_ready()
    with farm.reader() as reader:
        done = {result.device_id: result.attempt_id for result in reader.results(job_id)}
        assert len(reader.attempts(job_id)) == 2
    assert done[farm.hub_device] == attempt.attempt_id


@pytest.mark.timeout(600)
def test_ctrl_c_takes_the_host_out_at_once_and_in_order(farm: TwoMachines) -> None:
    farm.up("--accept-hosts", f"{farm.head.address}:0")
    host = farm.join()
    farm.wait(lambda _: farm.hosts().get("hub", {}).get("state") == "joined", "the host having joined")
    os.killpg(host.pid, signal.SIGINT)
    farm.wait(
        lambda _: farm.hosts()["hub"]["reason"] == "its `mobifarm join` was ended", "the host having left"
    )
    assert host.wait(DEADLINE_S) == 0
    assert "finished draining" in (farm.hub_home / "join.log").read_text()
    assert "Traceback" not in (farm.home / "farm.log").read_text()
