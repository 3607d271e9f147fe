"""From a phone's telemetry to events that the farm decides by: few of them, and also while it has no work."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Final

import grpc
import grpc.aio

from mobifarm.controller.core.conditions import UNKNOWN, Conditions, conditions_of
from mobifarm.controller.core.events import DeviceConditions
from mobifarm.controller.host.reports import Reading, Report
from mobifarm.v1 import agent_pb2, agent_pb2_grpc
from mobifarm.workloads.samples import SENSOR_LIMIT, SENSOR_NAME_LIMIT, phase_name

logger = logging.getLogger(__name__)

READING_PERIOD_S: Final = 0.5  # at most two readings of a phone a second go up
RETRY_S: Final = 10.0
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


class SensorNames:
    """The first so many sensors that a phone tells of; inventing more fills nobody's memory or Prometheus."""

    def __init__(self, limit: int = SENSOR_LIMIT) -> None:
        self._names: set[str] = set()
        self._limit = limit

    def bounded(self, reading: Reading) -> Reading:
        """The reading without sensors beyond the limit."""
        names = reading.values.keys()
        if names <= self._names:
            return reading
        new = sorted(names - self._names)
        self._names.update(new[: self._limit - len(self._names)])
        if names <= self._names:
            return reading
        return replace(
            reading, values={name: value for name, value in reading.values.items() if name in self._names}
        )


class ConditionsWatch:
    """Passes a session's reports on, adds :class:`DeviceConditions`, and follows a phone without work.

    ``names`` are those of the phone, over all its sessions.
    """

    def __init__(
        self,
        device_id: str,
        stub: agent_pb2_grpc.AgentServiceAsyncStub,
        emit: Callable[[Report], None],
        clock: Callable[[], float],
        names: SensorNames,
    ) -> None:
        self._names = names
        self._device_id = device_id
        self._stub = stub
        self._emit = emit
        self._clock = clock
        self._decimator = Decimator()
        self._passed_at = -math.inf
        self._newest_ns = -1
        self._news_at = -math.inf

    def emit(self, report: Report) -> None:
        """Pass a report on; a reading may become an event of its own, and too many readings are left out.

        What the phone saw before its last reading is no news: an attempt's samples begin with those of a
        stretch without work, which may be half an hour old. A time far ahead of all others, which only a
        broken clock tells, silences a phone no longer than :data:`LONGEST_SILENCE_S`.
        """
        if not isinstance(report, Reading):
            self._emit(report)
            return
        if report.monotonic_ns is not None:
            old = report.monotonic_ns < self._newest_ns
            if old and report.at - self._news_at < LONGEST_SILENCE_S:
                return
            self._newest_ns, self._news_at = report.monotonic_ns, report.at
        report = self._names.bounded(report)
        if report.at - self._passed_at >= READING_PERIOD_S:
            self._passed_at = report.at
            self._emit(report)
        conditions = self._decimator.offer(report.at, report.values)
        if conditions is not None:
            self._emit(DeviceConditions(report.at, self._device_id, conditions))

    async def watch(self) -> None:
        """Follow the sensors of a phone without work; an attempt's own stream tells of one that has some."""
        while True:
            try:
                async for answer in self._stub.WatchSensors(agent_pb2.WatchSensorsRequest()):
                    if (reading := reading_of(self._clock(), self._device_id, answer.batch)) is not None:
                        self.emit(reading)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return  # an older agent; what it does not tell is unknown
                logger.info("the sensors of %s: %s", self._device_id, error.details())
            await asyncio.sleep(RETRY_S)


def reading_of(at: float, device_id: str, batch: agent_pb2.TelemetryBatch) -> Reading | None:
    """The newest sample of a batch; None of an empty one, and of one that is no news.

    It is repeated to everybody who looks at the farm: what is no number, and more than a phone has, is left
    out.
    """
    if batch.replayed or not batch.samples:
        return None
    newest = batch.samples[-1]
    finite = (
        (name, value)
        for name, value in newest.values.items()
        if math.isfinite(value) and len(name) <= SENSOR_NAME_LIMIT
    )
    values = dict(islice(finite, SENSOR_LIMIT))
    return Reading(at, device_id, values, newest.monotonic_ns, phase_name(newest.phase))
