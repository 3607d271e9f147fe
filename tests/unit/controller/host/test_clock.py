"""The offset between two clocks, from round trips of any length."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from hypothesis import example, given
from hypothesis import strategies as st

from mobifarm.controller.host.clock import ROUND_TRIPS, ClockWatch, RoundTrip, offset_of
from mobifarm.v1 import agent_pb2

# Milliseconds of the way there and of the way back.
ways = st.lists(st.tuples(st.floats(0, 500), st.floats(0, 500)), min_size=1, max_size=10)


@given(st.floats(-1e6, 1e6), ways)
@example(0.0, [(0.0, 2.225073858507203e-309)])
def test_the_true_offset_lies_within_the_bound(offset_s: float, there_and_back: Any) -> None:
    trips, now_s = [], 1e6
    for there, back in there_and_back:
        phone_s = now_s + there / 1e3 - offset_s
        trips.append(RoundTrip(now_s, (there + back) / 1e3, phone_s))
        now_s += 1.0
    found = offset_of(trips)
    assert abs(found.offset_s - offset_s) <= found.bound_s + 1e-6
    assert found.bound_s == min((there + back) / 1e3 for there, back in there_and_back) / 2
    assert found.round_trips == len(trips)


class Clock:
    """A phone whose clock is 100 s behind, two seconds away."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.enough = asyncio.Event()
        self.error: Exception | None = None

    async def ReadClock(self, request: Any, timeout: float) -> agent_pb2.ReadClockResponse:  # noqa: N802
        if self.error:
            raise self.error
        self.asked += 1
        self.now += 1.0
        answer = agent_pb2.ReadClockResponse(monotonic_ns=round((self.now - 100.0) * 1e9))
        self.now += 1.0
        if self.asked == ROUND_TRIPS:
            self.enough.set()
        return answer


async def test_a_session_measures_the_offset() -> None:
    clock = Clock()
    watch = ClockWatch("p", clock, lambda: clock.now, lambda: clock.now)  # type: ignore[arg-type]
    assert watch.offset is None
    task = asyncio.create_task(watch.watch())
    async with asyncio.timeout(30):
        await clock.enough.wait()
        while watch.offset is None:
            await asyncio.sleep(0)
    task.cancel()
    assert (watch.offset.offset_s, watch.offset.bound_s) == (100.0, 1.0)
    assert watch.offset.to_json()["round_trips"] == ROUND_TRIPS


async def test_an_agent_without_a_clock_leaves_it_unknown() -> None:
    clock = Clock()
    metadata = grpc.aio.Metadata()
    clock.error = grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, metadata, metadata)
    watch = ClockWatch("p", clock, lambda: clock.now, lambda: clock.now)  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await watch.watch()
    assert watch.offset is None
