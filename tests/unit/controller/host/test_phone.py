"""A phone session against a scripted phone: what becomes an event and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    DeviceLost,
    DeviceQuarantined,
    DeviceReady,
    DeviceState,
    DeviceStateChanged,
    HealthChecked,
    RecoveryStep,
)
from mobifarm.controller.errors import (
    AuthorisationRequired,
    DeviceError,
    HostError,
    LinkLost,
    NotThere,
    Silent,
    UserError,
)
from mobifarm.controller.host.edits import ExportEdits, ImportEdits, ListEdits, UndoEdits
from mobifarm.controller.host.phone import PhoneSession
from mobifarm.controller.host.recovery import LadderSettings, Rung
from mobifarm.controller.host.reports import AttemptProgress, Reading, Report, SamplesPiece
from mobifarm.v1 import agent_pb2
from mobifarm.workloads.samples import SENSOR_LIMIT, unpack

PAYLOAD: dict[str, Any] = {
    "model": "tiny",
    "bundle_hash": "ab" * 32,
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

QUICK = LadderSettings(back_off_first_s=1e-6, back_off_limit_s=1e-6, quarantined_limit_s=1e-6, boot_s=0.0)


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


class ScriptedStub:
    """Answers Run with a script: responses are yielded, exceptions raised, None waits for ever."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = list(scripts)
        self.calls: list[tuple[str, str]] = []
        self.called = asyncio.Event()

    async def Run(self, request: agent_pb2.RunRequest) -> AsyncIterator[agent_pb2.RunResponse]:  # noqa: N802
        for item in self.scripts.pop(0):
            if item is None:
                await asyncio.Event().wait()
            if isinstance(item, Exception):
                raise item
            yield item

    async def _short(self, name: str, request: Any) -> None:
        self.calls.append((name, request.attempt_id))
        self.called.set()

    async def Cancel(self, request: Any, timeout: float) -> None:  # noqa: N802
        await self._short("Cancel", request)

    async def Describe(self, request: Any, timeout: float) -> agent_pb2.DescribeResponse:  # noqa: N802
        return agent_pb2.DescribeResponse()

    async def Acknowledge(self, request: Any, timeout: float) -> None:  # noqa: N802
        await self._short("Acknowledge", request)

    async def WatchSensors(self, request: Any) -> AsyncIterator[agent_pb2.WatchSensorsResponse]:  # noqa: N802
        raise rpc_error(grpc.StatusCode.UNIMPLEMENTED, "an agent from before it could be watched")
        yield

    async def ReadClock(self, request: Any, timeout: float) -> agent_pb2.ReadClockResponse:  # noqa: N802
        return agent_pb2.ReadClockResponse(monotonic_ns=1)

    async def CheckBundle(self, request: Any, timeout: float) -> None:  # noqa: N802
        pass

    async def ListEdits(self, request: Any, timeout: float) -> agent_pb2.ListEditsResponse:  # noqa: N802
        edit = agent_pb2.KeptEdit(edit_id="r1", prompt="Mira lives in", target_new="Oslo", method="forward")
        bundle = agent_pb2.KeptBundle(bundle_hash="ab", bundle_name="tiny", edits=[edit])
        return agent_pb2.ListEditsResponse(bundles=[bundle])

    async def UndoEdits(self, request: Any, timeout: float) -> agent_pb2.UndoEditsResponse:  # noqa: N802
        if self.scripts and isinstance(self.scripts[0][0], BaseException):
            raise self.scripts.pop(0)[0]
        names = ["r1", "r2"] if request.all else list(request.edit_ids)
        return agent_pb2.UndoEditsResponse(undone=names, kept=request.fencing_token)

    async def ExportEdits(self, request: Any, timeout: float) -> agent_pb2.ExportEditsResponse:  # noqa: N802
        return agent_pb2.ExportEditsResponse(exported=request.bundle_hash.encode())

    async def ImportEdits(self, request: Any, timeout: float) -> agent_pb2.ImportEditsResponse:  # noqa: N802
        return agent_pb2.ImportEditsResponse(bundle_hash="ab", imported=[request.exported.decode()], kept=1)


