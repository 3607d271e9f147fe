from __future__ import annotations

import asyncio

from mobifarm.controller.host.buffer import ReportBuffer


async def test_reader_gets_what_is_new_and_only_that() -> None:
    buffer: ReportBuffer[str] = ReportBuffer()
    buffer.put("a")
    buffer.put("b")
    number, items = await buffer.read(0, 1.0)
    assert items == ["a", "b"]
    buffer.put("c")
    assert await buffer.read(number, 1.0) == (3, ["c"])


async def test_lost_answer_is_given_again() -> None:
    buffer: ReportBuffer[str] = ReportBuffer()
    buffer.put("a")
    first = await buffer.read(0, 1.0)
    assert await buffer.read(0, 1.0) == first


async def test_reader_waits_for_the_first_report() -> None:
    buffer: ReportBuffer[str] = ReportBuffer()
    reading = asyncio.create_task(buffer.read(0, 60.0))
    await asyncio.sleep(0)
    buffer.put("late")
    assert await reading == (1, ["late"])


async def test_nothing_new_gives_the_same_number() -> None:
    buffer: ReportBuffer[str] = ReportBuffer()
    buffer.put("a")
    number, _ = await buffer.read(0, 1.0)
    assert await buffer.read(number, 0.001) == (number, [])


async def test_oldest_are_dropped_at_the_limit() -> None:
    buffer: ReportBuffer[int] = ReportBuffer(limit=2)
    for value in range(5):
        buffer.put(value)
    assert await buffer.read(0, 1.0) == (5, [3, 4])


async def test_an_answer_has_a_size_and_the_rest_comes_with_the_next() -> None:
    buffer: ReportBuffer[str] = ReportBuffer(size=len, answer_size=5)
    for item in ("aaaaaaaa", "bb", "cc", "dd"):
        buffer.put(item)
    assert await buffer.read(0, 1.0) == (1, ["aaaaaaaa"])
    assert await buffer.read(1, 1.0) == (3, ["bb", "cc"])
    assert await buffer.read(3, 1.0) == (4, ["dd"])
