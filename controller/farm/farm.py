"""The farm's loop: the pure core steps, the log makes it durable, then the commands are carried out.

    reports from hosts ─┐
    requests (API)     ─┼─▶ apply(): step → log on disk → commands → hosts
    timers, policy     ─┘

Everything that changes the farm passes through :meth:`Farm.apply`, one batch at a time, and no command runs
before its event is on disk. A farm that is killed at any point resumes from the log alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NoReturn

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
    HostJoined,
    HostLost,
    JobCancelled,
    LeaseExpired,
    LeaseGranted,
)
from mobifarm.controller.core.holds import holds
from mobifarm.controller.core.policies.base import Policy
from mobifarm.controller.core.policies.round import Matches
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import replay, step
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import Bug, HostError
from mobifarm.controller.farm.host_link import Connection, HostForgot, HostLink, Order
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.farm.results import unusable, with_passport, with_samples
from mobifarm.controller.farm.telemetry_files import TelemetryFiles
from mobifarm.controller.host.edits import EditsRequest
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
from mobifarm.controller.provisioning.removal import Removal
from mobifarm.controller.store.projection import Record, record
from mobifarm.controller.store.protocol import Store

logger = logging.getLogger(__name__)

HOST_RETRY_S = 1.0
ORDERS_LIMIT = 50  # per call: the first phones begin while the orders of the next are on their way


class Farm:
    """One controller over one store, its own machine's phones, and the hosts that :meth:`follow` is told of.

    Args:
        host: this machine.
        identifier: makes a new id with a prefix, e.g. ``attempt-1a2b``; randomness is passed in.
        clock: unix time in seconds.
        paranoid: check the core's invariants after every event (tests and development).
        telemetry_files: where raw samples are kept; None keeps none.
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
        telemetry_files: TelemetryFiles | None = None,
    ) -> None:
        self._store = store
        self._here = Connection(host)
        self._joined: dict[str, Connection] = {}  # by the name of the host; only those that are there
        self.policy = policy
        self._matches = Matches()
        self._settings = settings
        self._clock = clock
        self._identifier = identifier
        self._paranoid = paranoid
        self._telemetry_files = telemetry_files or TelemetryFiles(None)
        self._news = asyncio.Event()
        self._payloads: dict[str, Mapping[str, Any]] = {}  # of trials that are under way
        self._change = asyncio.Event()
        self.state: FarmState = replay(store.load())
        self.live = LiveView()
        self.watchers: list[Callable[[Event], None]] = []  # told of every event once it is on disk
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled: take up where the log ends, then follow reports, timers and the policy.

        Raises:
            HostError: the store cannot be written any more; nothing was done that is not in it.
        """
        await self.apply(ControllerStarted(self._clock(), self._store.epoch, self.policy.name))
        self.started.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                for lane in self._here.lanes:
                    tasks.create_task(self._carry_out(self._here.link, lane))
                tasks.create_task(self._listen())
                tasks.create_task(self._schedule())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # when the store fails, several loops say the same

    async def apply(self, *events: Event) -> None:
        """Step, make durable, then queue the commands. Returns when the events are on disk.

        Nothing is awaited between looking at the state and stepping it, so what a caller has just decided
        still fits; appends of several callers share one commit. A caller that is cancelled undoes nothing:
        what it has asked for is made durable and carried out.

        Raises:
            Bug: an event does not fit the state; it and those after it are not applied.
        """
        _, misfit = await self._apply(events)
        if misfit:
            raise misfit

    async def _apply(self, events: Sequence[Event]) -> tuple[int, Bug | None]:
        """How many events were applied, and why the next one does not fit."""
        commands: list[Command] = []
        applied: list[Record] = []
        told: list[Event] = []  # with their results, which the records have left out
        misfit: Bug | None = None
        for event in events:
            try:
                complete = self._with_passport(event)
                ready = record(complete)  # first: what cannot be stored must not be stepped
                self.state, more = step(self.state, ready.event)
            except Bug as error:
                misfit = error
                break
            applied.append(ready)
            told.append(complete)
            commands += more
            if self._paranoid:
                check(self.state)
        # The policy may look at once: its leases stand behind these events in the log, so they wait for them.
        self._news.set()
        if applied:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()

            def follow_up(ended: Future[int]) -> None:
                if not loop.is_closed():  # else the farm was stopped meanwhile
                    loop.call_soon_threadsafe(self._follow_up, ended, told, commands, waiter)

            self._store.append_records(applied).add_done_callback(follow_up)
            await waiter
        return len(applied), misfit

    def _follow_up(
        self,
        ended: Future[int],
        told: Sequence[Event],
        commands: Sequence[Command],
        waiter: asyncio.Future[None],
    ) -> None:
        """Do what follows from events that are on disk, also where nobody waits for it any more."""
        error = ended.exception()
        if error is None:
            for event in told:
                self._note(event)
            for command in commands:
                if connection := self._connection(command.device_id):
                    connection.put(command)
            change, self._change = self._change, asyncio.Event()
            change.set()
        if waiter.cancelled():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    def next_change(self) -> asyncio.Event:
        """Set once, when events have been made durable after this call."""
        return self._change

    def _with_passport(self, event: Event) -> Event:
        """Complete a result with what only the controller knows. Raises Bug, see :mod:`.results`."""
        if not isinstance(event, AttemptFinished) or event.result is None:
            return event
        attempt = self.state.attempts.get(event.attempt_id)
        payload: Mapping[str, Any] = {}
        if attempt is not None:
            # One look-up by key, on purpose not awaited: reports are stepped in the order they came in.
            kept = self._payloads.pop(attempt.trial_id, None)
            payload = self._store.payload(attempt.trial_id) if kept is None else kept
        return with_passport(event, self.state.devices[event.device_id], payload)

    def _note(self, event: Event) -> None:
        for watcher in self.watchers:
            try:
                watcher(event)
            except Exception:  # whoever looks on must not stop the farm
                logger.exception("a watcher of events failed on %r", event)
        match event:
            case DeviceLost() | DeviceReady():
                self.live.drop(event.device_id)
                self._telemetry_files.drop(event.device_id)
            case AttemptFinished():
                self.live.finished(event.device_id)
            case AttemptFailed():
                self.live.finished(event.device_id)
                self._payloads.clear()  # rare, and what is missing is read again
            case LeaseExpired() | JobCancelled():
                self._payloads.clear()

    def _connection(self, device_id: str) -> Connection | None:
        """The way to a phone; None while its host is away."""
        device = self.state.devices.get(device_id)
        if device is None or not device.joined_host:
            return self._here
        return self._joined.get(device.joined_host)

    def _link(self, device_id: str) -> HostLink:
        connection = self._connection(device_id)
        if connection is None:
            raise HostError(f"the host of the phone {device_id} is away: `mobifarm hosts` says why")
        return connection.link

    async def attach(self, device_id: str, address: str) -> None:
        """Have the host keep this phone connected; a host that is away does it when it is back."""
        try:
            source = self.state.devices[device_id].source
            await self._link(device_id).attach(device_id, address, source)
        except HostError as error:
            logger.warning("%s", error)

    async def detach(self, device_id: str) -> None:
        self.live.drop(device_id)
        self._telemetry_files.drop(device_id)
        try:
            await self._link(device_id).detach(device_id)
        except HostError as error:
            logger.warning("%s", error)

    async def edits(self, device_id: str, request: EditsRequest) -> Mapping[str, Any]:
        """Ask a phone about its kept edits, or change them; nothing of it is the farm's to remember.

        Raises:
            UserError, DeviceError, HostError: nothing was changed.
        """
        return await self._link(device_id).edits(device_id, request)

    async def examine(self, device_id: str) -> list[Finding]:
        """Probe what a phone can do. Raises UserError, DeviceError, HostError."""
        return await self._link(device_id).examine(device_id)

    async def identify(self, device_id: str) -> None:
        """Show a person which phone it is. Raises UserError, DeviceError, HostError."""
        await self._link(device_id).identify(device_id)

    async def clean(self, device_id: str, keep_edits: bool) -> Removal:
        """Take what the farm left off a phone that is detached. Raises DeviceError, HostError."""
        return await self._link(device_id).clean(self.state.devices[device_id].address, keep_edits)

    async def _attach_all(self, link: HostLink, joined_host: str = "") -> None:
        for device in list(self.state.devices.values()):
            if device.joined_host == joined_host and device.stage is not DeviceState.RETIRED:
                await link.attach(device.device_id, device.address, device.source)

    async def follow(self, link: HostLink, joined: HostJoined) -> None:
        """Follow a host that joins until nothing is heard of it any more, which ends this call.

        Raises:
            HostError: it does not answer at all; nothing has changed.
        """
        await link.begin()
        connection = Connection(link)
        self._joined[joined.host] = connection
        tasks: list[asyncio.Task[NoReturn]] = []
        try:
            await self.apply(joined)
            tasks = [
                *(asyncio.create_task(self._carry_out(link, lane)) for lane in connection.lanes),
                asyncio.create_task(self._listen_to(link, joined.host)),
                asyncio.create_task(_until_it_leaves(connection)),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            del self._joined[joined.host]
        error = next(error for task, error in zip(tasks, ended, strict=True) if task in done)
        expected = isinstance(error, HostError)
        logger.warning("the host %s is lost: %s", joined.host, error, exc_info=None if expected else error)
        reason = str(error) if expected else f"unexpected {type(error).__name__}: {error}"
        await self.apply(HostLost(self._clock(), joined.host, reason))

    def dismiss(self, joined_host: str) -> None:
        """The host has said that it leaves: it is lost at once, before its silence is noticed."""
        if connection := self._joined.get(joined_host):
            connection.leaves.set()

    async def _listen_to(self, link: HostLink, joined_host: str) -> NoReturn:
        await self._attach_all(link, joined_host)
        while True:
            await self._take(await link.reports(), joined_host)

    # --- the three loops ------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Turn this machine's reports into events; a host that was away begins with every phone lost."""
        attached = False
        while True:
            try:
                if not attached:
                    await self._here.link.begin()
                    await self._attach_all(self._here.link)
                    attached = True
                reports = await self._here.link.reports()
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

    async def _take(self, reports: Sequence[Report], joined_host: str = "") -> None:
        """Note what is fleeting, apply what is durable, in order and in one commit."""
        durable: list[Event] = []
        pieces: dict[str, list[bytes]] = {}  # of the attempts that end here
        seen: list[tuple[str, str]] = []
        settling: list[PhoneSettling] = []
        for report in reports:
            match report:
                case PhoneSettling():
                    settling.append(report)
                case AttemptProgress() | TransferProgress() | Reading():
                    if self._is_ours(report.device_id):
                        self.live.note(report)
                case DiscoveryNotice():
                    self.live.note(report)
                    if report.reason:
                        logger.warning("%s on %s: %s", report.source, report.host, report.reason)
                case SamplesPiece():
                    if self._is_ours(report.device_id):
                        self._telemetry_files.take(report)
                case PhoneSeen():
                    device_id = f"{joined_host}/{report.address}" if joined_host else report.address
                    if self._is_welcome(device_id, report):
                        seen.append((device_id, report.address))
                        durable.append(
                            DeviceAdded(report.at, device_id, report.address, report.source, joined_host)
                        )
                case _ if self._concerns(report):
                    durable.append(report)
                    if isinstance(report, AttemptFinished):
                        pieces[report.attempt_id] = self._telemetry_files.pop(
                            report.device_id, report.attempt_id
                        )
        durable = await with_samples(durable, pieces, self.state, self._telemetry_files)
        while durable:
            applied, misfit = await self._apply(durable)
            rest = durable[applied + 1 :]
            if misfit is not None:  # what a phone says must never stop the farm or other reports
                refused = durable[applied]
                logger.error("a report that does not fit was dropped: %r", refused, exc_info=misfit)
                if isinstance(refused, AttemptFinished):  # else its trial would wait for the lease's end
                    rest.insert(0, unusable(refused, misfit))
            durable = rest
        for news in settling:  # after the loss that it follows, which drops what was heard before
            if self._is_ours(news.device_id):
                self.live.note(news)
        for device_id, address in seen:
            await self.attach(device_id, address)

    def _is_welcome(self, device_id: str, seen: PhoneSeen) -> bool:
        """A forgotten place comes back when its phone is plugged in again, not for being there still."""
        device = self.state.devices.get(device_id)
        return seen.observed or device is None or device.stage is not DeviceState.RETIRED

    def _is_ours(self, device_id: str) -> bool:
        """What is on its way while an operator forgets a phone must not be shown for ever."""
        device = self.state.devices.get(device_id)
        return device is not None and device.stage is not DeviceState.RETIRED

    def _concerns(self, event: Event) -> bool:
        """Reports on their way while an operator forgot the phone are of no interest any more."""
        device_id = getattr(event, "device_id", None)
        return device_id is None or device_id in self.state.devices

    async def _lose_all(self, reason: str) -> None:
        connected = [
            device.device_id
            for device in self.state.devices.values()
            if device.connected and not device.joined_host
        ]
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

    async def _carry_out(self, link: HostLink, lane: asyncio.Queue[Command]) -> NoReturn:
        """Run commands in order. One that is lost with its host is derived again when the phone is back."""
        while True:
            commands = [await lane.get()]
            while len(commands) < ORDERS_LIMIT and not lane.empty():
                commands.append(lane.get_nowait())
            dispatched = [command.trial_id for command in commands if isinstance(command, Dispatch)]
            if dispatched:
                self._payloads.update(await asyncio.to_thread(self._store.payloads, dispatched))
            try:
                await link.carry_out([self._order(command) for command in commands])
            except HostError as error:
                logger.warning("%s", error)

    def _order(self, command: Command) -> Order:
        match command:
            case Dispatch(device_id, attempt_id, trial_id, fencing_token):
                payload = self._payloads.get(trial_id) or self._store.payload(trial_id)
                return "dispatch", device_id, attempt_id, fencing_token, payload
            case CancelAttempt(device_id, attempt_id):
                return "cancel", device_id, attempt_id
            case Acknowledge(device_id, attempt_id):
                return "acknowledge", device_id, attempt_id
            case CheckHealth(device_id, check_id, fencing_token):
                return "check_health", device_id, check_id, fencing_token


async def _until_it_leaves(connection: Connection) -> NoReturn:
    await connection.leaves.wait()
    raise HostError("its `mobifarm join` was ended")