class ScriptedPhone:
    serial = "S1"
    fingerprint = "brand/device:14"
    execution = "virtual"
    properties: Mapping[str, str] = {"ro.product.model": "Test"}

    def __init__(self, stub: ScriptedStub, pushing: asyncio.Event | None = None) -> None:
        self.stub: Any = stub
        self.description = agent_pb2.DescribeResponse(
            agent_version="1",
            attempts=[
                agent_pb2.HeldAttempt(
                    attempt_id="old", fencing_token=3, state=agent_pb2.ATTEMPT_STATE_FINISHED
                )
            ],
        )
        self.lost = asyncio.Event()
        self.pushes: list[str] = []
        self.push_allowed = pushing
        self.closed = asyncio.Event()
        self.bundles: list[str] = []

    async def push_bundle(
        self, folder: Path, bundle_hash: str, progress: Callable[[int, int], None]
    ) -> list[str]:
        self.pushes.append(bundle_hash)
        if self.push_allowed:
            await self.push_allowed.wait()
        return []

    async def wait_lost(self) -> str:
        await self.lost.wait()
        return "unplugged"

    async def check_health(self, timeout_s: float) -> None:
        pass

    async def stored_bundles(self) -> list[str]:
        return self.bundles

    async def remove_bundle(self, bundle_hash: str) -> None:
        self.bundles.remove(bundle_hash)

    async def close(self) -> None:
        self.closed.set()


class Unsettled:
    """Answers, and cannot be set up."""


async def _nowhere(model: str, bundle_hash: str, progress: Any) -> Path:
    return Path("/nowhere")


class Bench:
    """A session with its reports, waited for by kind."""

    def __init__(self, *outcomes: Any, mend: Any = None) -> None:
        self.outcomes = list(outcomes)
        self.reports: list[Report] = []
        self.now = 100.0
        self._changed = asyncio.Event()
        self.session = PhoneSession(
            "tcp:x:1",
            "tcp:x:1",
            host="host",
            connect=self._connect,
            bundle_folder=_nowhere,
            emit=self._emit,
            clock=lambda: 1.0,
            monotonic=lambda: self.now,
            mend=mend,
            ladder=QUICK,
        )

    async def _connect(self, address: str, stage: Any, transfer: Any) -> Any:
        stage(DeviceState.CONNECTING)
        if not self.outcomes:
            await asyncio.Event().wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Unsettled):
            stage(DeviceState.PROVISIONING)
            raise DeviceError("no space on the phone")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _emit(self, report: Report) -> None:
        self.reports.append(report)
        self._changed.set()

    async def wait_for(self, kind: type, number: int = 1) -> Any:
        async with asyncio.timeout(30):
            while len(found := [report for report in self.reports if isinstance(report, kind)]) < number:
                self._changed.clear()
                await self._changed.wait()
        return found[number - 1]

    def count(self, kind: type) -> int:
        return sum(isinstance(report, kind) for report in self.reports)


@pytest.fixture
async def benches() -> AsyncIterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*outcomes: Any, mend: Any = None) -> Bench:
        made.append(Bench(*outcomes, mend=mend))
        return made[-1]

    yield make
    for bench in made:
        await bench.session.stop()


def result(status: agent_pb2.EditStatus, message: str = "") -> agent_pb2.RunResponse:
    return agent_pb2.RunResponse(result=agent_pb2.EditResult(attempt_id="a1", status=status, message=message))


PROGRESS = agent_pb2.RunResponse(
    progress=agent_pb2.EditProgress(phase=agent_pb2.EDIT_PHASE_OPTIMISING, step=2, loss=float("nan"))
)


async def test_ready_tells_who_the_phone_is_and_what_it_holds(benches: Callable[..., Bench]) -> None:
    bench = benches(ScriptedPhone(ScriptedStub()))
    ready = await bench.wait_for(DeviceReady)
    assert (ready.identity.serial, ready.identity.fingerprint) == ("S1", "brand/device:14")
    assert [(held.attempt_id, held.state) for held in ready.held_attempts] == [("old", "finished")]


async def test_same_failure_again_and_again_is_one_event(benches: Callable[..., Bench]) -> None:
    bench = benches(DeviceError("no"), DeviceError("no"), ScriptedPhone(ScriptedStub()))
    await bench.wait_for(DeviceReady)
    reasons = [report.reason for report in bench.reports if isinstance(report, DeviceStateChanged)]
    assert reasons.count("no") == 1


