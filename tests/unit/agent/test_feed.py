"""What a stream hears, and what it costs when it does not listen."""

from __future__ import annotations

import asyncio

import pytest

from mobifarm.agent.errors import Stopping
from mobifarm.agent.feed import Feed
from mobifarm.agent.samples import SampleLog
from mobifarm.v1.agent_pb2 import EditProgress, EditResult, TelemetryBatch, TelemetrySample


def batch(number: int) -> TelemetryBatch:
    return TelemetryBatch(samples=[TelemetrySample(monotonic_ns=number)])


async def test_a_slow_stream_hears_the_newest_progress_every_sample_and_the_end():
    log = SampleLog()
    feed = Feed(log)
    feed.progress(EditProgress(step=1))
    stream = feed.listen()
    assert (await anext(stream)).progress.step == 1
    for number in range(2, 2002):
        feed.progress(EditProgress(step=number))
        log.append(batch(number))
        feed.telemetry()
    feed.close(EditResult(attempt_id="a"))

    messages = [message async for message in stream]
    assert [message.progress.step for message in messages if message.HasField("progress")] == [2001]
    times = [m.telemetry.samples[0].monotonic_ns for m in messages if m.HasField("telemetry")]
    assert times == list(range(2, 2002))
    assert messages[-1].result.attempt_id == "a"


async def test_a_stream_that_attaches_later_hears_what_was_before_as_old_news():
    log = SampleLog()
    feed = Feed(log)
    for number in range(3):
        log.append(batch(number))
    stream = feed.listen()
    first = await anext(stream)
    log.append(batch(3))
    feed.close(EditResult(attempt_id="a"))
    messages = [first, *[message async for message in stream]]
    heard = [
        (m.telemetry.samples[0].monotonic_ns, m.telemetry.replayed)
        for m in messages
        if m.HasField("telemetry")
    ]
    assert heard == [(0, True), (1, True), (2, True), (3, False)]


async def test_a_stream_that_comes_after_the_end_hears_the_end():
    feed = Feed(SampleLog())
    feed.close(None, Stopping("gone"))
    with pytest.raises(Stopping, match="gone"):
        await anext(feed.listen())


async def test_a_waiting_stream_wakes_at_the_end():
    feed = Feed(SampleLog())
    waiting = asyncio.ensure_future(anext(feed.listen()))
    await asyncio.wait({waiting}, timeout=0)  # lets the stream begin to wait
    feed.close(EditResult(attempt_id="a"))
    assert (await waiting).result.attempt_id == "a"


async def test_a_closed_stream_is_forgotten():
    feed = Feed(SampleLog())
    feed.progress(EditProgress(step=1))
    stream = feed.listen()
    await anext(stream)
    await stream.aclose()
    assert not feed._listeners
