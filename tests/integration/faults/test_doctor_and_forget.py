"""The doctor on a phone of a farm, virtual phones made from what it found, and what `forget` takes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.core.events import AttemptFailed
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.doctor.phone import examine
from mobifarm.controller.doctor.seed import document
from mobifarm.controller.transport.direct import connect_direct
from mobifarm.simulator.virtual_phones import VirtualPhones


def facts(findings: list[Finding]) -> dict[str, Any]:
    return {found.probe: (found.status, found.value) for found in findings if found.stable}


@pytest.mark.parametrize("profile", ["pixel-8", "galaxy-s24"])
def test_a_virtual_phone_from_a_profile_has_the_same_facts(
    tmp_path: Path, adb_key: Path, profile: str
) -> None:
    def look(kind: str) -> list[Finding]:
        with (
            VirtualPhones(1, profiles=[kind]) as running,
            closing(connect_direct(running.phones[0].address, key_path=adb_key)) as link,
        ):
            return examine(link)

    first = look(profile)
    file = tmp_path / "seed.json"
    file.write_text(json.dumps(document("tcp:x:1", "S1", 1.0, first)))
    assert facts(look(str(file))) == facts(first)
    assert facts(first)["thermal_zones"][0] == "ok"


async def test_with_an_agent_on_it_loader_memory_and_sockets_are_probed(
    start: Any, phones: VirtualPhones
) -> None:
    async with start() as farm:
        await farm.add(phones.phones[0].address)
        answer = await farm.requests.examine_device(phones.phones[0].address)
    found = {finding["probe"]: finding for finding in answer["findings"]}
    for probe in ("loader", "memfd_exec", "abstract_socket", "execute"):
        assert found[probe]["status"] == "ok", found[probe]


async def test_a_cancelled_edit_proves_its_base_and_forgetting_leaves_nothing(
    start: Any, phones: VirtualPhones, shell: Callable[[str, str], str]
) -> None:
    address = phones.phones[0].address
    async with start() as farm:
        await farm.add(address)
        job_id = await farm.submit(1, {"stop_probability": 0.9999, "step_limit": 400})
        await farm.running(job_id)
        await farm.requests.cancel(job_id)
        (failed,) = await farm.until(lambda: farm.events(AttemptFailed), "the edit's end")
        assert failed.base_proven
        device = farm.farm.state.devices[address]
        await farm.until(lambda: device.free, "a free phone")
        answer = await farm.requests.forget_device(address)
        assert "problem" not in answer
        assert answer["removed"][0] == "the running agent"
        assert "1 model bundle" in answer["removed"]
        assert answer["freed_bytes"] > 10 << 20
        left = await asyncio.to_thread(shell, address, "ls ${ANDROID_DATA:-/data}/local/tmp; pidof python3")
        assert "mobifarm" not in left
