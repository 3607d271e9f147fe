from __future__ import annotations

import asyncio
import contextlib

import pytest

from mobifarm.controller.api.feed import KEPT_PER_WATCHER, Feed


async def test_nothing_is_made_while_nobody_watches_and_all_get_the_same() -> None:
    made: list[int] = []

    def build(number: int) -> str:
        made.append(number)
        return f"news {number}"

    feed = Feed(build, period_s=0.001)
    await asyncio.sleep(0)
    assert made == []
    async with contextlib.aclosing(feed.watch()) as first, contextlib.aclosing(feed.watch()) as second:
        assert await anext(first) == "news 1"
        assert await anext(second) in made_news(made)
        assert feed.watchers == 2
    assert feed.watchers == 0
    before = list(made)
    await asyncio.sleep(0)
    assert made == before
    async with contextlib.aclosing(feed.watch()) as again:
        assert await anext(again) == f"news {before[-1] + 1}"


def made_news(made: list[int]) -> list[str]:
    return [f"news {number}" for number in made]


async def test_a_slow_watcher_loses_the_oldest_and_holds_nobody_up() -> None:
    enough = asyncio.Event()

    def build(number: int) -> str:
        if number >= 4 * KEPT_PER_WATCHER:
            enough.set()
        return str(number)

    feed = Feed(build, period_s=0.0)
    async with contextlib.aclosing(feed.watch()) as slow, contextlib.aclosing(feed.watch()) as quick:
        assert await anext(slow) == "1"
        while not enough.is_set():
            await anext(quick)
        assert int(await anext(slow)) > KEPT_PER_WATCHER


async def test_a_fault_ends_the_watching_so_that_pages_connect_anew(caplog: pytest.LogCaptureFixture) -> None:
    def build(number: int) -> str:
        if number == 2:
            raise ValueError("no news")
        return str(number)

    feed = Feed(build, period_s=0.0)
    assert [news async for news in feed.watch()] == ["1"]
    assert "could not be made" in caplog.text
    async with contextlib.aclosing(feed.watch()) as again:
        assert await anext(again) == "3"
