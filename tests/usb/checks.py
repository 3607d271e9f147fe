"""What is tried inside the machine with USB, one after the other on one virtual phone.

    python tests/usb/checks.py PLAN RESULTS

PLAN is a JSON file of test_usb.py's; RESULTS gets a line of JSON for each check. A check that fails ends the
run: those after it build on it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    DeviceLost,
    DeviceReady,
    DeviceState,
    DeviceStateChanged,
)
from mobifarm.controller.errors import LinkLost
from mobifarm.controller.host.phones import HostConfiguration, PhoneHost
from mobifarm.controller.host.reports import AttemptProgress, DiscoveryNotice, PhoneSeen
from mobifarm.controller.transport.direct import DirectTransport, connect_direct
from mobifarm.controller.transport.usb import ADB_SERVER_PORT, UsbPhone, UsbWire, list_usb
from mobifarm.simulator.control import PhoneControl
from mobifarm.simulator.virtual_phones import VirtualPhones

Kind = TypeVar("Kind")
Facts = dict[str, Any]

WAIT_S = 240.0
FOLDER = "/data/local/tmp"
# A small push is one ADB packet: the file, its path and mode, and three headers. These packets end at and
# around the edges of USB's packets (512) and transfers (16384): each needs another kind of end.
PUSHED = f"{FOLDER}/file"
OVERHEAD = 3 * 8 + len(f"{PUSHED},33188")
EDGES = (511, 512, 513, 1024, 16_383, 16_384, 16_385, 65_536)
SIZES = (0, 1, *(edge - OVERHEAD for edge in EDGES), *EDGES, 1_000_003)
# A host that reads what a phone says without end; it is killed in the middle of that.
READER = """
import sys
from pathlib import Path
from mobifarm.controller.transport.direct import connect_direct
link = connect_direct(sys.argv[1], key_path=Path(sys.argv[2]), timeout_s=60.0)
stream = link._mux.open("shell,v2,raw:yes", 60.0)
stream.read(60.0)
print("reading", flush=True)
while stream.read(60.0):
    pass
"""


class Reports:
    """The host's reports, read as the controller does."""

    def __init__(self, host: PhoneHost) -> None:
        self._host = host
        self._after = 0
        self._waiting: list[Any] = []
        self.seen: list[Any] = []

    async def next(self, kind: type[Kind], accepted: Callable[[Kind], bool] = lambda _: True) -> Kind:
        """The next report of this kind that is accepted; those before it are dropped."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            while self._waiting:
                report = self._waiting.pop(0)
                if isinstance(report, kind) and accepted(report):
                    return report
            self._after, self._waiting = await self._host.reports(self._after, 1.0)
            self.seen += self._waiting
        raise AssertionError(f"no {kind.__name__} came; the last reports: {self.seen[-8:]}")


class Tour:
    """What the checks share: the phone, its switches, and the farm's host process without Ray around it."""

    def __init__(self, plan: Facts, phones: VirtualPhones, host: PhoneHost, key: Path) -> None:
        self.plan = plan
        self.serial = phones.phones[0].serial
        self.sandboxed = phones.phones[0].sandboxed
        self.control: PhoneControl = phones.control()
        self.second: PhoneControl = phones.control(1)
        self.host = host
        self.key = key
        self.reports = Reports(host)
        self.address = ""

    async def switch(self, command: str) -> float:
        """Work one of the phone's switches; returns when that began."""
        began = time.monotonic()
        await asyncio.to_thread(self.control.request, command)
        return began

    async def lost(self) -> DeviceLost:
        return await self.reports.next(DeviceLost)

    async def ready(self) -> DeviceReady:
        return await self.reports.next(DeviceReady)


async def plug_is_seen(tour: Tour) -> Facts:
    """The first look at the bus finds nothing; then the phone is plugged in and discovery tells it."""
    first_look = await tour.reports.next(DiscoveryNotice)
    assert (first_look.source, first_look.reason) == ("usb", ""), first_look
    assert list_usb().phones == ()
    began = await tour.switch("plug")
    seen = await tour.reports.next(PhoneSeen)
    seconds = time.monotonic() - began
    assert seen.source == "usb"
    assert seen.observed
    tour.address = seen.address
    (phone,) = list_usb().phones
    assert (phone.address, phone.serial) == (seen.address, tour.serial)
    return {"address": seen.address, "serial": phone.serial, "seen_after_s": seconds}


async def person_accepts_the_key(tour: Tour) -> Facts:
    """An unknown key is a state with an instruction; accepted on the phone, it becomes a ready phone."""
    tour.host.attach(tour.address, tour.address)
    asked = await tour.reports.next(
        DeviceStateChanged, lambda report: report.state is DeviceState.AWAITING_AUTHORISATION
    )
    assert "tap Allow" in asked.action, asked
    await tour.switch("authorise")
    provisioning = await tour.reports.next(
        DeviceStateChanged, lambda report: report.state is DeviceState.PROVISIONING
    )
    return {"asked": asked.reason, "action": asked.action, "waited_s": provisioning.at - asked.at}


