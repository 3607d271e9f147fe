"""Plugging in and out with no command to the farm: virtual phones announce themselves in its folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.client import FarmClient
from mobifarm.controller.core.views import DeviceView
from mobifarm.controller.paths import farm_paths
from mobifarm.controller.store.read import StoreReader
from mobifarm.simulator.virtual_phones import VirtualPhones

Spec = Callable[[int, dict[str, Any]], Path]


def devices(reader: StoreReader) -> dict[str, DeviceView]:
    return {device.device_id: device for device in reader.devices()}


def wait_for(farm: Any, address: str, what: str, holds: Callable[[DeviceView], Any]) -> DeviceView:
    def condition(reader: StoreReader) -> DeviceView | None:
        device = devices(reader).get(address)
        return device if device and holds(device) else None

    found: DeviceView = farm.wait(condition, f"{address} being {what}")
    return found


def wait_ready(farm: Any, address: str) -> DeviceView:
    return wait_for(farm, address, "ready", lambda device: device.state == "ready")


def was_unplugged(device: DeviceView) -> bool:
    """The broken link may be seen before its reason is."""
    return device.state == "lost" and device.reason == "it was unplugged"


def test_twins_appear_work_and_come_and_go(empty_farm: Any, spec: Spec) -> None:
    farm = empty_farm
    farm.up()
    with VirtualPhones(2, profiles=["pixel-8"], home=farm.home / "virtual", serial="TWIN") as phones:
        first, second = (phone.address for phone in phones.phones)
        for address in (first, second):
            ready = wait_ready(farm, address)
            assert (ready.serial, ready.source) == ("TWIN", "announced")
            assert ready.ready_after_s is not None
            assert ready.ready_after_s > 0
        job_id = farm.submit(spec(6, {}))
        farm.wait_done(job_id)
        with farm.reader() as reader:
            results = list(reader.results(job_id))
        assert len(results) == 6
        assert {result.device_id for result in results} == {first, second}

        phones.control(0).unplug()
        wait_for(farm, first, "unplugged", was_unplugged)
        phones.control(0).plug()
        wait_ready(farm, first)

        # What was forgotten stays so while it is plugged in, and comes back with its cable.
        assert farm.run("devices", "forget", second).returncode == 0
        phones.control(0).unplug()
        wait_for(farm, first, "lost", lambda device: device.state == "lost")
        phones.control(0).plug()
        wait_ready(farm, first)
        with farm.reader() as reader:
            assert devices(reader)[second].state == "retired"
        phones.control(1).unplug()
        phones.control(1).plug()
        again = wait_ready(farm, second)
        assert again.measurement_epoch > ready.measurement_epoch

    wait_for(farm, first, "unplugged", was_unplugged)


def test_a_flapping_phone_is_left_alone_and_the_other_works(empty_farm: Any) -> None:
    farm = empty_farm
    farm.up()
    with VirtualPhones(2, profiles=["pixel-8"], home=farm.home / "virtual") as phones:
        calm, bad = (phone.address for phone in phones.phones)
        wait_ready(farm, calm)
        wait_ready(farm, bad)

        def flapped(reader: StoreReader) -> bool:
            phones.control(1).unplug()
            phones.control(1).plug()
            return "left alone" in devices(reader)[bad].reason

        farm.wait(flapped, "the flapping phone being left alone")
        with farm.reader() as reader:
            seen = devices(reader)
        assert (seen[bad].state, seen[bad].action) == ("discovered", "check the cable and the port")
        assert seen[calm].state == "ready"
        with FarmClient(farm_paths(farm.home)) as client:
            live = client.get("/api/v1/live")["devices"][bad]
        assert live["settling_until"] > seen[bad].changed_at
        wait_ready(farm, bad)
        with farm.reader() as reader:
            changes = [
                event for _, event in reader.events() if getattr(event, "reason", "").endswith("for 10 s")
            ]
        assert len(changes) == 1


def test_a_phone_that_asks_says_so_until_it_is_allowed(empty_farm: Any) -> None:
    farm = empty_farm
    farm.up()
    with VirtualPhones(1, home=farm.home / "virtual", authorisation="ask") as phones:
        address = phones.phones[0].address
        waiting = wait_for(
            farm, address, "asked about", lambda device: device.state == "awaiting_authorisation"
        )
        assert "tap Allow" in waiting.action
        phones.control().authorise()
        wait_ready(farm, address)
    assert (farm.home / "adbkey").stat().st_mode & 0o777 == 0o600


@pytest.mark.adb
def test_server_mode_follows_the_server(empty_farm: Any, tmp_path: Path) -> None:
    pytest.importorskip("adbutils", reason="adbutils is not installed (extra adb-server)")
    if shutil.which("adb") is None:
        pytest.skip("Debian's adb is not installed")
    farm = empty_farm
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HOME": str(tmp_path), "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554"}

    def adb(*arguments: str) -> None:
        command = ["adb", "-P", str(port), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)

    adb("start-server")
    try:
        farm.up("--adb-server-at", f"127.0.0.1:{port}")
        with VirtualPhones(1, home=farm.home / "virtual") as phones:
            address = phones.phones[0].address
            wait_ready(farm, address)
            adb("kill-server")
            wait_for(farm, address, "told why", lambda device: "adb start-server" in device.action)
            shown = " ".join(farm.run("devices").stdout.split())
            assert f"adb server: no adb server answers at 127.0.0.1:{port}; run `adb start-server`" in shown
            adb("start-server")
            wait_ready(farm, address)
    finally:
        adb("kill-server")
