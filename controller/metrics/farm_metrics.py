"""``/metrics``: a snapshot on the event loop, its text in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.hosts import HostView
from mobifarm.controller.metrics.exposition import render
from mobifarm.controller.metrics.loop_lag import LoopLag
from mobifarm.controller.metrics.noise import NoiseFloors
from mobifarm.controller.metrics.snapshot import FarmSnapshot, take_snapshot
from mobifarm.controller.metrics.tally import Tally
from mobifarm.controller.store.read import Reader


class FarmMetrics:
    """The metrics of one farm from now on.

    Args:
        hosts: the machines with phones.
        clock: unix time in seconds.
    """

    def __init__(
        self,
        farm: Farm,
        *,
        hosts: Callable[[], Sequence[HostView]],
        open_reader: Callable[[], AbstractContextManager[Reader]],
        clock: Callable[[], float],
    ) -> None:
        self._farm = farm
        self._hosts = hosts
        self._clock = clock
        self._started_at = clock()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._tally = Tally(lambda: farm.state, self._registry)
        self._loop_lag = LoopLag()
        self._noise = NoiseFloors(open_reader)
        farm.watchers.append(self._tally.note)

    async def run(self) -> NoReturn:
        """Keep up what cannot be told by looking once, until cancelled."""
        await asyncio.gather(
            self._loop_lag.run(), self._noise.run(lambda: self._farm.state, self._farm.next_change)
        )
        raise AssertionError("neither ends")

    def snapshot(self) -> FarmSnapshot:
        """This moment; on the event loop."""
        return take_snapshot(
            self._farm.state,
            self._farm.live,
            self._hosts(),
            now=self._clock(),
            accelerators=self._tally.accelerators,
            away_since=self._tally.away_since,
            moved_at=self._tally.moved_at,
            started_at=self._started_at,
            noise_floors=self._noise.floors,
            loop_lag_s=self._loop_lag.worst_s,
        )

    async def text(self) -> bytes:
        """This moment in Prometheus' text format 0.0.4."""
        return await asyncio.to_thread(self._render, self.snapshot())

    def _render(self, snapshot: FarmSnapshot) -> bytes:
        return render(snapshot).encode() + generate_latest(self._registry)
