"""Draining, quarantining, releasing, forgetting and examining a phone, as people ask for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mobifarm.controller.core.events import (
    DeviceAdded,
    DeviceQuarantined,
    DeviceReady,
    Event,
    HealthCheckStarted,
)
from mobifarm.controller.core.selector import COMPUTER
from mobifarm.controller.core.state import TrialState
from mobifarm.controller.core.step import replay, step
from mobifarm.controller.core.views import device_view
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import DeviceError, UserError
from mobifarm.controller.farm.requests import FarmRequests
from mobifarm.controller.provisioning.removal import Removal


class ScriptedFarm:
    def __init__(self, events: list[Event]) -> None:
        self.state = replay(events)
        self.did: list[Any] = []
        self.cleaning: Removal | Exception = Removal(("the running agent",), (), 5 << 20)

    async def apply(self, *events: Event) -> None:
        for event in events:
            step(self.state, event)

    async def detach(self, device_id: str) -> None:
        self.did.append(("detach", device_id))

    async def clean(self, address: str, keep_edits: bool) -> Removal:
        self.did.append(("clean", address, keep_edits))
        if isinstance(self.cleaning, Exception):
            raise self.cleaning
        return self.cleaning

    async def examine(self, device_id: str) -> list[Finding]:
        return [Finding("memory", "ok", 1, "e", "m")]


def requests(events: list[Event]) -> tuple[FarmRequests, ScriptedFarm]:
    farm = ScriptedFarm(events)
    return FarmRequests(farm, clock=lambda: 9.0, identifier=lambda prefix: prefix), farm  # type: ignore[arg-type]


async def test_draining_lets_the_edit_end_and_undraining_ends_it(leased_phone: list[Event]) -> None:
    asks, farm = requests(leased_phone)
    assert (await asks.drain_device("a", " sold "))["state"] == "leased"
    assert farm.state.devices["a"].drained == "an operator drains it; sold"
    assert (await asks.undrain_device("a"))["state"] == "leased"
    assert farm.state.devices["a"].drained is None


async def test_a_quarantine_needs_a_reason_and_lasts_until_its_release(ready_phone: list[Event]) -> None:
    asks, farm = requests(ready_phone)
    with pytest.raises(UserError, match="needs a reason"):
        await asks.quarantine_device("a", " ")
    assert (await asks.quarantine_device("a", "smells"))["state"] == "quarantined"
    assert device_view(farm.state, "a").reason == "smells"
    assert (await asks.release_device("a"))["state"] == "ready"


@pytest.mark.parametrize("what", ["drain_device", "quarantine_device"])
async def test_an_unknown_phone_is_refused(what: str, ready_phone: list[Event]) -> None:
    asks, _ = requests(ready_phone)
    with pytest.raises(UserError, match="no phone b"):
        await getattr(asks, what)("b", "why")


async def test_a_forgotten_phone_is_cleaned_once_it_is_let_go_of(leased_phone: list[Event]) -> None:
    asks, farm = requests(leased_phone)
    answer = await asks.forget_device("a", keep_edits=True)
    assert farm.did == [("detach", "a"), ("clean", "a", True)]
    assert answer == {
        "device_id": "a",
        "removed": ("the running agent",),
        "left": (),
        "freed_bytes": 5 << 20,
    }
    assert farm.state.trials["j/0"].state is TrialState.PENDING


async def test_a_phone_that_is_away_is_forgotten_all_the_same_and_that_is_said(
    ready_phone: list[Event],
) -> None:
    asks, farm = requests(ready_phone)
    farm.cleaning = DeviceError("no phone answers")
    answer = await asks.forget_device("a")
    assert (answer["problem"], answer["removed"]) == ("no phone answers", [])
    assert farm.state.devices["a"].state == "retired"


async def test_a_phone_that_stays_at_another_place_is_not_cleaned(ready_phone: list[Event]) -> None:
    ready = next(event for event in ready_phone if isinstance(event, DeviceReady))
    twins = [
        *ready_phone,
        replace(ready, agent_session="s"),
        DeviceAdded(2.5, "b", "tcp:h:2", "test"),
        replace(ready, device_id="b", agent_session="s"),
    ]
    asks, farm = requests(twins)
    with pytest.raises(UserError, match="b is the same phone as a: name that one"):
        await asks.examine_device("b")
    answer = await asks.forget_device("b")
    assert farm.did == [("detach", "b")]
    assert answer["left"] == ["everything, for the same phone is at a"]
    await asks.forget_device("a")
    assert farm.did[-1] == ("clean", "a", False)


async def test_the_computer_is_not_cleaned() -> None:
    asks, farm = requests([DeviceAdded(1.0, COMPUTER, COMPUTER, "test")])
    await asks.forget_device(COMPUTER)
    assert farm.did == [("detach", COMPUTER)]


async def test_a_phone_is_examined_while_nothing_runs_on_it(
    ready_phone: list[Event], leased_phone: list[Event]
) -> None:
    asks, _ = requests(ready_phone)
    found = await asks.examine_device("a")
    assert (found["serial"], found["examined_at"]) == ("S", 9.0)
    assert found["findings"][0]["probe"] == "memory"
    asks, _ = requests(leased_phone)
    with pytest.raises(UserError, match="does an edit"):
        await asks.examine_device("a")
    checked = [*ready_phone, DeviceQuarantined(3.0, "a", "odd"), HealthCheckStarted(99.0, "a", "check")]
    asks, _ = requests(checked)
    with pytest.raises(UserError, match="checks the phone"):
        await asks.examine_device("a")
