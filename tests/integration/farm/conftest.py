"""A whole farm in a temporary folder: virtual phones, `mobifarm up`, and its command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.store.read import StoreReader
from mobifarm.simulator.virtual_phones import VirtualPhones

DEADLINE_S = 240.0
# Short, so that tests of a lost phone end soon. Where a phone must not count as lost, ask for longer: on a
# busy computer connecting again alone can take seconds.
LOST_GRACE_S = 2.0


class FarmUnderTest:
    """Starts, kills and questions a farm through the command line, as a user does."""

    def __init__(self, home: Path, phones: VirtualPhones, stack: ExitStack) -> None:
        self.home = home
        self.phones = phones
        self.added = [phone.address for phone in phones.phones]
        self._stack = stack

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mobifarm.controller.cli", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env=self.environment,
        )

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MOBIFARM_HOME": str(self.home)}

    def up(self, *options: str, lost_grace_s: float = LOST_GRACE_S) -> subprocess.Popen[str]:
        """Start the farm and wait until it answers; ended with the test at the latest."""
        # A phone that is plugged into the tests' machine is not theirs to use.
        arguments = ["up", "--lost-grace", str(lost_grace_s), "--no-usb", *options]
        for address in self.added:
            arguments += ["--device", address]
        log = self._stack.enter_context((self.home / "up.log").open("a"))
        process = subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
        )
        self._stack.callback(self.stop, process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready"), (self.home / "up.log").read_text()
        return process

    def stop(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)
        if process.stdout:
            process.stdout.close()

    def submit(self, spec: Path) -> str:
        done = self.run("run", str(spec), "--no-wait", "--json")
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["job_id"])

    def reader(self) -> StoreReader:
        return StoreReader(self.home / "farm.sqlite")

    def wait(self, condition: Callable[[StoreReader], Any], what: str) -> Any:
        """Poll the store until the condition gives something true."""
        until = time.monotonic() + DEADLINE_S
        with self.reader() as reader:
            while time.monotonic() < until:
                if found := condition(reader):
                    return found
                time.sleep(0.05)
        log = (self.home / "farm.log").read_text()[-3000:]
        raise AssertionError(f"{what} did not happen in {DEADLINE_S} s; the farm's log ends with:\n{log}")

    def wait_done(self, job_id: str) -> None:
        self.wait(lambda reader: reader.job(job_id).state == "done", "the end of the job")


@pytest.fixture
def farm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FarmUnderTest]:
    """Two virtual phones; the farm itself is started by the test with ``farm.up()``."""
    home = tmp_path / "farm"
    home.mkdir()
    with ExitStack() as stack:
        phones = stack.enter_context(VirtualPhones(2, profiles=("pixel-8", "galaxy-s24")))
        yield FarmUnderTest(home, phones, stack)


@pytest.fixture
def spec(tmp_path: Path, tiny_bundle_path: Path) -> Callable[[int, dict[str, Any]], Path]:
    """Writes an evaluation spec over the first N personal facts on the tiny model."""

    def write(limit: int, settings: dict[str, Any], **more: Any) -> Path:
        path = tmp_path / "spec.yaml"
        path.write_text(
            json.dumps(
                {
                    "name": "test",
                    "model": str(tiny_bundle_path),
                    "dataset": {"builtin": "personal-facts", "limit": limit},
                    "methods": [{"name": "forward", "settings": settings}],
                    **more,
                }
            )
        )
        return path

    return write


@pytest.fixture
def empty_farm(tmp_path: Path) -> Iterator[FarmUnderTest]:
    """A farm without a phone. Those that run in its folder ``virtual`` appear by themselves."""
    home = tmp_path / "farm"
    home.mkdir()
    with ExitStack() as stack:
        yield FarmUnderTest(home, VirtualPhones(0, home=home / "virtual"), stack)
