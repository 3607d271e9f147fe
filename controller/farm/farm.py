"""The farm's loop: the pure core steps, the log makes it durable, then the commands are carried out.

    reports from hosts ─┐
    requests (API)     ─┼─▶ apply(): step → log on disk → commands → hosts
    timers, policy     ─┘

Everything that changes the farm passes through :meth:`Farm.apply`, one batch at a time, and no command runs
before its event is on disk. A farm that is killed at any point resumes from the log alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from mobifarm.controller.core.check import check
from mobifarm.controller.core.commands import Acknowledge, CancelAttempt, CheckHealth, Command, Dispatch
from mobifarm.controller.core.due import LeaseSettings, due, next_due
from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    ControllerStarted,
    DeviceAdded,
    DeviceLost,
    DeviceReady,
    DeviceState,
    Event,
    LeaseGranted,
    encode,
)
from mobifarm.controller.core.holds import holds
from mobifarm.controller.core.policies.base import Policy
from mobifarm.controller.core.policies.round import Matches
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import replay, step
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import Bug, HostError
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.host.edits import EditsRequest
from mobifarm.controller.host.reports import (
    AttemptProgress,
    DiscoveryNotice,
    PhoneSeen,
    PhoneSettling,
    Reading,
    Report,
    TransferProgress,
)
from mobifarm.controller.provisioning.removal import Removal
from mobifarm.controller.store.protocol import Store
from mobifarm.workloads.passport import passport

logger = logging.getLogger(__name__)

HOST_RETRY_S = 1.0


class HostForgot(HostError):
    """The host's process was started again: it knows no phones until they are attached anew."""


class HostLink(Protocol):
    """How the farm reaches the phones of one host. All methods raise HostError when the host is not there."""

    @property
    def name(self) -> str: ...

    async def attach(self, device_id: str, address: str) -> None: ...

    async def detach(self, device_id: str) -> None: ...

    async def dispatch(
        self, device_id: str, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]
    ) -> None: ...

    async def cancel(self, device_id: str, attempt_id: str) -> None: ...

    async def acknowledge(self, device_id: str, attempt_id: str) -> None: ...

    async def check_health(self, device_id: str, check_id: str, fencing_token: int) -> None: ...

    async def edits(self, device_id: str, request: EditsRequest) -> Mapping[str, Any]:
        """See :func:`mobifarm.controller.host.edits.carry_out`."""
        ...

    async def examine(self, device_id: str) -> list[Finding]: ...

    async def clean(self, address: str, keep_edits: bool) -> Removal: ...

    async def reports(self) -> Sequence[Report]:
        """Wait for reports. Raises HostForgot when the host has forgotten its phones."""
        ...


