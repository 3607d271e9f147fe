"""What a host is told about itself and about its phones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.errors import HostError
from mobifarm.controller.host import phones
from mobifarm.controller.host.phones import HostConfiguration, PhoneHost

BARE = HostConfiguration("hub", Path("/key"), Path("/scratch"), Path("/computer"), farm="10.0.0.1:7650")
FULL = HostConfiguration(
    "hub",
    Path("/key"),
    Path("/scratch"),
    Path("/computer"),
    usb=True,
    announcements=Path("/virtual"),
    adb_server=("10.0.0.2", 5037),
    allow_reboot=True,
    farm="10.0.0.1:7650",
    farm_token=Path("/scratch/farm-token"),
)


@pytest.mark.parametrize("configuration", [BARE, FULL])
def test_the_processes_that_ray_starts_learn_all_that_join_was_told(
    configuration: HostConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in configuration.to_environment().items():
        monkeypatch.setenv(name, value)
    assert HostConfiguration.from_environment() == configuration


def test_a_machine_that_has_not_joined_is_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HostConfiguration.ENVIRONMENT_NAME, raising=False)
    with pytest.raises(HostError, match="mobifarm join"):
        HostConfiguration.from_environment()


class ScriptedSession:
    """Writes down what it is told of its phone's cable."""

    def __init__(self, device_id: str, address: str, **_: Any) -> None:
        self.told: list[Any] = []
        self.heard = asyncio.Event()
        made.append(self)

    def plugged(self, seen_at: float) -> None:
        self.told.append(seen_at)
        self.heard.set()

    def unplugged(self, reason: str) -> None:
        self.told.append(reason)
        self.heard.set()

    async def stop(self) -> None:
        pass


made: list[ScriptedSession] = []


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[PhoneHost]:
    """It looks for phones in a folder, which announces tcp:h:1."""
    monkeypatch.setattr(phones, "PhoneSession", ScriptedSession)
    made.clear()
    folder = tmp_path / "virtual"
    folder.mkdir()
    (folder / "one.json").write_text('{"address": "tcp:h:1"}')
    host = PhoneHost(
        HostConfiguration("hub", tmp_path / "key", tmp_path, tmp_path / "computer", announcements=folder)
    )
    yield host
    await host.close()


async def test_an_announced_phone_without_its_file_is_not_plugged_in(host: PhoneHost) -> None:
    for address, source in (("tcp:h:1", "announced"), ("tcp:h:2", "announced"), ("tcp:h:3", "operator")):
        host.attach(address, address, source)
    there, gone, added_by_hand = made
    async with asyncio.timeout(30):
        await there.heard.wait()
        await gone.heard.wait()
    host.attach("tcp:h:4", "tcp:h:4", "announced")  # when the folder has been looked at
    assert made[-1].told == gone.told == ["it is not plugged in"]
    assert [type(told) for told in there.told] == [float]
    assert added_by_hand.told == []


async def test_a_phone_that_is_added_again_counts_from_then_and_not_from_its_plugging_in(
    host: PhoneHost,
) -> None:
    plugged_in = time.monotonic() - 336
    host.arrived("usb:1-1", "usb", plugged_in, observed=True)
    host.attach("usb:1-1", "usb:1-1")
    await host.detach("usb:1-1")  # it was forgotten
    added_again = time.monotonic()
    host.attach("usb:1-1", "usb:1-1")
    assert made[0].told == [plugged_in]
    assert made[1].told[0] >= added_again
