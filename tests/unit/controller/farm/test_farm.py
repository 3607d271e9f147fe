"""The farm's loop over a real store and a scripted host."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobifarm.agent.editor.settings import settings_hash
from mobifarm.controller.core.due import LeaseSettings
from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    DeviceAdded,
    DeviceDrained,
    DeviceForgotten,
    DeviceLost,
    DeviceQuarantined,
    DeviceReady,
    DeviceReleased,
    DeviceState,
    DeviceStateChanged,
    HealthChecked,
    HeldAttempt,
    HostJoined,
    Identity,
    JobCancelled,
    JobSubmitted,
    TrialPlan,
)
from mobifarm.controller.core.policies.fifo import FifoPolicy
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.state import AttemptState, HostState, JobState
from mobifarm.controller.errors import Bug, HostError
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.host_link import HostForgot, Order
from mobifarm.controller.farm.telemetry_files import TelemetryFiles
from mobifarm.controller.host.edits import ListEdits
from mobifarm.controller.host.reports import (
    AttemptProgress,
    DiscoveryNotice,
    PhoneSeen,
    PhoneSettling,
    Reading,
    Report,
    SamplesPiece,
    TransferProgress,
)
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.store.sqlite import SqliteStore
from mobifarm.v1 import agent_pb2 as pb
from mobifarm.workloads.samples import compress, pack

RESULT = {"result": {"status": "converged", "scores": []}, "agent_version": "1", "sensors": []}


class ScriptedHost:
    """Records what it is told; reports what the test puts in."""

    name = "host"

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.dispatched: asyncio.Queue[tuple[str, str, int, Mapping[str, Any]]] = asyncio.Queue()
        self.acknowledged: asyncio.Queue[str] = asyncio.Queue()
        self.attached: asyncio.Queue[str] = asyncio.Queue()
        self.sources: dict[str, str] = {}
        self.checks: asyncio.Queue[tuple[str, str, int]] = asyncio.Queue()
        self.queue: asyncio.Queue[Sequence[Report] | Exception] = asyncio.Queue()

    async def begin(self) -> None:
        self.told.append(("begin",))

    async def attach(self, device_id: str, address: str, source: str) -> None:
        self.sources[device_id] = source
        self.attached.put_nowait(device_id)

    async def detach(self, device_id: str) -> None:
        self.told.append(("detach", device_id))

    async def dispatch(
        self, device_id: str, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]
    ) -> None:
        self.dispatched.put_nowait((device_id, attempt_id, fencing_token, payload))

    async def cancel(self, device_id: str, attempt_id: str) -> None:
        self.told.append(("cancel", device_id, attempt_id))

    async def acknowledge(self, device_id: str, attempt_id: str) -> None:
        self.acknowledged.put_nowait(attempt_id)

    async def check_health(self, device_id: str, check_id: str, fencing_token: int) -> None:
        self.checks.put_nowait((device_id, check_id, fencing_token))

    async def carry_out(self, orders: Sequence[Order]) -> None:
        for method, *arguments in orders:
            await getattr(self, method)(*arguments)

    async def reports(self) -> Sequence[Report]:
        item = await self.queue.get()
        if isinstance(item, Exception):
            raise item
        return item


def ready(device_id: str) -> DeviceReady:
    return DeviceReady(
        at=1.0,
        device_id=device_id,
        host="host",
        identity=Identity(device_id, f"serial of {device_id}", "fingerprint"),
        properties={},
        execution="virtual",
        held_attempts=(),
        agent_version="1",
        fencing_token=0,
    )


def job(trials: int) -> JobSubmitted:
    plans = tuple(TrialPlan(f"j/{number}", f"fact {number}", {"fact": number}) for number in range(trials))
    return JobSubmitted(1.0, "j", "facts", "me", {}, plans, DeviceSelector(), 0, 3)


def finished(attempt_id: str, token: int, device_id: str) -> AttemptFinished:
    return AttemptFinished(2.0, attempt_id, token, device_id, failed=False, result=RESULT)


@asynccontextmanager
async def running(
    path: Path,
    host: ScriptedHost,
    grace_s: float = 600.0,
    host_grace_s: float = 5.0,
    telemetry_files: TelemetryFiles | None = None,
) -> AsyncIterator[Farm]:
    numbers = itertools.count()
    store = SqliteStore(path)
    farm = Farm(
        store=store,
        host=host,
        policy=FifoPolicy(),
        settings=LeaseSettings(lost_grace_s=grace_s, attempt_limit_s=3600.0, host_grace_s=host_grace_s),
        clock=lambda: 10.0,
        identifier=lambda prefix: f"{prefix}-{store.epoch}-{next(numbers)}",
        paranoid=True,
        telemetry_files=telemetry_files,
    )
    task = asyncio.create_task(farm.run())
    try:
        async with asyncio.timeout(60):
            await farm.started.wait()
            yield farm
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "farm.sqlite"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_slow_call_holds_up_its_phone_and_not_all(path: Path) -> None:
    class SlowHost(ScriptedHost):
        def __init__(self) -> None:
            super().__init__()
            self.orders: list[tuple[str, str]] = []
            self.free = asyncio.Event()

        async def carry_out(self, orders: Sequence[Order]) -> None:
            if any(device_id == "slow" for _, device_id, *_ in orders):
                await self.free.wait()
            self.orders += [(method, device_id) for method, device_id, *_ in orders]

    host, phones = SlowHost(), ["slow", *(f"phone-{number}" for number in range(32))]
    async with running(path, host) as farm:
        await farm.apply(*(DeviceAdded(1.0, phone, phone, "test") for phone in phones), job(len(phones)))
        host.queue.put_nowait([ready(phone) for phone in phones])
        await until(lambda: bool(host.orders))
        await farm.apply(JobCancelled(3.0, "j"))
        await until(lambda: any(method == "cancel" for method, _ in host.orders))
        assert not any(device_id == "slow" for _, device_id in host.orders)
        host.free.set()
        await until(lambda: len(host.orders) == 2 * len(phones))
    for phone in phones:
        assert [method for method, device_id in host.orders if device_id == phone] == ["dispatch", "cancel"]


async def test_trials_are_leased_and_their_results_stored(path: Path) -> None:
    host = ScriptedHost()
    async with running(path, host) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(2))
        host.queue.put_nowait([ready("a")])
        for _ in range(2):
            device_id, attempt_id, token, _ = await host.dispatched.get()
            host.queue.put_nowait([finished(attempt_id, token, device_id)])
            assert await host.acknowledged.get() == attempt_id
        assert farm.state.jobs["j"].state is JobState.DONE
    with StoreReader(path) as reader:
        results = list(reader.results("j"))
    assert [result.trial_id for result in results] == ["j/0", "j/1"]
    assert results[0].result["passport"]["phone"]["serial"] == "serial of a"


async def test_raw_samples_are_on_disk_before_their_result(path: Path, tmp_path: Path) -> None:
    host = ScriptedHost()
    samples = [pb.TelemetrySample(monotonic_ns=second, values={"x/y": 1.0}) for second in (1, 2)]
    [data] = pack([compress(pb.TelemetryBatch(samples=samples))])
    async with running(path, host, telemetry_files=TelemetryFiles(tmp_path / "telemetry")) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
        host.queue.put_nowait([ready("a")])
        device_id, attempt_id, token, _ = await host.dispatched.get()
        host.queue.put_nowait([SamplesPiece(2.0, device_id, attempt_id, 0, 2, data)])
        host.queue.put_nowait(
            [SamplesPiece(2.0, device_id, attempt_id, 1, 2, data), finished(attempt_id, token, device_id)]
        )
        assert await host.acknowledged.get() == attempt_id
        [file] = (tmp_path / "telemetry" / "j").iterdir()
        written = file.stat().st_mtime_ns
        # The same once more, as from a phone that did not hear that its result is stored: nothing is touched.
        host.queue.put_nowait(
            [
                SamplesPiece(3.0, device_id, attempt_id, 0, 1, data),
                finished(attempt_id, token, device_id),
                DeviceLost(4.0, "a", "unplugged"),
            ]
        )
        await until(lambda: not farm.state.devices["a"].connected)
        assert file.stat().st_mtime_ns == written
    with StoreReader(path) as reader:
        [result] = reader.results("j")
    telemetry = result.result["passport"]["telemetry"]
    assert telemetry["file"]["path"] == f"telemetry/j/{attempt_id}.parquet"
    assert telemetry["file"]["samples"] == 4
    assert telemetry["file"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


async def test_dispatch_carries_the_trials_payload(path: Path) -> None:
    host = ScriptedHost()
    async with running(path, host) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
        host.queue.put_nowait([ready("a")])
        assert (await host.dispatched.get())[3] == {"fact": 0}


async def test_a_refused_edits_passport_says_what_was_asked_for(path: Path) -> None:
    host = ScriptedHost()
    payload = {"bundle_hash": "b" * 64, "method": "forward", "settings": {"step_limit": 7}}
    plan = TrialPlan("j/0", "fact", payload)
    async with running(path, host) as farm:
        submitted = JobSubmitted(1.0, "j", "facts", "me", {}, (plan,), DeviceSelector(), 0, 3)
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), submitted)
        host.queue.put_nowait([ready("a")])
        device_id, attempt_id, token, _ = await host.dispatched.get()
        refused = {**RESULT, "result": {"status": "refused", "message": "subject is empty"}}
        host.queue.put_nowait([AttemptFinished(2.0, attempt_id, token, device_id, True, refused)])
        await host.acknowledged.get()
    with StoreReader(path) as reader:
        (result,) = reader.results("j")
    passport = result.result["passport"]
    assert (passport["bundle_hash"], passport["method"]) == ("b" * 64, "forward")
    assert passport["settings"] == {"step_limit": 7}
    assert passport["settings_hash"] == settings_hash({"step_limit": 7})


async def test_restart_resumes_the_same_attempt(path: Path) -> None:
    async with running(path, host := ScriptedHost()) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
        host.queue.put_nowait([ready("a")])
        before = await host.dispatched.get()
    async with running(path, host := ScriptedHost()) as farm:
        assert await host.attached.get() == "a"
        host.queue.put_nowait([ready("a")])
        assert await host.dispatched.get() == before
        host.queue.put_nowait([finished(before[1], before[2], "a")])
        await host.acknowledged.get()
        assert farm.state.jobs["j"].state is JobState.DONE


async def test_lost_phones_trial_goes_to_another_and_the_late_result_is_dropped(path: Path) -> None:
    host = ScriptedHost()
    async with running(path, host, grace_s=0.0) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), DeviceAdded(1.0, "b", "b", "test"), job(1))
        host.queue.put_nowait([ready("a")])
        _, first, first_token, _ = await host.dispatched.get()
        host.queue.put_nowait([DeviceLost(2.0, "a", "unplugged"), ready("b")])
        device_id, second, token, _ = await host.dispatched.get()
        assert (device_id, second != first, token > first_token) == ("b", True, True)
        host.queue.put_nowait([ready("a"), finished(first, first_token, "a")])
        assert await host.acknowledged.get() == first
        host.queue.put_nowait([finished(second, token, "b")])
        assert await host.acknowledged.get() == second
    with StoreReader(path) as reader:
        assert [result.attempt_id for result in reader.results("j")] == [second]


async def test_host_that_forgot_its_phones_gets_them_again(path: Path) -> None:
    host = ScriptedHost()
    async with running(path, host) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
        await farm.attach("a", "a")
        host.queue.put_nowait([ready("a")])
        before = await host.dispatched.get()
        while not host.attached.empty():
            host.attached.get_nowait()
        host.sources.clear()
        host.queue.put_nowait(HostForgot("restarted"))
        assert await host.attached.get() == "a"
        assert host.sources == {"a": "test"}
        assert not farm.state.devices["a"].connected
        host.queue.put_nowait([ready("a")])
        assert await host.dispatched.get() == before


async def test_news_of_a_phone_that_was_never_added_is_ignored(path: Path) -> None:
    host = ScriptedHost()
    async with running(path, host) as farm:
        host.queue.put_nowait([ready("ghost")])
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
        host.queue.put_nowait([ready("a")])
        await host.dispatched.get()
        assert "ghost" not in farm.state.devices


async def test_broken_attempt_is_tried_again(path: Path) -> None:
    host = ScriptedHost()
    async with running(path, host) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
        host.queue.put_nowait([ready("a")])
        _, first, token, _ = await host.dispatched.get()
        host.queue.put_nowait([AttemptFailed(2.0, first, token, "a", "agent died")])
        await until(lambda: farm.state.trials["j/0"].not_before > 0)
        farm._clock = lambda: 1000.0
        await farm.apply()
        assert (await host.dispatched.get())[1] != first


async def test_reports_that_cannot_be_true_or_stored_stop_nothing(path: Path) -> None:
    host = ScriptedHost()
    async with running(path, host) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
        host.queue.put_nowait([ready("a")])
        device_id, attempt_id, token, _ = await host.dispatched.get()
        impossible = DeviceStateChanged(1.0, "a", DeviceState.LEASED)
        host.queue.put_nowait([impossible, finished(attempt_id, token, device_id)])
        assert await host.acknowledged.get() == attempt_id
        assert farm.state.jobs["j"].state is JobState.DONE


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        pytest.param({"result": {"loss": float("nan")}}, "not JSON", id="cannot be written"),
        pytest.param({"sensors": [{"name": "x"}]}, "KeyError: 'unit'", id="cannot be described"),
    ],
)
async def test_a_result_that_cannot_be_kept_breaks_the_attempt_and_the_trial_goes_on(
    path: Path, odd: Mapping[str, Any], why: str
) -> None:
    host = ScriptedHost()
    async with running(path, host) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), DeviceAdded(1.0, "b", "b", "test"), job(1))
        host.queue.put_nowait([ready("a")])
        device_id, first, token, _ = await host.dispatched.get()
        result = replace(finished(first, token, device_id), result={**RESULT, **odd})
        host.queue.put_nowait([result, ready("b")])
        assert await host.acknowledged.get() == first  # the phone may drop it
        broken = farm.state.attempts[first]
        assert broken.state is AttemptState.BROKEN
        assert "cannot keep the phone's result" in broken.reason
        assert why in broken.reason
        assert farm.state.devices["a"].consecutive_failures == 1
        farm._clock = lambda: 1000.0
        await farm.apply()
        device_id, second, token, _ = await host.dispatched.get()
        assert (device_id, second != first) == ("b", True)
        host.queue.put_nowait([finished(second, token, device_id)])
        assert await host.acknowledged.get() == second
        assert farm.state.jobs["j"].state is JobState.DONE
    with StoreReader(path) as reader:
        assert [one.attempt_id for one in reader.results("j")] == [second]


async def test_decisions_made_at_the_same_time_fit_together(path: Path) -> None:
    host = ScriptedHost()
    async with running(path, host) as farm:
        await farm.apply(*(DeviceAdded(1.0, name, name, "test") for name in "abcd"), job(40))
        host.queue.put_nowait([ready(name) for name in "abcd"])
        for number in range(40):
            device_id, attempt_id, token, _ = await host.dispatched.get()
            host.queue.put_nowait([finished(attempt_id, token, device_id)])
            if number % 4 == 0:
                await farm.apply(DeviceReleased(1.0, device_id))
        for _ in range(40):
            await host.acknowledged.get()
        assert farm.state.jobs["j"].state is JobState.DONE


def seen(address: str, observed: bool = True) -> PhoneSeen:
    return PhoneSeen(1.0, "host", address, "usb", observed)


async def next_attached(host: ScriptedHost) -> str:
    async with asyncio.timeout(30):
        return await host.attached.get()


async def test_a_phone_that_is_plugged_in_is_added_and_attached(tmp_path: Path) -> None:
    host = ScriptedHost()
    async with running(tmp_path / "farm.sqlite", host) as farm:
        host.queue.put_nowait([seen("usb:1-1")])
        assert await next_attached(host) == "usb:1-1"
        device = farm.state.devices["usb:1-1"]
        assert (device.address, device.source, device.stage) == ("usb:1-1", "usb", DeviceState.DISCOVERED)
        host.queue.put_nowait([replace(ready("usb:1-1"), ready_after_s=3.5)])
        host.queue.put_nowait([DeviceLost(2.0, "usb:1-1", "it was unplugged"), seen("usb:1-1")])
        assert await next_attached(host) == "usb:1-1"
        assert device.stage is DeviceState.DISCOVERED
        assert device.ready_after_s == 3.5


async def test_a_forgotten_place_comes_back_when_it_is_plugged_in_again(tmp_path: Path) -> None:
    host = ScriptedHost()
    async with running(tmp_path / "farm.sqlite", host) as farm:
        host.queue.put_nowait([seen("usb:1-1", observed=False)])
        assert await next_attached(host) == "usb:1-1"
        await farm.apply(DeviceForgotten(1.0, "usb:1-1"))
        host.queue.put_nowait([seen("usb:1-1", observed=False), seen("usb:1-2", observed=False)])
        assert await next_attached(host) == "usb:1-2"
        assert farm.state.devices["usb:1-1"].stage is DeviceState.RETIRED
        host.queue.put_nowait([seen("usb:1-1")])
        assert await next_attached(host) == "usb:1-1"
        assert farm.state.devices["usb:1-1"].stage is DeviceState.DISCOVERED


async def test_what_cannot_be_seen_and_who_settles_is_shown_while_it_lasts(tmp_path: Path) -> None:
    host = ScriptedHost()
    async with running(tmp_path / "farm.sqlite", host) as farm:
        notice = DiscoveryNotice(1.0, "host", "usb", "no USB bus", "pass it through")
        host.queue.put_nowait([notice, seen("usb:1-1")])
        await next_attached(host)
        unplugged = DeviceLost(1.0, "usb:1-1", "it was unplugged")
        host.queue.put_nowait([unplugged, PhoneSettling(1.0, "usb:1-1", 20.0), seen("usb:1-2")])
        await next_attached(host)
        assert farm.live.notices() == [notice]
        assert farm.live.devices()["usb:1-1"].to_json()["settling_until"] == 20.0
        host.queue.put_nowait([replace(notice, reason="", action=""), seen("usb:1-3")])
        await next_attached(host)
        assert farm.live.notices() == []


async def test_a_quarantined_phone_is_checked_and_works_again(path: Path) -> None:
    host = ScriptedHost()
    async with running(path, host) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
        host.queue.put_nowait([DeviceQuarantined(2.0, "a", "its agent does not start"), ready("a")])
        await until(lambda: farm.state.devices["a"].connected)
        assert host.dispatched.empty()
        farm._clock = lambda: 1000.0
        await farm.apply()
        device_id, check_id, token = await host.checks.get()
        assert (device_id, token) == ("a", 0)
        host.queue.put_nowait([HealthChecked(1001.0, "a", check_id, True, "an edit was done and undone")])
        assert (await host.dispatched.get())[0] == "a"


async def follow(farm: Farm, host: ScriptedHost) -> asyncio.Task[None]:
    joined = HostJoined(1.0, "hub", "10.0.0.2", {})
    task = asyncio.create_task(farm.follow(host, joined))
    await until(lambda: farm.state.hosts.get("hub", None) is not None)
    return task


async def test_a_lost_hosts_leases_go_to_other_hosts_before_the_cables_grace(path: Path) -> None:
    here, hub = ScriptedHost(), ScriptedHost()
    async with running(path, here, grace_s=600.0, host_grace_s=0.0) as farm:
        following = await follow(farm, hub)
        await farm.apply(
            DeviceAdded(1.0, "a", "a", "test"), DeviceAdded(1.0, "hub/b", "b", "test", "hub"), job(1)
        )
        hub.queue.put_nowait([ready("hub/b")])
        _, first, _, _ = await hub.dispatched.get()
        hub.queue.put_nowait(HostError("it does not answer"))
        await following
        assert farm.state.devices["hub/b"].reason == "it does not answer"
        here.queue.put_nowait([ready("a")])
        device_id, second, _, _ = await here.dispatched.get()
        assert (device_id, second != first) == ("a", True)


async def test_a_host_that_joins_again_gets_its_phones_and_the_lease_is_resumed(path: Path) -> None:
    here, hub = ScriptedHost(), ScriptedHost()
    async with running(path, here) as farm:
        following = await follow(farm, hub)
        await farm.apply(DeviceAdded(1.0, "hub/b", "b", "test", "hub"), job(1))
        hub.queue.put_nowait([ready("hub/b")])
        _, attempt_id, token, _ = await hub.dispatched.get()
        hub.queue.put_nowait(HostForgot("it was started again"))
        await following
        await follow(farm, hub)
        assert await hub.attached.get() == "hub/b"
        held = (HeldAttempt(attempt_id, token, "finished"),)
        hub.queue.put_nowait([replace(ready("hub/b"), held_attempts=held, fencing_token=token)])
        assert (await hub.dispatched.get())[1] == attempt_id
    assert here.told == [("begin",)]


async def test_a_host_that_leaves_is_gone_at_once_with_the_reason(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = ScriptedHost()
    async with running(path, ScriptedHost()) as farm:
        farm.dismiss("hub")  # which is not there
        following = await follow(farm, hub)
        await farm.apply(DeviceAdded(1.0, "hub/b", "b", "test", "hub"))
        farm.dismiss("hub")
        await following
        lost, phone = farm.state.hosts["hub"], farm.state.devices["hub/b"]
        assert (lost.state, lost.reason) == (HostState.LOST, "its `mobifarm join` was ended")
        assert (phone.state, phone.reason) == (DeviceState.LOST, "its `mobifarm join` was ended")
    assert [record.exc_info for record in caplog.records if "is lost" in record.message] == [None]


async def test_a_host_that_does_not_begin_changes_nothing(path: Path) -> None:
    class Deaf(ScriptedHost):
        async def begin(self) -> None:
            raise HostError("it does not answer")

    async with running(path, ScriptedHost()) as farm:
        with pytest.raises(HostError):
            await farm.follow(Deaf(), HostJoined(1.0, "hub", "10.0.0.2", {}))
        assert not farm.state.hosts


async def test_a_host_whose_joining_cannot_be_noted_leaves_nothing_behind(path: Path) -> None:
    hub = ScriptedHost()
    async with running(path, ScriptedHost()) as farm:
        following = await follow(farm, hub)
        await farm.apply(DeviceAdded(1.0, "hub/b", "b", "test", "hub"))
        hub.queue.put_nowait(HostError("it does not answer"))
        await following
        cannot_be_stored = HostJoined(float("nan"), "hub", "10.0.0.2", {})
        with pytest.raises(Bug):
            await farm.follow(ScriptedHost(), cannot_be_stored)
        with pytest.raises(HostError, match="mobifarm hosts"):
            await farm.edits("hub/b", ListEdits())


async def test_a_phone_that_was_forgotten_is_not_heard_of_any_more(path: Path) -> None:
    host = ScriptedHost()
    late = [
        Reading(2.0, "a", {"battery/temperature": 30.0}),
        AttemptProgress(2.0, "a", "attempt", "optimising", 1, 9, 1.0, 0.5, 3),
        TransferProgress(2.0, "a", "model", 1, 2),
        SamplesPiece(2.0, "a", "attempt", 0, 2, b"piece"),
        PhoneSettling(2.0, "a", 20.0),
    ]
    never_added = Reading(2.0, "ghost", {"battery/temperature": 30.0})
    files = TelemetryFiles(None)
    async with running(path, host, telemetry_files=files) as farm:
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"))
        host.queue.put_nowait([ready("a")])
        host.queue.put_nowait(late)
        host.queue.put_nowait([seen("usb:1-1")])  # what was told before it has been heard
        await until(lambda: "usb:1-1" in farm.state.devices)
        assert farm.live.devices()["a"].reading == late[0]
        await farm.apply(DeviceForgotten(1.0, "a"))
        await farm.detach("a")
        host.queue.put_nowait([*late, never_added])
        host.queue.put_nowait([seen("usb:1-2")])
        await until(lambda: "usb:1-2" in farm.state.devices)
        assert not farm.live.devices()
        assert files.pop("a", "attempt") == []
        assert not files._pieces


async def test_who_looks_on_is_told_of_every_stored_event_and_stops_nothing(path: Path) -> None:
    host = ScriptedHost()
    seen: list[object] = []

    def broken(event: object) -> None:
        raise ValueError("not the farm's fault")

    async with running(path, host) as farm:
        farm.watchers += [broken, seen.append]
        added = DeviceAdded(1.0, "b", "b", "test")
        await farm.apply(added)
        assert added in seen


async def test_who_looks_on_sees_results_whole(path: Path) -> None:
    """The log keeps a result apart from its event; a watcher has nothing but the event."""
    host = ScriptedHost()
    seen: list[object] = []
    async with running(path, host) as farm:
        farm.watchers.append(seen.append)
        await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
        host.queue.put_nowait([ready("a")])
        _, attempt_id, token, _ = await host.dispatched.get()
        host.queue.put_nowait([finished(attempt_id, token, "a")])
        await host.acknowledged.get()
    (told,) = (event for event in seen if isinstance(event, AttemptFinished))
    assert told.result is not None
    assert told.result["result"] == RESULT["result"]


async def test_a_phone_whose_host_is_away_is_refused_in_words(path: Path) -> None:
    hub = ScriptedHost()
    async with running(path, ScriptedHost()) as farm:
        following = await follow(farm, hub)
        await farm.apply(DeviceAdded(1.0, "hub/b", "b", "test", "hub"))
        hub.queue.put_nowait(HostError("it does not answer"))
        await following
        with pytest.raises(HostError, match="mobifarm hosts"):
            await farm.edits("hub/b", ListEdits())


async def test_a_full_store_ends_the_farm_with_one_error(tmp_path: Path) -> None:
    host, store = ScriptedHost(), SqliteStore(tmp_path / "s.sqlite")
    farm = Farm(
        store=store,
        host=host,
        policy=FifoPolicy(),
        settings=LeaseSettings(),
        clock=lambda: 10.0,
        identifier=lambda prefix: prefix,
    )
    running = asyncio.create_task(farm.run())
    async with asyncio.timeout(60):
        await farm.started.wait()
        await farm.apply(DeviceAdded(1.0, "a", "tcp:a", "test"), ready("a"), job(1))
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(300):
            host.queue.put_nowait([DeviceLost(2.0, "a", f"{number} " + "x" * 400), ready("a")])
        with pytest.raises(HostError, match="is full"):
            await running
    store.close()


async def test_no_lease_leaves_before_what_it_follows_from_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_answers = threading.Event()
    disk_answers.set()
    commit = SqliteStore._commit

    def slow_commit(store: SqliteStore, requests: Any) -> None:
        assert disk_answers.wait(60)
        commit(store, requests)

    monkeypatch.setattr(SqliteStore, "_commit", slow_commit)
    path, host = tmp_path / "s.sqlite", ScriptedHost()
    try:
        async with running(path, host) as farm:
            await farm.apply(DeviceAdded(1.0, "a", "tcp:a", "test"), job(1))
            disk_answers.clear()
            host.queue.put_nowait([ready("a")])
            while not farm.state.leases:  # the policy need not wait for the disk
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert host.dispatched.empty()
            with StoreReader(path) as reader:
                assert len(list(reader.events())) == 3  # started, added, submitted
            disk_answers.set()
            await host.dispatched.get()
            with StoreReader(path) as reader:
                kinds = [type(event).__name__ for _, event in reader.events()]
            assert kinds[3:] == ["DeviceReady", "LeaseGranted"]
    finally:
        disk_answers.set()


async def test_what_a_cancelled_caller_asked_for_is_done_all_the_same_and_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_answers = threading.Event()
    disk_answers.set()
    commit = SqliteStore._commit

    def slow_commit(store: SqliteStore, requests: Any) -> None:
        assert disk_answers.wait(60)
        commit(store, requests)

    monkeypatch.setattr(SqliteStore, "_commit", slow_commit)
    host, told = ScriptedHost(), []
    try:
        async with running(path, host) as farm:
            farm.watchers.append(told.append)
            await farm.apply(DeviceAdded(1.0, "a", "a", "test"), job(1))
            host.queue.put_nowait([ready("a")])
            _, attempt_id, _, _ = await host.dispatched.get()
            disk_answers.clear()
            told.clear()
            change = farm.next_change()
            gone = asyncio.create_task(farm.apply(JobCancelled(3.0, "j")))
            await asyncio.sleep(0)  # it waits for the disk now
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            after = asyncio.create_task(farm.apply(DeviceDrained(4.0, "a")))
            await asyncio.sleep(0)
            assert not host.told[1:]  # nothing before the event is on disk
            disk_answers.set()
            await after
            assert told == [JobCancelled(3.0, "j"), DeviceDrained(4.0, "a")]
            await until(lambda: ("cancel", "a", attempt_id) in host.told)
            assert change.is_set()
    finally:
        disk_answers.set()
