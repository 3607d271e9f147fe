"""The watch over scripted sources: what the listener is told, and that one source harms no other."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mobifarm.controller.discovery.discovery import Discovery
from mobifarm.controller.discovery.sighting import Scan, Trouble


class ScriptedWatcher:
    """Shows what the test puts in; waits in between."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.shows: queue.Queue[Scan | Exception | None] = queue.Queue()
        self.closed = False

    def covers(self, address: str, source: str) -> bool:
        return address.startswith("usb:") or source == "announced"

    def scan(self) -> Scan:
        shown = self.shows.get()
        if isinstance(shown, Exception):
            raise shown
        return shown or Scan(None)

    def wait(self, timeout_s: float) -> None:
        pass

    def interrupt(self) -> None:
        self.shows.put(None)

    def close(self) -> None:
        self.closed = True

    def show(self, *phones: str, trouble: Trouble | None = None) -> None:
        self.shows.put(Scan(dict(phone.split("=") for phone in phones), trouble))


class Ears:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.looks: list[str] = []

    def arrived(self, address: str, source: str, seen_at: float, observed: bool) -> None:
        self.heard.put_nowait(("arrived", address, source, seen_at, observed))

    def departed(self, address: str, source: str) -> None:
        self.heard.put_nowait(("departed", address, source))

    def settling(self, address: str, source: str, arrivals: int, left_s: float) -> None:
        self.heard.put_nowait(("settling", address, arrivals, round(left_s)))

    def looked(self, source: str) -> None:
        self.looks.append(source)

    def trouble(self, source: str, trouble: Trouble | None) -> None:
        self.heard.put_nowait(("trouble", source, trouble))

    async def next(self) -> tuple[Any, ...]:
        async with asyncio.timeout(30):
            return await self.heard.get()


class Setup:
    def __init__(self, *sources: str) -> None:
        self.now = 5.0
        self.watchers = [ScriptedWatcher(source) for source in sources]
        self.ears = Ears()
        self.discovery = Discovery(self.watchers, self.ears, clock=lambda: self.now)


@pytest.fixture
async def setups() -> AsyncIterator[Callable[..., Setup]]:
    made: list[Setup] = []

    def make(*sources: str) -> Setup:
        made.append(Setup(*sources))
        return made[-1]

    yield make
    for setup in made:
        await setup.discovery.close()
        assert all(watcher.closed for watcher in setup.watchers)


async def test_what_is_there_at_the_start_was_not_plugged_in_before_our_eyes(
    setups: Callable[..., Setup],
) -> None:
    setup = setups("usb")
    (watcher,) = setup.watchers
    watcher.show("usb:1-1=1")
    assert await setup.ears.next() == ("trouble", "usb", None)
    assert await setup.ears.next() == ("arrived", "usb:1-1", "usb", 5.0, False)
    setup.now = 6.0
    watcher.show("usb:1-1=1", "usb:1-2=1")
    assert await setup.ears.next() == ("arrived", "usb:1-2", "usb", 6.0, True)
    watcher.show("usb:1-1=2")
    assert [await setup.ears.next() for _ in range(3)] == [
        ("departed", "usb:1-1", "usb"),
        ("departed", "usb:1-2", "usb"),
        ("arrived", "usb:1-1", "usb", 6.0, True),
    ]
    assert setup.discovery.is_absent("usb:1-2", "operator")
    assert not setup.discovery.is_absent("usb:1-1", "usb")
    assert not setup.discovery.is_absent("tcp:h:1", "operator")
    assert setup.discovery.is_absent("tcp:h:1", "announced")
    assert setup.ears.looks == ["usb"]


async def test_trouble_is_told_once_and_forgets_nobody(setups: Callable[..., Setup]) -> None:
    setup = setups("usb")
    (watcher,) = setup.watchers
    trouble = Trouble("no bus", "plug one in")
    watcher.show("usb:1-1=1")
    watcher.shows.put(Scan(None, trouble))
    watcher.shows.put(Scan(None, trouble))
    watcher.show("usb:1-1=1")
    heard = [await setup.ears.next() for _ in range(4)]
    assert [what for what in heard if what[0] == "trouble"] == [
        ("trouble", "usb", None),
        ("trouble", "usb", trouble),
        ("trouble", "usb", None),
    ]
    assert setup.ears.heard.empty()


async def test_a_watcher_that_fails_looks_again_and_stops_no_other(setups: Callable[..., Setup]) -> None:
    setup = setups("usb", "announced")
    usb, folder = setup.watchers
    usb.shows.put(ValueError("a fault"))
    told = await setup.ears.next()
    assert told[2].reason == "unexpected ValueError: a fault"
    folder.show("tcp:h:1=1")
    assert await setup.ears.next() == ("trouble", "announced", None)
    assert (await setup.ears.next())[:2] == ("arrived", "tcp:h:1")
    usb.show("usb:1-1=1")
    assert await setup.ears.next() == ("trouble", "usb", None)
    assert (await setup.ears.next())[:2] == ("arrived", "usb:1-1")


async def test_a_flapping_phone_settles_while_another_arrives(setups: Callable[..., Setup]) -> None:
    setup = setups("usb")
    (watcher,) = setup.watchers
    watcher.show()
    assert (await setup.ears.next())[0] == "trouble"
    for number in range(3):
        watcher.show(f"usb:1-1={number}")
        while (await setup.ears.next())[0] != "arrived":
            pass
    watcher.show("usb:1-1=9")
    assert await setup.ears.next() == ("departed", "usb:1-1", "usb")
    assert await setup.ears.next() == ("settling", "usb:1-1", 4, 10)
    watcher.show("usb:1-1=9", "usb:1-2=1")
    assert (await setup.ears.next())[:2] == ("arrived", "usb:1-2")
    setup.now = 15.0
    watcher.show("usb:1-1=9", "usb:1-2=1")
    assert await setup.ears.next() == ("arrived", "usb:1-1", "usb", 5.0, True)


async def test_a_phone_that_has_calmed_down_needs_no_further_look(setups: Callable[..., Setup]) -> None:
    setup = setups("usb")
    (watcher,) = setup.watchers
    for number in range(4):
        watcher.show(f"usb:1-1={number}")
    while (await setup.ears.next())[0] != "settling":
        pass
    setup.now = 15.0
    setup.discovery._watches[0]._tell_due()  # as the timer does
    assert await setup.ears.next() == ("arrived", "usb:1-1", "usb", 5.0, True)