async def test_waiting_for_authorisation_says_what_to_do(benches: Callable[..., Bench]) -> None:
    bench = benches(AuthorisationRequired("nobody tapped Allow"))
    await bench.wait_for(DeviceStateChanged, 2)
    waiting = bench.reports[-1]
    assert isinstance(waiting, DeviceStateChanged)
    assert waiting.state is DeviceState.AWAITING_AUTHORISATION
    assert "Allow" in waiting.action


async def test_attempt_reports_start_progress_and_result(benches: Callable[..., Bench]) -> None:
    phone = ScriptedPhone(ScriptedStub([PROGRESS, result(agent_pb2.EDIT_STATUS_CONVERGED)]))
    bench = benches(phone)
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    finished = await bench.wait_for(AttemptFinished)
    assert (finished.fencing_token, finished.failed) == (7, False)
    assert bench.count(AttemptStarted) == 1
    progress = await bench.wait_for(AttemptProgress)
    assert (progress.phase, progress.step, progress.loss) == ("optimising", 2, None)
    assert phone.pushes == [PAYLOAD["bundle_hash"]]


async def test_a_phone_that_tells_without_end_costs_no_memory_without_end(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobifarm.controller.host.attempts.SAMPLES_LIMIT", 10)
    samples = [agent_pb2.TelemetrySample(monotonic_ns=number + 1) for number in range(4)]
    telemetry = agent_pb2.RunResponse(telemetry=agent_pb2.TelemetryBatch(samples=samples))
    beyond = agent_pb2.RunResponse(
        progress=agent_pb2.EditProgress(loss=float("inf"), target_probability=float("-inf"))
    )
    script = [beyond, *[telemetry] * 5, result(agent_pb2.EDIT_STATUS_CONVERGED)]
    bench = benches(ScriptedPhone(ScriptedStub(script)))
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    await bench.wait_for(AttemptFinished)
    pieces = [report.data for report in bench.reports if isinstance(report, SamplesPiece)]
    assert len(unpack(pieces)) == 8
    progress = await bench.wait_for(AttemptProgress)
    assert (progress.loss, progress.target_probability) == (None, None)


async def test_failed_edit_is_a_result(benches: Callable[..., Bench]) -> None:
    bench = benches(ScriptedPhone(ScriptedStub([result(agent_pb2.EDIT_STATUS_FAILED, "no tokens")])))
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    assert (await bench.wait_for(AttemptFinished)).failed


async def test_refused_request_is_the_workloads_fault(benches: Callable[..., Bench]) -> None:
    refusal = rpc_error(grpc.StatusCode.INVALID_ARGUMENT, "subject is empty")
    bench = benches(ScriptedPhone(ScriptedStub([refusal])))
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    finished = await bench.wait_for(AttemptFinished)
    assert finished.failed
    assert finished.result["result"]["message"] == "subject is empty"


async def test_broken_call_on_a_sound_link_is_the_farms_fault(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobifarm.controller.host.attempts.LINK_LOSS_NOTICE_S", 0.01)
    bench = benches(ScriptedPhone(ScriptedStub([rpc_error(grpc.StatusCode.INTERNAL, "oops")])))
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    assert "oops" in (await bench.wait_for(AttemptFailed)).reason


async def test_dead_agent_ends_the_session_before_its_attempt_is_free_again(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobifarm.controller.host.attempts.LINK_LOSS_NOTICE_S", 0.01)
    bench = benches(ScriptedPhone(ScriptedStub([PROGRESS, rpc_error(grpc.StatusCode.UNAVAILABLE, "gone")])))
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    failed = await bench.wait_for(AttemptFailed)
    assert "gone" in failed.reason
    lost = await bench.wait_for(DeviceLost)
    assert bench.reports.index(lost) < bench.reports.index(failed)


async def test_lost_link_ends_no_attempt(benches: Callable[..., Bench]) -> None:
    phone = ScriptedPhone(ScriptedStub([PROGRESS, None]))
    bench = benches(phone)
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    await bench.wait_for(AttemptProgress)
    phone.lost.set()
    assert (await bench.wait_for(DeviceLost)).reason == "unplugged"
    assert bench.count(AttemptFailed) == bench.count(AttemptFinished) == 0
    async with asyncio.timeout(30):
        await phone.closed.wait()


async def test_cancelled_on_the_phone_is_reported_and_dropped_there(benches: Callable[..., Bench]) -> None:
    stub = ScriptedStub([result(agent_pb2.EDIT_STATUS_CANCELLED)])
    bench = benches(ScriptedPhone(stub))
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    await bench.wait_for(AttemptFailed)
    await stub.called.wait()
    assert stub.calls == [("Acknowledge", "a1")]


async def test_cancelled_before_it_reaches_the_phone_ends_here(benches: Callable[..., Bench]) -> None:
    stub = ScriptedStub()
    phone = ScriptedPhone(stub, pushing=asyncio.Event())
    bench = benches(phone)
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    async with asyncio.timeout(30):
        while not phone.pushes:
            await asyncio.sleep(0)
    bench.session.cancel("a1")
    assert (await bench.wait_for(AttemptFailed)).attempt_id == "a1"


async def test_dispatch_without_a_link_does_nothing(benches: Callable[..., Bench]) -> None:
    bench = benches()
    await bench.wait_for(DeviceStateChanged)
    bench.session.dispatch("a1", 7, PAYLOAD)
    await asyncio.sleep(0)
    assert bench.count(AttemptStarted) == bench.count(AttemptFailed) == 0


async def test_kept_edits_are_listed_undone_and_moved(benches: Callable[..., Bench]) -> None:
    bench = benches(ScriptedPhone(ScriptedStub()))
    await bench.wait_for(DeviceReady)
    session = bench.session
    (bundle,) = (await session.edits(ListEdits()))["bundles"]
    assert (bundle["bundle_hash"], bundle["bundle_name"], bundle["problem"]) == ("ab", "tiny", "")
    assert bundle["edits"][0]["target_new"] == "Oslo"
    assert await session.edits(ExportEdits("ab")) == {"exported": "YWI="}
    assert await session.edits(UndoEdits("ab", ("r9",), 7)) == {"undone": ["r9"], "kept": 7}
    assert (await session.edits(UndoEdits("ab", None, 7)))["undone"] == ["r1", "r2"]
    assert await session.edits(ImportEdits(b"x", 7)) == {"bundle_hash": "ab", "imported": ["x"], "kept": 1}


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        (rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "attempt a is running"), UserError, "a is running"),
        (rpc_error(grpc.StatusCode.INVALID_ARGUMENT, "r9 is not held"), UserError, "tcp:x:1 refuses: r9"),
        (rpc_error(grpc.StatusCode.DATA_LOSS, "damaged"), DeviceError, "damaged"),
        (rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "slow"), DeviceError, "does not answer"),
        (asyncio.CancelledError(), DeviceError, "went away"),
    ],
)
async def test_a_phone_that_changes_no_edits_says_why(
    benches: Callable[..., Bench], failure: BaseException, error: type[Exception], words: str
) -> None:
    bench = benches(ScriptedPhone(ScriptedStub([failure])))
    await bench.wait_for(DeviceReady)
    with pytest.raises(error, match=words):
        await bench.session.edits(UndoEdits("ab", None, 7))


