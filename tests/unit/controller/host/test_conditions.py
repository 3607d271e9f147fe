"""Which readings become events, and that a phone without work is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from mobifarm.controller.core.conditions import Conditions
from mobifarm.controller.core.events import DeviceConditions
from mobifarm.controller.host.conditions import ConditionsWatch, Decimator
from mobifarm.controller.host.reports import Reading, Report
from mobifarm.v1 import agent_pb2

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
    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = asyncio.Event()

    async def ReadSensors(self, request: Any, timeout: float) -> Any:  # noqa: N802
        self.asked.set()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_phone_without_work_is_asked() -> None:
    reports: list[Report] = []
    sample = agent_pb2.TelemetrySample(values=VALUES)
    stub = Stub(agent_pb2.ReadSensorsResponse(sample=sample))
    watch = ConditionsWatch("p", stub, reports.append, lambda: 5.0)  # type: ignore[arg-type]
    task = asyncio.create_task(watch.watch())
    async with asyncio.timeout(30):
        while len(reports) < 2:
            await asyncio.sleep(0)
    task.cancel()
    assert reports == [Reading(5.0, "p", VALUES, 0), DeviceConditions(5.0, "p", Conditions(30.0, 0.8, True))]


async def test_an_agent_that_cannot_be_asked_is_left_alone() -> None:
    reports: list[Report] = []
    metadata = grpc.aio.Metadata()
    stub = Stub(grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, metadata, metadata))
    watch = ConditionsWatch("p", stub, reports.append, lambda: 5.0)  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await watch.watch()
    assert reports == []
