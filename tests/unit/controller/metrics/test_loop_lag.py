from __future__ import annotations

import asyncio

import pytest

from mobifarm.controller.metrics.loop_lag import PERIOD_S, PROBES, LoopLag


async def test_the_worst_of_the_last_probes_is_told() -> None:
    now = 0.0
    late = [0.25, *[0.0] * PROBES]
    seen: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        seen.append(lag.worst_s)
        if not late:
            raise asyncio.CancelledError
        now += seconds + late.pop(0)

    lag = LoopLag(lambda: now, sleep)
    with pytest.raises(asyncio.CancelledError):
        await lag.run()
    assert now == pytest.approx((PROBES + 1) * PERIOD_S + 0.25)
    assert seen[:2] == [0.0, 0.25]
    assert seen[-2:] == [0.25, 0.0]
