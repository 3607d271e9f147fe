"""From a phone's telemetry to events that the farm decides by: few of them, and also while it has no work."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Final

import grpc
import grpc.aio

from mobifarm.controller.core.conditions import UNKNOWN, Conditions, conditions_of
from mobifarm.controller.core.events import DeviceConditions
from mobifarm.controller.host.reports import Reading, Report
from mobifarm.v1 import agent_pb2, agent_pb2_grpc

logger = logging.getLogger(__name__)

IDLE_PERIOD_S: Final = 10.0
DEADLINE_S: Final = 10.0
LONGEST_SILENCE_S: Final = 60.0
TEMPERATURE_STEP_KELVIN: Final = 0.5
BATTERY_STEP: Final = 0.01
STORAGE_STEP: Final = 0.1  # of what was free


def differs(new: Conditions, old: Conditions) -> bool:
    """Whether the difference may matter to a decision."""
    return (
        (new.charging, new.screen_on) != (old.charging, old.screen_on)
        or _moved(new.temperature_celsius, old.temperature_celsius, TEMPERATURE_STEP_KELVIN)
        or _moved(new.battery, old.battery, BATTERY_STEP)
        or _moved(
            new.free_storage_bytes, old.free_storage_bytes, STORAGE_STEP * (old.free_storage_bytes or 0.0)
        )
    )


def _moved(new: float | None, old: float | None, step: float) -> bool:
    if new is None or old is None:
        return new is not old
    return abs(new - old) >= step * (1 - 1e-9) and new != old


class Decimator:
    """Lets a reading pass when it differs enough from the last that passed, or comes a minute later. Pure."""

    def __init__(self) -> None:
        self._passed = UNKNOWN
        self._at = -math.inf

    def offer(self, at: float, values: Mapping[str, float]) -> Conditions | None:
        """The reading in the farm's terms where it is to be told; ``at`` is unix time."""
        conditions = conditions_of({name: value for name, value in values.items() if math.isfinite(value)})
        if at - self._at < LONGEST_SILENCE_S and not differs(conditions, self._passed):
            return None
        self._passed, self._at = conditions, at
        return conditions


class ConditionsWatch:
    """Passes a session's reports on, adds :class:`DeviceConditions`, and asks a phone without work itself."""

    def __init__(
        self,
        device_id: str,
        stub: agent_pb2_grpc.AgentServiceAsyncStub,
        emit: Callable[[Report], None],
        clock: Callable[[], float],
    ) -> None:
        self._device_id = device_id
        self._stub = stub
        self._emit = emit
        self._clock = clock
        self._decimator = Decimator()
        self._heard_at = -math.inf

    def emit(self, report: Report) -> None:
        """Pass a report on; a reading may become an event of its own."""
        self._emit(report)
        if isinstance(report, Reading):
            self._heard_at = report.at
            conditions = self._decimator.offer(report.at, report.values)
            if conditions is not None:
                self._emit(DeviceConditions(report.at, self._device_id, conditions))

    async def watch(self) -> None:
        """Read the sensors now and then; an attempt's own telemetry makes that needless."""
        while True:
            if self._clock() - self._heard_at >= IDLE_PERIOD_S:
                try:
                    answer = await self._stub.ReadSensors(agent_pb2.ReadSensorsRequest(), timeout=DEADLINE_S)
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                        return  # an older agent; what it does not tell is unknown
                    logger.info("the sensors of %s: %s", self._device_id, error.details())
                else:
                    values, monotonic_ns = dict(answer.sample.values), answer.sample.monotonic_ns
                    self.emit(Reading(self._clock(), self._device_id, values, monotonic_ns))
            await asyncio.sleep(IDLE_PERIOD_S)
