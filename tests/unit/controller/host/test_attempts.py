"""Attempts against a phone that does everything only when the test lets it: whatever comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mobifarm.controller.core.events import AttemptFailed, AttemptFinished
from mobifarm.controller.errors import DeviceError
from mobifarm.controller.host.attempts import Attempts
from mobifarm.controller.host.reports import Report
from mobifarm.v1 import agent_pb2

pytestmark = pytest.mark.timeout(30)

BUNDLE = "ab" * 32
PAYLOAD: dict[str, Any] = {
    "model": "tiny",
    "bundle_hash": BUNDLE,
    "method": "forward",
    "settings": {},
    "seed": 1,
    "record": {
        "record_id": "r1",
        "subject": "Mira",
        "prompt": "Mira lives in",
        "target_new": "Oslo",
        "target_true": "Rome",
        "paraphrases": [],
        "neighbours": [],
        "portability": [],
    },
}
PROGRESS = agent_pb2.RunResponse(progress=agent_pb2.EditProgress(phase=agent_pb2.EDIT_PHASE_OPTIMISING))


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=code.name)


class Gate:
    """A place that tells who has come to it and lets nobody past until it is opened."""

    def __init__(self, *, is_open: bool) -> None:
        self.arrived = asyncio.Event()
        self.opened = asyncio.Event()
        if is_open:
            self.opened.set()

    async def pass_through(self) -> None:
        self.arrived.set()
        await self.opened.wait()


class Phone:
    """A phone and its agent, which edits until it is told to stop; ``finishes``: at once."""

    def __init__(self, *, admits: bool = True, pushes: bool = True, finishes: bool = False) -> None:
        self.stub: Any = self
        self.description = agent_pb2.DescribeResponse()
        self.admission = Gate(is_open=admits)
        self.push = Gate(is_open=pushes)
        self.finishes = finishes
        self.failures: list[Exception] = []  # of the next runs
        self.push_failures: list[Exception] = []
        self.made_room: list[str] = []  # hashes of the bundles that a push removes
        self.told: list[str] = []
        self.held: set[str] = set()
        self.cancel_refused = asyncio.Event()
        self.pushing = 0
        self.progress: Callable[[int, int], None] = lambda done, total: None
        self._stop = asyncio.Event()

    async def push_bundle(
        self, folder: Path, bundle_hash: str, progress: Callable[[int, int], None]
    ) -> list[str]:
        self.told.append(f"push {bundle_hash[:2]}")
        self.progress = progress
        assert not self.pushing
        self.pushing += 1
        try:
            await self.push.pass_through()
        finally:
            self.pushing -= 1
        if self.push_failures:
            raise self.push_failures.pop(0)
        return self.made_room

    async def wait_lost(self) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def CheckBundle(self, request: Any, timeout: float) -> None:  # noqa: N802
        pass

    async def Run(self, request: Any) -> AsyncIterator[agent_pb2.RunResponse]:  # noqa: N802
        self.told.append(f"run {request.attempt_id}")
        await self.admission.pass_through()
        if self.failures:
            raise self.failures.pop(0)
        self.held.add(request.attempt_id)
        yield PROGRESS
        status = agent_pb2.EDIT_STATUS_CONVERGED
        if not self.finishes:
            await self._stop.wait()
            status = agent_pb2.EDIT_STATUS_CANCELLED
        self.held.discard(request.attempt_id)
        yield agent_pb2.RunResponse(result=agent_pb2.EditResult(status=status))

    async def Cancel(self, request: Any, timeout: float) -> None:  # noqa: N802
        if request.attempt_id not in self.held:
            self.cancel_refused.set()
            raise rpc_error(grpc.StatusCode.NOT_FOUND)
        self._stop.set()

    async def Acknowledge(self, request: Any, timeout: float) -> None:  # noqa: N802
        pass


class Bench:
    """The attempts on one phone, and what they report."""

    def __init__(self, phone: Phone) -> None:
        self.reports: list[Report] = []
        self.transfers: list[tuple[str, int, int]] = []
        self._changed = asyncio.Event()
        self.attempts = Attempts(
            "phone",
            phone,
            bundle_folder=self._folder,
            transfer=lambda *news: self.transfers.append(news),
            unreachable=lambda reason: None,
            emit=self._emit,
            clock=lambda: 1.0,
            clock_offset=lambda: None,
        )

    async def _folder(self, model: str, bundle_hash: str, progress: Any) -> Path:
        return Path("/nowhere")

    def _emit(self, report: Report) -> None:
        self.reports.append(report)
        self._changed.set()

    async def end_of(self, attempt_id: str) -> AttemptFailed | AttemptFinished:
        while True:
            self._changed.clear()
            for report in self.reports:
                if isinstance(report, AttemptFailed | AttemptFinished) and report.attempt_id == attempt_id:
                    return report
            await self._changed.wait()

    async def failure_of(self, attempt_id: str) -> str:
        end = await self.end_of(attempt_id)
        assert isinstance(end, AttemptFailed)
        return end.reason


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUSY_RETRY_S", "CANCEL_RETRY_S", "LINK_LOSS_NOTICE_S"):
        monkeypatch.setattr(f"mobifarm.controller.host.attempts.{name}", 0.001)


@pytest.fixture
async def benches() -> AsyncIterator[Callable[[Phone], Bench]]:
    made: list[Bench] = []

    def make(phone: Phone) -> Bench:
        made.append(Bench(phone))
        return made[-1]

    yield make
    for bench in made:
        await bench.attempts.close()


Benches = Callable[[Phone], Bench]


async def test_a_cancel_that_comes_before_the_phone_holds_the_attempt_is_repeated(benches: Benches) -> None:
    phone = Phone(admits=False)
    bench = benches(phone)
    bench.attempts.dispatch("a1", 7, PAYLOAD)
    await phone.admission.arrived.wait()
    bench.attempts.cancel("a1")
    await phone.cancel_refused.wait()
    phone.admission.opened.set()
    assert "on the phone" in await bench.failure_of("a1")


async def test_a_cancel_in_one_batch_with_the_dispatch_lets_nothing_reach_the_phone(benches: Benches) -> None:
    phone = Phone()
    bench = benches(phone)
    bench.attempts.dispatch("a1", 7, PAYLOAD)
    bench.attempts.cancel("a1")
    assert "before it reached the phone" in await bench.failure_of("a1")
    await phone.cancel_refused.wait()  # it is told all the same: it may hold one of an earlier session
    assert phone.told == []


async def test_an_attempt_that_is_cancelled_while_the_phone_is_busy_is_not_tried_again(
    benches: Benches,
) -> None:
    phone = Phone(admits=False)
    phone.failures = [rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED)]
    bench = benches(phone)
    bench.attempts.dispatch("a1", 7, PAYLOAD)
    await phone.admission.arrived.wait()
    bench.attempts.cancel("a1")
    phone.admission.opened.set()
    assert "before it reached the phone" in await bench.failure_of("a1")
    assert phone.told == ["push ab", "run a1"]


async def test_a_cancel_of_an_attempt_that_nobody_follows_is_told_once(benches: Benches) -> None:
    phone = Phone(finishes=True)
    bench = benches(phone)
    bench.attempts.cancel("a1")
    await phone.cancel_refused.wait()
    bench.attempts.dispatch("a1", 7, PAYLOAD)
    assert isinstance(await bench.end_of("a1"), AttemptFinished)


async def test_a_push_outlives_the_attempt_that_wanted_it_and_serves_the_next_one(benches: Benches) -> None:
    phone = Phone(pushes=False, finishes=True)
    bench = benches(phone)
    bench.attempts.dispatch("a1", 7, PAYLOAD)
    await phone.push.arrived.wait()
    bench.attempts.cancel("a1")
    assert "before it reached the phone" in await bench.failure_of("a1")
    phone.progress(1, 3)  # nobody waits
    bench.attempts.dispatch("a2", 8, PAYLOAD)
    bench.attempts.dispatch("a3", 9, {**PAYLOAD, "bundle_hash": "cd" * 32})
    await asyncio.sleep(0)
    phone.progress(2, 3)
    phone.push.opened.set()
    assert isinstance(await bench.end_of("a2"), AttemptFinished)
    assert isinstance(await bench.end_of("a3"), AttemptFinished)
    assert [what for what in phone.told if "push" in what] == ["push ab", "push cd"]
    assert bench.transfers == [("model tiny", 2, 3)]
    phone.progress(3, 3)
    assert len(bench.transfers) == 1


async def test_a_push_that_failed_while_nobody_waited_is_tried_again(benches: Benches) -> None:
    phone = Phone(pushes=False, finishes=True)
    phone.push_failures = [DeviceError("no space"), DeviceError("still no space")]
    bench = benches(phone)
    bench.attempts.dispatch("a1", 7, PAYLOAD)
    await phone.push.arrived.wait()
    bench.attempts.cancel("a1")
    await bench.end_of("a1")
    phone.push.opened.set()
    while phone.pushing:
        await asyncio.sleep(0)
    bench.attempts.dispatch("a2", 8, PAYLOAD)
    assert await bench.failure_of("a2") == "still no space"
    bench.attempts.dispatch("a3", 9, PAYLOAD)
    assert isinstance(await bench.end_of("a3"), AttemptFinished)


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DATA_LOSS])
async def test_a_bundle_that_the_phone_has_no_more_is_brought_again(
    benches: Benches, code: grpc.StatusCode
) -> None:
    phone = Phone(finishes=True)
    phone.failures = [rpc_error(code)]
    bench = benches(phone)
    bench.attempts.dispatch("a1", 7, PAYLOAD)
    assert code.name in await bench.failure_of("a1")
    bench.attempts.dispatch("a2", 8, PAYLOAD)
    assert isinstance(await bench.end_of("a2"), AttemptFinished)
    assert phone.told == ["push ab", "run a1", "push ab", "run a2"]


async def test_a_bundle_that_made_room_for_another_is_brought_again(benches: Benches) -> None:
    phone = Phone(finishes=True)
    bench = benches(phone)
    bench.attempts.dispatch("a1", 7, PAYLOAD)
    await bench.end_of("a1")
    phone.made_room = [PAYLOAD["bundle_hash"]]
    bench.attempts.dispatch("a2", 8, {**PAYLOAD, "bundle_hash": "cd" * 32})
    await bench.end_of("a2")
    bench.attempts.dispatch("a3", 9, PAYLOAD)
    assert isinstance(await bench.end_of("a3"), AttemptFinished)
    assert phone.told == ["push ab", "run a1", "push cd", "run a2", "push ab", "run a3"]


async def test_the_end_of_the_session_ends_a_push_without_a_word(benches: Benches) -> None:
    phone = Phone(pushes=False)
    bench = benches(phone)
    bench.attempts.dispatch("a1", 7, PAYLOAD)
    await phone.push.arrived.wait()
    await bench.attempts.close()
    assert not phone.pushing
    assert bench.reports == []