class Farm:
    """One controller over one store and one host.

    Args:
        identifier: makes a new id with a prefix, e.g. ``attempt-1a2b``; randomness is passed in.
        clock: unix time in seconds.
        paranoid: check the core's invariants after every event (tests and development).
    """

    def __init__(
        self,
        *,
        store: Store,
        host: HostLink,
        policy: Policy,
        settings: LeaseSettings,
        clock: Callable[[], float],
        identifier: Callable[[str], str],
        paranoid: bool = False,
    ) -> None:
        self._store = store
        self._host = host
        self.policy = policy
        self._matches = Matches()
        self._settings = settings
        self._clock = clock
        self._identifier = identifier
        self._paranoid = paranoid
        self._news = asyncio.Event()
        self._change = asyncio.Event()
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self.state: FarmState = replay(store.load())
        self.live = LiveView()
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled: take up where the log ends, then follow reports, timers and the policy."""
        await self.apply(ControllerStarted(self._clock(), self._store.epoch, self.policy.name))
        self.started.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._carry_out())
            tasks.create_task(self._listen())
            tasks.create_task(self._schedule())

    async def apply(self, *events: Event) -> None:
        """Step, make durable, then queue the commands. Returns when the events are on disk.

        Nothing is awaited between looking at the state and stepping it, so what a caller has just decided
        still fits; appends of several callers share one commit.

        Raises:
            Bug: an event does not fit the state; it and those after it are not applied.
        """
        commands: list[Command] = []
        applied: list[Event] = []
        misfit: Bug | None = None
        for event in events:
            complete = self._with_passport(event)
            try:
                self.state, more = step(self.state, complete)
            except Bug as error:
                misfit = error
                break
            applied.append(complete)
            commands += more
            if self._paranoid:
                check(self.state)
        if applied:
            await asyncio.wrap_future(self._store.append(applied))
        for event in applied:
            self._note(event)
        for command in commands:
            self._commands.put_nowait(command)
        self._news.set()
        change, self._change = self._change, asyncio.Event()
        change.set()
        if misfit:
            raise misfit

    def next_change(self) -> asyncio.Event:
        """Set once, when events have been made durable after this call."""
        return self._change

    def _with_passport(self, event: Event) -> Event:
        """Complete a result with what only the controller knows: which phone, in which measurement epoch."""
        if not isinstance(event, AttemptFinished) or event.result is None:
            return event
        device = self.state.devices[event.device_id]
        delivered, attempt = event.result, self.state.attempts.get(event.attempt_id)
        result = {
            "attempt_id": event.attempt_id,
            "device_id": event.device_id,
            "result": delivered["result"],
            "passport": passport(
                identity=device.identity,
                epoch=device.measurement_epoch,
                execution=device.execution or "unknown",
                host=device.host,
                properties=device.properties,
                agent_version=delivered["agent_version"],
                sensors=delivered["sensors"],
                # One look-up by key, on purpose not awaited: reports are stepped in the order they came in.
                payload={} if attempt is None else self._store.payload(attempt.trial_id),
                result=delivered["result"],
            ),
        }
        return replace(event, result=result)

    def _note(self, event: Event) -> None:
        match event:
            case DeviceLost() | DeviceReady():
                self.live.drop(event.device_id)
            case AttemptFinished() | AttemptFailed():
                self.live.finished(event.device_id)

    async def attach(self, device_id: str, address: str) -> None:
        """Have the host keep this phone connected; a host that is away does it when it is back."""
        try:
            await self._host.attach(device_id, address)
        except HostError as error:
            logger.warning("%s", error)

    async def detach(self, device_id: str) -> None:
        self.live.drop(device_id)
        try:
            await self._host.detach(device_id)
        except HostError as error:
            logger.warning("%s", error)

    async def edits(self, device_id: str, request: EditsRequest) -> Mapping[str, Any]:
        """Ask a phone about its kept edits, or change them; nothing of it is the farm's to remember.

        Raises:
            UserError, DeviceError, HostError: nothing was changed.
        """
        return await self._host.edits(device_id, request)

    async def examine(self, device_id: str) -> list[Finding]:
        """Probe what a phone can do. Raises UserError, DeviceError, HostError."""
        return await self._host.examine(device_id)

    async def clean(self, address: str, keep_edits: bool) -> Removal:
        """Take what the farm left off a phone that is detached. Raises DeviceError, HostError."""
        return await self._host.clean(address, keep_edits)

    async def _attach_all(self) -> None:
        for device in list(self.state.devices.values()):
            if device.stage is not DeviceState.RETIRED:
                await self._host.attach(device.device_id, device.address)

    # --- the three loops ------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Turn the host's reports into events; a host that was away begins with every phone lost."""
        attached = False
        while True:
            try:
                if not attached:
                    await self._attach_all()
                    attached = True
                reports = await self._host.reports()
            except HostForgot as error:
                await self._lose_all(str(error))
                attached = False
            except HostError as error:
                logger.warning("%s", error)
                await self._lose_all(str(error))
                attached = False
                await asyncio.sleep(HOST_RETRY_S)
            else:
                await self._take(reports)

    async def _take(self, reports: Sequence[Report]) -> None:
        """Note what is fleeting, apply what is durable, in order and in one commit."""
        durable: list[Event] = []
        seen: list[str] = []
        settling: list[PhoneSettling] = []
        for report in reports:
            match report:
                case PhoneSettling():
                    settling.append(report)
                case AttemptProgress() | TransferProgress() | Reading() | DiscoveryNotice():
                    self.live.note(report)
                    if isinstance(report, DiscoveryNotice) and report.reason:
                        logger.warning("%s on %s: %s", report.source, report.host, report.reason)
                case PhoneSeen():
                    if self._is_welcome(report):
                        seen.append(report.address)
                        durable.append(DeviceAdded(report.at, report.address, report.address, report.source))
                case _ if self._concerns(report) and _is_storable(report):
                    durable.append(report)
        await asyncio.gather(*(self._apply_report(event) for event in durable))
        for news in settling:  # after the loss that it follows, which drops what was heard before
            self.live.note(news)
        for address in seen:
            await self.attach(address, address)

    async def _apply_report(self, event: Event) -> None:
        """Apply one report on its own: what a phone says must never stop the farm or other reports."""
        try:
            await self.apply(event)
        except Bug:
            logger.exception("a report that does not fit was dropped: %r", event)

    def _is_welcome(self, seen: PhoneSeen) -> bool:
        """A forgotten place comes back when its phone is plugged in again, not for being there still."""
        device = self.state.devices.get(seen.address)
        return seen.observed or device is None or device.stage is not DeviceState.RETIRED

    def _concerns(self, event: Event) -> bool:
        """Reports on their way while an operator forgot the phone are of no interest any more."""
        device_id = getattr(event, "device_id", None)
        return device_id is None or device_id in self.state.devices

    async def _lose_all(self, reason: str) -> None:
        connected = [device.device_id for device in self.state.devices.values() if device.connected]
        if connected:
            await self.apply(*(DeviceLost(self._clock(), device_id, reason) for device_id in connected))

    async def _schedule(self) -> None:
        """Expire what is overdue and lease what is free, whenever there is news or a timer is due."""
        while True:
            self._news.clear()
            now = self._clock()
            if expired := due(self.state, now, self._settings):
                await self.apply(*expired)
            await self._grant(now)
            if changes := holds(self.state, now, self._matches):
                await self.apply(*changes)
            later = next_due(self.state, now, self._settings)
            timeout_s = None if later is None else max(0.05, later - self._clock())
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _grant(self, now: float) -> None:
        assignments = self.policy.assign(self.state, now)
        if assignments:
            first_token = self.state.next_fencing_token
            await self.apply(
                *(
                    LeaseGranted(
                        at=now,
                        attempt_id=self._identifier("attempt"),
                        trial_id=assignment.trial_id,
                        device_id=assignment.device_id,
                        fencing_token=first_token + number,
                    )
                    for number, assignment in enumerate(assignments)
                )
            )

    async def _carry_out(self) -> None:
        """Run commands in order. One that is lost with its host is derived again when the phone is back."""
        while True:
            command = await self._commands.get()
            try:
                match command:
                    case Dispatch():
                        payload = await asyncio.to_thread(self._store.payload, command.trial_id)
                        await self._host.dispatch(
                            command.device_id, command.attempt_id, command.fencing_token, payload
                        )
                    case CancelAttempt():
                        await self._host.cancel(command.device_id, command.attempt_id)
                    case Acknowledge():
                        await self._host.acknowledge(command.device_id, command.attempt_id)
                    case CheckHealth():
                        await self._host.check_health(
                            command.device_id, command.check_id, command.fencing_token
                        )
            except HostError as error:
                logger.warning("%s", error)


def _is_storable(event: Event) -> bool:
    """Whether the log can hold what came from a phone: it takes JSON without NaN, in valid UTF-8."""
    try:
        json.dumps(encode(event), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError):
        logger.exception("a report that cannot be stored was dropped: %r", event)
        return False
    return True