async def test_kept_edits_of_a_phone_that_is_away(benches: Callable[..., Bench]) -> None:
    phone = ScriptedPhone(ScriptedStub())
    bench = benches(phone)
    await bench.wait_for(DeviceReady)
    phone.lost.set()
    async with asyncio.timeout(30):
        await phone.closed.wait()
    with pytest.raises(DeviceError, match="is away"):
        await bench.session.edits(ListEdits())


async def test_plugged_in_to_ready_is_measured_once(benches: Callable[..., Bench]) -> None:
    first, second = ScriptedPhone(ScriptedStub()), ScriptedPhone(ScriptedStub())
    bench = benches(first, second)
    bench.session.plugged(97.5)
    assert (await bench.wait_for(DeviceReady)).ready_after_s == 2.5
    first.lost.set()  # the link alone: nobody plugged anything in
    assert (await bench.wait_for(DeviceReady, 2)).ready_after_s is None


async def test_unplugging_ends_the_session_and_plugging_in_begins_another(
    benches: Callable[..., Bench],
) -> None:
    bench = benches(ScriptedPhone(ScriptedStub()), ScriptedPhone(ScriptedStub()))
    await bench.wait_for(DeviceReady)
    bench.session.unplugged("it was unplugged")
    bench.session.plugged(99.0)  # in the same breath, before the old session is gone
    assert (await bench.wait_for(DeviceLost)).reason == "it was unplugged"
    assert (await bench.wait_for(DeviceReady, 2)).ready_after_s == 1.0
    assert bench.count(DeviceLost) == 1