async def agent_answers_through_the_tunnel(tour: Tour) -> Facts:
    """The agent's Describe came over gRPC, through the forward, through the phone's USB endpoints."""
    ready = await tour.ready()
    assert ready.identity.serial == tour.serial
    assert ready.identity.address == tour.address
    assert ready.execution == "virtual"
    assert "forward" in ready.methods, ready
    assert ready.held_attempts == ()
    return {"agent_version": ready.agent_version, "ready_after_s": ready.ready_after_s}


async def files_arrive_whole(tour: Tour) -> Facts:
    """Files of every kind of length go there and come back; the key is known by now."""
    await tour.host.detach(tour.address)
    facts = await asyncio.to_thread(_push_and_pull, tour)
    tour.host.attach(tour.address, tour.address)
    await tour.ready()
    return facts


def _push_and_pull(tour: Tour) -> Facts:
    asked: list[bool] = []
    link: DirectTransport = connect_direct(
        tour.address, key_path=tour.key, timeout_s=60.0, on_authorisation=lambda: asked.append(True)
    )
    try:
        for size in SIZES:
            content = os.urandom(size)
            link.push_bytes(content, PUSHED, timeout_s=WAIT_S)
            assert link.pull_bytes(PUSHED, timeout_s=WAIT_S) == content, size
        counted = link.shell(f"wc -c <{PUSHED} && rm {PUSHED}", timeout_s=WAIT_S)
        assert counted.stdout.strip() == str(SIZES[-1])
    finally:
        link.close()
    assert not asked, "the phone asked again for a key that it had accepted"
    return {"sizes": list(SIZES)}


async def host_that_was_killed_leaves_nothing_behind(tour: Tour) -> Facts:
    """USB has no word for a host's end: what the phone still says to the dead one must not reach the next."""
    await tour.host.detach(tour.address)
    await asyncio.to_thread(_kill_and_connect, tour)
    tour.host.attach(tour.address, tour.address)
    await tour.ready()
    return {}


