"""How far a phone's clock is from this host's: a few round trips, the shortest of which bounds the error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

import grpc
import grpc.aio

from mobifarm.v1 import agent_pb2, agent_pb2_grpc

logger = logging.getLogger(__name__)

ROUND_TRIPS: Final = 8
PERIOD_S: Final = 60.0
DEADLINE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One question to the phone: ``sent_at`` is the host's unix time, ``phone_s`` the phone's clock."""

    sent_at: float
    duration_s: float
    phone_s: float


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The host's unix time is the phone's CLOCK_BOOTTIME plus ``offset_s``, give or take ``bound_s``."""

    offset_s: float
    bound_s: float
    measured_at: float
    round_trips: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def offset_of(round_trips: Iterable[RoundTrip]) -> ClockOffset:
    """The offset from the shortest of them: the phone answered somewhere in it, so half of it bounds it."""
    tried = list(round_trips)
    best = min(tried, key=lambda one: one.duration_s)
    return ClockOffset(
        offset_s=best.sent_at + best.duration_s / 2 - best.phone_s,
        bound_s=best.duration_s / 2,
        measured_at=best.sent_at,
        round_trips=len(tried),
    )


class ClockWatch:
    """Measures the offset of one phone for as long as its session lasts.

    Args:
        clock: unix time in seconds.
        monotonic: seconds that are never set.
    """

    def __init__(
        self,
        device_id: str,
        stub: agent_pb2_grpc.AgentServiceAsyncStub,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._device_id = device_id
        self._stub = stub
        self._clock = clock
        self._monotonic = monotonic
        self.offset: ClockOffset | None = None  # None until it is known, or where the agent cannot tell

    async def watch(self) -> None:
        """Measure now and once a minute: clocks drift, and a host's may be set."""
        while True:
            try:
                self.offset = offset_of([await self._ask() for _ in range(ROUND_TRIPS)])
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return
                logger.info("the clock of %s: %s", self._device_id, error.details())
            await asyncio.sleep(PERIOD_S)

    async def _ask(self) -> RoundTrip:
        sent_at, began_s = self._clock(), self._monotonic()
        answer = await self._stub.ReadClock(agent_pb2.ReadClockRequest(), timeout=DEADLINE_S)
        return RoundTrip(sent_at, self._monotonic() - began_s, answer.monotonic_ns / 1e9)
