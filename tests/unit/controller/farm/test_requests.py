"""Requests about the edits that a phone keeps: checked before the phone is asked."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from mobifarm.controller.core.events import (
    DeviceLost,
    Event,
)
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.step import replay, step
from mobifarm.controller.errors import DeviceError, UserError
from mobifarm.controller.farm.requests import FarmRequests
from mobifarm.controller.host.edits import (
    EXPORT_LIMIT_BYTES,
    EditsRequest,
    ExportEdits,
    ImportEdits,
    ListEdits,
    UndoEdits,
)


class ScriptedFarm:
    """A farm in a certain state that writes down what its phones are asked."""

    def __init__(self, events: list[Event]) -> None:
        self.state = replay(events)
        self.asked: list[EditsRequest] = []

    async def edits(self, device_id: str, request: EditsRequest) -> Mapping[str, Any]:
        self.asked.append(request)
        return {}


def requests(events: list[Event]) -> tuple[FarmRequests, ScriptedFarm]:
    farm = ScriptedFarm(events)
    return FarmRequests(farm, clock=lambda: 1.0, identifier=lambda prefix: prefix), farm  # type: ignore[arg-type]


async def test_changes_carry_the_newest_token_and_take_none(ready_phone: list[Event]) -> None:
    asks, farm = requests(ready_phone)
    await asks.undo_edits("a", "ab", ["r1"])
    await asks.undo_edits("a", "ab", None)
    await asks.import_edits("a", base64.b64encode(b"file").decode())
    assert farm.asked == [UndoEdits("ab", ("r1",), 6), UndoEdits("ab", None, 6), ImportEdits(b"file", 6)]
    assert farm.state.next_fencing_token == 7


async def test_a_busy_phone_is_read_and_not_changed(leased_phone: list[Event]) -> None:
    asks, farm = requests(leased_phone)
    await asks.list_edits("a")
    await asks.export_edits("a", "ab")
    assert farm.asked == [ListEdits(), ExportEdits("ab")]
    with pytest.raises(UserError, match="a does an edit now: try again"):
        await asks.undo_edits("a", "ab", None)
    with pytest.raises(UserError, match="a does an edit now: try again"):
        await asks.import_edits("a", "eA==")


async def test_a_phone_that_is_away_or_unknown_is_not_asked(ready_phone: list[Event]) -> None:
    asks, farm = requests([*ready_phone, DeviceLost(5.0, "a", "unplugged")])
    with pytest.raises(DeviceError, match=r"a is not there \(lost\)"):
        await asks.list_edits("a")
    with pytest.raises(UserError, match="no phone b"):
        await asks.undo_edits("b", "ab", None)
    assert farm.asked == []


@pytest.mark.parametrize(
    "exported", ["not base64!", "é", base64.b64encode(bytes(EXPORT_LIMIT_BYTES + 1)).decode()]
)
async def test_what_cannot_be_an_export_is_not_sent(exported: str, ready_phone: list[Event]) -> None:
    asks, farm = requests(ready_phone)
    with pytest.raises(UserError, match=r"not base64|larger than 15 MiB"):
        await asks.import_edits("a", exported)
    assert farm.asked == []


class TakingFarm(ScriptedFarm):
    """Applies events, as the real one does."""

    async def apply(self, *events: Event) -> None:
        for event in events:
            self.state, _ = step(self.state, event)


async def test_tags_are_added_and_taken_away(ready_phone: list[Event]) -> None:
    farm = TakingFarm(ready_phone)
    asks = FarmRequests(farm, clock=lambda: 1.0, identifier=lambda prefix: prefix)  # type: ignore[arg-type]
    assert await asks.tag_device("a", ["loud", "bench"], []) == {"device_id": "a", "tags": ["bench", "loud"]}
    assert await asks.tag_device("a", [], ["loud"]) == {"device_id": "a", "tags": ["bench"]}
    assert DeviceSelector(where=("tag == bench",)).mismatches(farm.state.devices["a"]) == []
    for tag in ("", "-x", "a b", "x" * 41, "é"):
        with pytest.raises(UserError, match="is no tag"):
            await asks.tag_device("a", [tag], [])
    with pytest.raises(UserError, match="at most 20 tags"):
        await asks.tag_device("a", [f"t{number}" for number in range(20)], [])
    assert farm.state.devices["a"].tags == ("bench",)


def test_why_of_an_unknown_job_is_refused(ready_phone: list[Event]) -> None:
    asks, _ = requests(ready_phone)
    with pytest.raises(UserError, match="no job j"):
        asks.why("j")