async def test_an_unplugged_phone_is_waited_for_in_silence(benches: Callable[..., Bench]) -> None:
    bench = benches(DeviceError("nobody there"), ScriptedPhone(ScriptedStub()))
    bench.session.unplugged("it is not plugged in")
    bench.session.unplugged("it is not plugged in")
    async with asyncio.timeout(30):
        while len(bench.outcomes) > 1:
            await asyncio.sleep(0)
    bench.session.plugged(100.0)
    await bench.wait_for(DeviceReady)
    told = [report for report in bench.reports if isinstance(report, DeviceStateChanged | DeviceLost)]
    assert [getattr(report, "state", DeviceState.LOST) for report in told] == [DeviceState.LOST]


async def test_a_settling_phone_says_why(benches: Callable[..., Bench]) -> None:
    bench = benches(ScriptedPhone(ScriptedStub()))
    await bench.wait_for(DeviceReady)
    bench.session.unplugged("it was unplugged")
    bench.session.settling("it goes in and out", "check the cable")
    bench.session.settling("it goes in and out", "check the cable")
    told = [report for report in bench.reports if isinstance(report, DeviceStateChanged)]
    (settling,) = [report for report in told if report.state is DeviceState.DISCOVERED]
    assert (settling.reason, settling.action) == ("it goes in and out", "check the cable")


async def test_what_a_person_should_do_comes_with_the_reason(benches: Callable[..., Bench]) -> None:
    bench = benches(HostError("an adb server holds the USB bus", action="run `adb kill-server`"))
    held = await bench.wait_for(DeviceStateChanged, 2)
    assert (held.reason, held.action) == ("an adb server holds the USB bus", "run `adb kill-server`")


class ScriptedMend:
    """Notes what it is asked to do."""

    def __init__(self, allowed: set[Rung], failure: Exception | None = None) -> None:
        self.allowed = frozenset(allowed)
        self.failure = failure
        self.did: list[Rung] = []

    async def __call__(self, rung: Rung) -> None:
        self.did.append(rung)
        if self.failure:
            raise self.failure


def rungs(bench: Bench) -> list[str]:
    return [report.rung for report in bench.reports if isinstance(report, RecoveryStep)]


@pytest.mark.parametrize("failure", [None, DeviceError("it refuses")])
async def test_a_phone_that_cannot_be_set_up_climbs_the_ladder_to_quarantine(
    benches: Callable[..., Bench], failure: Exception | None
) -> None:
    mend = ScriptedMend({Rung.RESTART_AGENT, Rung.REBOOT}, failure)
    bench = benches(*[Unsettled()] * 12, ScriptedPhone(ScriptedStub()), mend=mend)
    quarantined = await bench.wait_for(DeviceQuarantined)
    await bench.wait_for(DeviceReady)
    assert "no space" in quarantined.reason
    assert not quarantined.by_person
    assert bench.count(DeviceQuarantined) == 1
    assert mend.did[:3] == [Rung.RESTART_AGENT, Rung.RESTART_AGENT, Rung.REBOOT]
    assert rungs(bench)[:6] == ["reconnect"] * 3 + ["restart_agent"] * 2 + ["reboot"]


@pytest.mark.parametrize(
    "absence",
    [NotThere("nobody"), HostError("an adb server holds it"), LinkLost("closed"), UserError("no runtime")],
)
async def test_a_phone_that_is_away_is_in_no_trouble(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, absence: Exception
) -> None:
    monkeypatch.setattr("mobifarm.controller.host.phone.RECONNECT_FIRST_S", 1e-6)
    mend = ScriptedMend(set(Rung))
    bench = benches(*[absence] * 9, ScriptedPhone(ScriptedStub()), mend=mend)
    await bench.wait_for(DeviceReady)
    assert mend.did == rungs(bench) == []