def _kill_and_connect(tour: Tour) -> None:
    command = [sys.executable, "-c", READER, tour.address, str(tour.key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        said = reader.stdout.readline()
        reader.kill()
    assert said == "reading\n"
    link = connect_direct(tour.address, key_path=tour.key, timeout_s=60.0)
    try:
        assert link.shell("echo back", timeout_s=WAIT_S).stdout == "back\n"
    finally:
        link.close()


async def phone_that_hangs_up_comes_back(tour: Tour) -> Facts:
    """Bytes that are not ADB end the link from the phone's side: it leaves the bus and returns to it."""
    await tour.host.detach(tour.address)
    wire = await asyncio.to_thread(UsbWire, tour.address.removeprefix("usb:"))
    try:
        await asyncio.to_thread(wire.write, b"this is no packet of ADB", b"")
        wire.set_read_timeout(WAIT_S)
        try:
            # More than the phone will ever say: what it sent before is no answer.
            raise AssertionError(f"it said {await asyncio.to_thread(wire.read_exactly, 1 << 20)!r}")
        except LinkLost as error:
            reason = str(error)
    finally:
        wire.close()
    assert "in time" not in reason, reason
    await tour.reports.next(PhoneSeen)
    tour.host.attach(tour.address, tour.address)
    await tour.ready()
    return {"reason": reason}


async def two_phones_share_a_serial_number(tour: Tour) -> Facts:
    """The place on the bus tells them apart; the first one's session does not notice."""
    lost_before = sum(isinstance(report, DeviceLost) for report in tour.reports.seen)
    await asyncio.to_thread(tour.second.request, "plug")
    seen = await tour.reports.next(PhoneSeen)
    assert seen.address != tour.address
    listed = {phone.address: phone.serial for phone in list_usb().phones}
    assert listed == {tour.address: tour.serial, seen.address: tour.serial}

    def accept() -> None:
        threading.Thread(target=tour.second.request, args=("authorise",)).start()

    def connect() -> str:
        link = connect_direct(seen.address, key_path=tour.key, timeout_s=60.0, on_authorisation=accept)
        try:
            return link.shell("getprop ro.serialno; ls /data/local/tmp", timeout_s=WAIT_S).stdout
        finally:
            link.close()

    # The first phone has the farm's folder there, this one is new.
    assert await asyncio.to_thread(connect) == f"{tour.serial}\n"
    await asyncio.to_thread(tour.second.request, "unplug")
    assert list_usb().phones == (UsbPhone(tour.address.removeprefix("usb:"), tour.serial),)
    assert sum(isinstance(report, DeviceLost) for report in tour.reports.seen) == lost_before
    return {"places": sorted(listed)}


async def cable_is_pulled_in_the_middle_of_an_edit(tour: Tour) -> Facts:
    """The farm notices at once, and the edit goes on on the phone."""
    tour.host.dispatch(tour.address, "attempt-1", 1, tour.plan["payload"])
    await tour.reports.next(AttemptProgress, lambda report: report.step >= 1)
    began = await tour.switch("unplug")
    lost = await tour.lost()
    seconds = time.monotonic() - began
    assert list_usb().phones == ()
    ended = [report for report in tour.reports.seen if isinstance(report, AttemptFinished | AttemptFailed)]
    assert ended == [], "the edit had ended before the cable was pulled"
    assert seconds < 30, f"lost after {seconds:.1f} s"
    return {"reason": lost.reason, "lost_after_s": seconds}


async def result_is_taken_over(tour: Tour) -> Facts:
    """Plugged in again, the phone tells of the attempt that it holds, and its result is taken over."""
    await tour.switch("plug")
    ready = await tour.ready()
    (held,) = ready.held_attempts
    assert (held.attempt_id, held.fencing_token) == ("attempt-1", 1)
    tour.host.dispatch(tour.address, "attempt-1", 1, tour.plan["payload"])
    finished = await tour.reports.next(AttemptFinished)
    assert finished.attempt_id == "attempt-1"
    assert not finished.failed
    assert finished.result is not None
    tour.host.acknowledge(tour.address, "attempt-1")
    return {"held_as": held.state, "status": finished.result["result"]["status"]}


def ask(*command: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_S)
    return done.stdout


async def foreign_adb_server_is_named_and_left_alone(tour: Tour) -> Facts:
    """Another adb server took the phone: the farm says so, harms nothing, and goes on when it is gone."""
    adb = shutil.which("adb")
    if adb is None:
        return {"skipped": "Debian's package adb is not installed"}
    await tour.switch("unplug")
    await tour.lost()
    # Its output would keep our end of a pipe open for ever.
    subprocess.run([adb, "start-server"], check=True, stdout=subprocess.DEVNULL, timeout=WAIT_S)
    await tour.switch("plug")
    # The server's key is not the farm's: a person accepts it, too.
    await tour.switch("authorise")
    subprocess.run([adb, "wait-for-usb-device"], check=True, timeout=WAIT_S)
    told = await tour.reports.next(DeviceStateChanged, lambda report: "adb server" in report.reason)
    assert f"127.0.0.1:{ADB_SERVER_PORT}" in told.reason
    listed = ask(adb, "devices", "-l")
    assert re.search(rf"^{tour.serial}\s+device usb:", listed, re.MULTILINE), listed
    assert ask(adb, "shell", "getprop", "ro.serialno").strip() == tour.serial
    with socket.create_connection(("127.0.0.1", ADB_SERVER_PORT), timeout=10):
        pass  # it runs on
    ask(adb, "kill-server")
    await tour.ready()
    return {"reason": told.reason, "action": told.action, "listed": listed.strip()}


CHECKS: tuple[Callable[[Tour], Awaitable[Facts]], ...] = (
    plug_is_seen,
    person_accepts_the_key,
    agent_answers_through_the_tunnel,
    files_arrive_whole,
    host_that_was_killed_leaves_nothing_behind,
    phone_that_hangs_up_comes_back,
    two_phones_share_a_serial_number,
    cable_is_pulled_in_the_middle_of_an_edit,
    result_is_taken_over,
    foreign_adb_server_is_named_and_left_alone,
)


async def run_checks(plan: Facts, results: Path) -> bool:
    """Run all; False where one failed."""

    def tell(check: str, passed: bool, facts: Facts) -> None:
        line = {"check": check, "passed": passed, "uptime_s": time.monotonic(), **facts}
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    scratch = Path(tempfile.mkdtemp(prefix="usb-"))
    home = Path(plan["phones"])
    phones = VirtualPhones(2, ["pixel-8"], home=home, usb=True, authorisation="ask", serial=plan["serial"])
    with phones:
        phones.control(0).unplug()
        phones.control(1).unplug()
        key = scratch / "adbkey"
        host = PhoneHost(HostConfiguration("guest", key, scratch, scratch / "computer", usb=True))
        tour = Tour(plan, phones, host, key)
        tell("machine", True, {"kernel": os.uname().release, "sandboxed": tour.sandboxed})
        try:
            for check in CHECKS:
                try:
                    tell(check.__name__, True, await check(tour))
                except Exception:
                    log = (home / "launcher.log").read_text()[-3000:]
                    tell(check.__name__, False, {"error": traceback.format_exc(), "launcher": log})
                    return False
        finally:
            await host.close()
    return True


if __name__ == "__main__":
    planned = json.loads(Path(sys.argv[1]).read_text())
    sys.exit(not asyncio.run(run_checks(planned, Path(sys.argv[2]))))
