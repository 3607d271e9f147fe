"""Which readings become events, and that a phone without work is watched."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from mobifarm.controller.core.conditions import Conditions
from mobifarm.controller.core.events import DeviceConditions
from mobifarm.controller.host.conditions import ConditionsWatch, Decimator, SensorNames, reading_of
from mobifarm.controller.host.reports import Reading, Report
from mobifarm.v1 import agent_pb2
from mobifarm.workloads.samples import SENSOR_LIMIT

VALUES = {"battery/temperature": 30.0, "battery/capacity": 0.8, "battery/charging": 1.0}


def test_only_what_matters_passes() -> None:
    decimator = Decimator()
    assert decimator.offer(0.0, VALUES) == Conditions(30.0, 0.8, True)
    assert decimator.offer(1.0, {**VALUES, "battery/temperature": 30.4}) is None
    assert decimator.offer(2.0, {**VALUES, "battery/temperature": 30.5}) is not None
    assert decimator.offer(3.0, {**VALUES, "battery/temperature": 30.5, "battery/charging": 0.0}) is not None
    assert decimator.offer(4.0, {}) == Conditions()
    assert decimator.offer(5.0, {}) is None


def test_the_same_reading_passes_once_a_minute() -> None:
    decimator = Decimator()
    passed = [at for at in range(200) if decimator.offer(float(at), VALUES) is not None]
    assert passed == [0, 60, 120, 180]


def test_a_number_that_is_none_is_unknown() -> None:
    assert Decimator().offer(0.0, {"battery/temperature": float("nan")}) == Conditions()


class Stub:
    """Answers with batches of samples, then with an error or not at all."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def WatchSensors(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        for answer in self.answers:
            if isinstance(answer, Exception):
                raise answer
            yield agent_pb2.WatchSensorsResponse(batch=answer)
        await asyncio.Event().wait()


def batch(*times: int, replayed: bool = False) -> agent_pb2.TelemetryBatch:
    samples = [
        agent_pb2.TelemetrySample(monotonic_ns=time, values=VALUES, phase=agent_pb2.EDIT_PHASE_IDLE)
        for time in times
    ]
    return agent_pb2.TelemetryBatch(samples=samples, replayed=replayed)


async def test_a_phone_without_work_is_watched() -> None:
    reports: list[Report] = []
    stub = Stub(agent_pb2.TelemetryBatch(), batch(1, 2))
    watch = ConditionsWatch("p", stub, reports.append, lambda: 5.0, SensorNames())  # type: ignore[arg-type]
    task = asyncio.create_task(watch.watch())
    async with asyncio.timeout(30):
        while len(reports) < 2:
            await asyncio.sleep(0)
    task.cancel()
    assert reports == [
        Reading(5.0, "p", VALUES, 2, "idle"),
        DeviceConditions(5.0, "p", Conditions(30.0, 0.8, True)),
    ]


def test_old_news_is_no_reading() -> None:
    assert reading_of(5.0, "p", batch(1, replayed=True)) is None


def test_at_most_two_readings_a_second_go_up_and_conditions_are_told_at_once() -> None:
    reports: list[Report] = []
    watch = ConditionsWatch("p", Stub(), reports.append, lambda: 0.0, SensorNames())  # type: ignore[arg-type]
    for tenth in range(20):
        watch.emit(Reading(tenth / 10, "p", VALUES))
    watch.emit(Reading(1.91, "p", {**VALUES, "battery/charging": 0.0}))
    assert [one.at for one in reports if isinstance(one, Reading)] == [0.0, 0.5, 1.0, 1.5]
    assert [one.at for one in reports if isinstance(one, DeviceConditions)] == [0.0, 1.91]


def test_what_the_phone_saw_before_its_last_reading_is_no_news() -> None:
    # An attempt's samples begin with those of a stretch without work, which may be half an hour old.
    reports: list[Report] = []
    watch = ConditionsWatch("p", Stub(), reports.append, lambda: 0.0, SensorNames())  # type: ignore[arg-type]
    warm, cold = {"battery/temperature": 40.0}, {"battery/temperature": 23.0}
    watch.emit(Reading(1.0, "p", warm, 2_000))
    watch.emit(Reading(5.0, "p", cold, 1_000))
    watch.emit(Reading(9.0, "p", warm, 3_000))
    readings = [report.values for report in reports if isinstance(report, Reading)]
    assert readings == [warm, warm]
    told = [report.conditions for report in reports if isinstance(report, DeviceConditions)]
    assert told == [Conditions(40.0)]


def test_one_sample_with_an_impossible_clock_silences_nobody_for_good() -> None:
    reports: list[Report] = []
    watch = ConditionsWatch("p", Stub(), reports.append, lambda: 0.0, SensorNames())  # type: ignore[arg-type]
    watch.emit(Reading(0.0, "p", VALUES, 2**62))
    for second in range(1, 90):
        watch.emit(Reading(float(second), "p", VALUES, second * 10**9))
    heard = [report.at for report in reports if isinstance(report, Reading)]
    assert heard == [0.0, *map(float, range(60, 90))]


async def test_an_agent_that_cannot_be_watched_is_left_alone() -> None:
    reports: list[Report] = []
    metadata = grpc.aio.Metadata()
    stub = Stub(grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, metadata, metadata))
    watch = ConditionsWatch("p", stub, reports.append, lambda: 5.0, SensorNames())  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await watch.watch()
    assert reports == []


def test_a_reading_holds_numbers_alone_and_no_more_than_a_phone_has() -> None:
    many = {f"x/{number}": 1.0 for number in range(SENSOR_LIMIT + 5)}
    sample = agent_pb2.TelemetrySample(values={**many, "y" * 1000: 1.0})
    odd = agent_pb2.TelemetrySample(
        values={"thermal/status": math.nan, "a/b": math.inf, "battery/voltage": 4.0}
    )
    told = [reading_of(1.0, "phone", agent_pb2.TelemetryBatch(samples=[one])) for one in (sample, odd)]
    assert told[0] is not None
    assert told[1] is not None
    assert len(told[0].values) == SENSOR_LIMIT
    assert max(map(len, told[0].values)) < 1000
    assert told[1].values == {"battery/voltage": 4.0}


def test_a_phone_that_invents_sensors_at_each_reading_is_heard_of_the_first_alone() -> None:
    reports: list[Report] = []
    watch = ConditionsWatch("p", Stub(), reports.append, lambda: 0.0, SensorNames(3))  # type: ignore[arg-type]
    for second in range(50):
        watch.emit(Reading(float(second), "p", {"battery/voltage": 4.0, f"thermal/{second}": 1.0}))
    told = [report.values for report in reports if isinstance(report, Reading)]
    assert len(told) == 50
    assert set().union(*told) == {"battery/voltage", "thermal/0", "thermal/1"}
    assert told[-1] == {"battery/voltage": 4.0}