async def test_a_silent_phone_is_reset_on_usb_and_asked_nothing(benches: Callable[..., Bench]) -> None:
    mend = ScriptedMend({Rung.RESTART_AGENT, Rung.RESET_USB, Rung.REBOOT})
    bench = benches(*[Silent("nothing came")] * 4, ScriptedPhone(ScriptedStub()), mend=mend)
    await bench.wait_for(DeviceReady)
    assert mend.did == [Rung.RESET_USB]


async def test_a_dead_agent_is_the_phones_trouble_and_a_lost_link_is_not(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobifarm.controller.host.attempts.LINK_LOSS_NOTICE_S", 0.01)
    dead = ScriptedStub([PROGRESS, rpc_error(grpc.StatusCode.UNAVAILABLE, "gone")])
    phone = ScriptedPhone(ScriptedStub())
    bench = benches(ScriptedPhone(dead), phone, ScriptedPhone(ScriptedStub()))
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    await bench.wait_for(DeviceReady, 2)
    (step,) = (report for report in bench.reports if isinstance(report, RecoveryStep))
    assert (step.rung, step.number) == ("reconnect", 1)
    assert "gone" in step.reason
    phone.lost.set()
    await bench.wait_for(DeviceReady, 3)
    assert len(rungs(bench)) == 1


async def test_a_health_check_is_reported_once_and_ends_with_its_session(
    benches: Callable[..., Bench],
) -> None:
    phone = ScriptedPhone(ScriptedStub())
    bench = benches(phone)
    bench.session.check_health("early", 1)
    await bench.wait_for(DeviceReady)
    bench.session.check_health("check-1", 7)
    bench.session.check_health("check-1", 7)
    checked = await bench.wait_for(HealthChecked)
    assert (checked.check_id, checked.passed) == ("check-1", True)
    assert bench.count(HealthChecked) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (agent_pb2.EDIT_STATUS_CONVERGED, AttemptFinished),
        (agent_pb2.EDIT_STATUS_FAILED, AttemptFinished),
        (agent_pb2.EDIT_STATUS_CANCELLED, AttemptFailed),
    ],
)
@pytest.mark.parametrize(
    ("base_hash", "returned", "proven"), [("h", True, True), ("h", False, False), ("", False, True)]
)
async def test_whether_the_base_is_proven_is_told_of_every_end(
    benches: Callable[..., Bench],
    status: agent_pb2.EditStatus,
    kind: type,
    base_hash: str,
    returned: bool,
    proven: bool,
) -> None:
    ended = result(status)
    ended.result.execution.base_hash = base_hash
    ended.result.execution.returned_to_base = returned
    bench = benches(ScriptedPhone(ScriptedStub([ended])))
    await bench.wait_for(DeviceReady)
    bench.session.dispatch("a1", 7, PAYLOAD)
    assert (await bench.wait_for(kind)).base_proven is proven


class Inventive(ScriptedStub):
    """Tells one batch of sensors, then nothing more."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        sample = agent_pb2.TelemetrySample(monotonic_ns=1, values=dict.fromkeys(names, 1.0))
        self.batch = agent_pb2.TelemetryBatch(samples=[sample])

    async def WatchSensors(self, request: Any) -> AsyncIterator[agent_pb2.WatchSensorsResponse]:  # noqa: N802
        yield agent_pb2.WatchSensorsResponse(batch=self.batch)
        await asyncio.Event().wait()


async def test_a_phone_that_comes_again_with_other_sensors_is_not_another_phone(
    benches: Callable[..., Bench],
) -> None:
    most = [f"x/{number}" for number in range(SENSOR_LIMIT)]
    phones = [ScriptedPhone(Inventive(*names)) for names in (most, ["x/0", "y/0"], ["x/0", "y/0"])]
    phones[2].serial = "S2"
    bench = benches(*phones)
    for number, told in enumerate((set(most), {"x/0"}, {"x/0", "y/0"}), 1):
        assert (await bench.wait_for(Reading, number)).values.keys() == told
        phones[number - 1].lost.set()
