"""A farm with an arm64 phone: it gets what a real phone gets, and qemu runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mobifarm.controller.core.events import DeviceReady
from mobifarm.controller.provisioning.packing.commands import DownloadError
from mobifarm.controller.provisioning.runtime import ensure_runtime
from mobifarm.controller.store.read import StoreReader
from mobifarm.simulator.emulation import EmulationUnavailableError, find_emulation
from mobifarm.simulator.sandbox import SandboxUnavailableError, find_bubblewrap
from mobifarm.simulator.virtual_phones import VirtualPhones
from mobifarm.workloads.paths import cache_directory

ABI = "arm64-v8a"


@pytest.fixture(scope="module")
def arm64_phone() -> Iterator[str]:
    try:
        find_bubblewrap()
        if find_emulation(ABI) is None:
            pytest.skip("this computer's processor is arm64: every virtual phone is such a phone")
        # Kept in the cache, so that only the first run of a machine downloads it.
        ensure_runtime(cache_directory(), ABI)
    except (SandboxUnavailableError, EmulationUnavailableError, DownloadError) as reason:
        pytest.skip(str(reason))
    with VirtualPhones(1, profiles=["pixel-8"], abi=ABI) as running:
        yield running.phones[0].address


async def test_an_arm64_phone_edits_tells_and_is_forgotten(
    start: Any, arm64_phone: str, shell: Callable[[str, str], str]
) -> None:
    async with start() as farm:
        await farm.add(arm64_phone)
        (ready,) = farm.events(DeviceReady)
        assert ready.execution == "qemu_arm64"
        assert ready.properties["ro.product.cpu.abi"] == ABI
        answer = await farm.requests.examine_device(arm64_phone)
        found = {finding["probe"]: finding for finding in answer["findings"]}
        for probe in ("loader", "memfd_exec", "abstract_socket", "execute"):
            assert found[probe]["status"] == "ok", found[probe]

        job_id = await farm.submit(1, {"step_limit": 2})
        await farm.done(job_id)
        await farm.nothing_lost_nothing_doubled(job_id)
        with StoreReader(farm.home / "farm.sqlite") as reader:
            (stored,) = reader.results(job_id)
        assert not stored.failed
        passport = stored.result["passport"]
        assert (stored.execution, passport["execution"]) == ("qemu_arm64", "qemu_arm64")
        assert passport["returned_to_base"]
        assert passport["telemetry"]["samples"] > 10
        assert passport["telemetry"]["gaps"] is not None
        assert passport["memory"]["peak_rss_bytes"] > 50 << 20

        device = farm.farm.state.devices[arm64_phone]
        await farm.until(lambda: device.free, "a free phone")
        answer = await farm.requests.forget_device(arm64_phone)
        assert "problem" not in answer
        assert {"the running agent", "2 runtime archives", "1 model bundle"} <= set(answer["removed"])
        assert answer["freed_bytes"] > 100 << 20
        left = await asyncio.to_thread(
            shell, arm64_phone, "ls /data/local/tmp; ps -A -o ARGS | grep [m]obifarm/runtime"
        )
        assert left == ""
