"""One phone from the host's side: keep the link up, follow the attempts that run on it, report what happens.

Not responsible for deciding anything: which attempt runs where, what a lost phone means for its lease and
when an attempt is given up are decisions of the core. Here a shaky cable is turned into truthful events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mobifarm.controller.core.events import (
    DeviceLost,
    DeviceQuarantined,
    DeviceReady,
    DeviceState,
    DeviceStateChanged,
    HealthChecked,
    HeldAttempt,
    Identity,
    RecoveryStep,
)
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import (
    AuthorisationRequired,
    DeviceError,
    FarmError,
    LinkLost,
    Silent,
)
from mobifarm.controller.host.attempts import Attempts, BundleFolder, ReachablePhone
from mobifarm.controller.host.clock import ClockWatch
from mobifarm.controller.host.conditions import ConditionsWatch, SensorNames
from mobifarm.controller.host.edits import EditsRequest, carry_out
from mobifarm.controller.host.health import CheckablePhone, check_phone
from mobifarm.controller.host.recovery import Ladder, LadderSettings, Rung, Trouble
from mobifarm.controller.host.reports import Report, TransferProgress
from mobifarm.v1 import agent_pb2

logger = logging.getLogger(__name__)

RECONNECT_FIRST_S = 0.25
RECONNECT_LIMIT_S = 2.0  # a plugged phone should be seen at once; a try on a closed port costs nothing
TROUBLE_LIMIT_S = 30.0  # a phone that answers but cannot be set up is left alone for longer and longer
UNPLUGGED_RETRY_S = 30.0  # discovery tells when it is back; a try now and then is for when it errs
HEALTH_PERIOD_S = 10.0
HEALTH_DEADLINE_S = 10.0
ALLOW_ACTION = "unlock the phone, tick 'Always allow from this computer' and tap Allow"


class ConnectedPhone(ReachablePhone, CheckablePhone, Protocol):
    """A phone with a running agent, as :mod:`mobifarm.controller.host.connection` makes it."""

    @property
    def properties(self) -> Mapping[str, str]: ...

    @property
    def serial(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def execution(self) -> str: ...

    async def examine(self) -> list[Finding]:
        """Probe what it can do. Raises FarmError."""
        ...

    async def identify(self) -> None:
        """Show a person which one it is. Raises FarmError."""
        ...

    async def close(self) -> None: ...


class Connect(Protocol):
    """Opens the link, provisions the phone and starts its agent; ``state`` is told each stage on the way."""

    def __call__(
        self, address: str, stage: Callable[[DeviceState], None], transfer: Callable[[str, int, int], None]
    ) -> Awaitable[ConnectedPhone]: ...


class Mend(Protocol):
    """Carries out a rung of the ladder on the phone; connecting again follows."""

    @property
    def allowed(self) -> frozenset[Rung]: ...

    def __call__(self, rung: Rung) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no session. ``trouble`` is None where nothing that is done to the phone would help."""

    reason: str
    trouble: Trouble | None
    answered: bool = False  # it was there, so that it may be left alone for longer


class PhoneSession:
    """Keeps one phone connected and follows its attempts until :meth:`stop`."""

    def __init__(
        self,
        device_id: str,
        address: str,
        *,
        host: str,
        connect: Connect,
        bundle_folder: BundleFolder,
        emit: Callable[[Report], None],
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        mend: Mend | None = None,
        ladder: LadderSettings | None = None,
    ) -> None:
        self._device_id = device_id
        self._address = address
        self._host = host
        self._connect = connect
        self._bundle_folder = bundle_folder
        self._emit = emit
        self._clock = clock
        self._monotonic = monotonic
        self._seen_at: float | None = None  # when it was plugged in, until it is ready
        self._unplugged = False  # as discovery says; False too where nothing watches this phone
        # None while there is no link
        self._end_link: Callable[[str, Trouble | None], None] | None = None
        self._moved = asyncio.Event()  # plugged in or unplugged: no time to pause
        self._mend = mend
        self._ladder = Ladder(mend.allowed if mend else frozenset(), ladder)
        self._attempts: Attempts | None = None  # None while there is no link, as is the phone
        self._phone: ConnectedPhone | None = None
        self._identity: Identity | None = None  # of the phone that was there last, with its sensors
        self._sensor_names = SensorNames()
        self._check: asyncio.Task[None] | None = None
        self._last_state: tuple[DeviceState | None, str] = (None, "")
        self._task = asyncio.create_task(self._keep_connected(), name=f"phone {device_id}")

    # --- called by the host ---------------------------------------------------------------------------------

    def dispatch(self, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]) -> None:
        """Start or resume an attempt; without a link the phone's return dispatches it again."""
        if self._attempts:
            self._attempts.dispatch(attempt_id, fencing_token, payload)

    def cancel(self, attempt_id: str) -> None:
        """Stop an attempt; without a link it is met again when the phone returns."""
        if self._attempts:
            self._attempts.cancel(attempt_id)

    def acknowledge(self, attempt_id: str) -> None:
        """Let the phone drop a result; without a link it is met again when the phone returns."""
        if self._attempts:
            self._attempts.acknowledge(attempt_id)

    async def edits(self, request: EditsRequest) -> Mapping[str, Any]:
        """See :func:`mobifarm.controller.host.edits.carry_out`. Raises DeviceError without a link, too."""
        return await carry_out(self._device_id, self.phone.stub, request)

    @property
    def phone(self) -> ConnectedPhone:
        """The phone while there is a session. Raises DeviceError without one."""
        if self._phone is None:
            raise DeviceError(f"the phone {self._device_id} is away: plug it in and try again")
        return self._phone

    def check_health(self, check_id: str, fencing_token: int) -> None:
        """Have the phone do a known edit and report how it went; without a link nothing is reported."""
        if self._phone and (self._check is None or self._check.done()):
            self._check = asyncio.create_task(
                self._check_health(self._phone, check_id, fencing_token), name=f"check {self._device_id}"
            )

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- called by the host, from what discovery saw ----------------------------------------------------

    def plugged(self, seen_at: float) -> None:
        """The phone was plugged in at this monotonic time: connect at once."""
        if self._end_link is None:
            self._seen_at, self._unplugged = seen_at, False
            self._moved.set()

    def unplugged(self, reason: str) -> None:
        """The phone is not there: end the session now, and wait until it is plugged in."""
        self._seen_at, self._unplugged = None, True
        end, self._end_link = self._end_link, None
        if end:
            end(reason, None)
        elif self._last_state != (DeviceState.LOST, reason):
            self._emit(DeviceLost(at=self._clock(), device_id=self._device_id, reason=reason))
        self._last_state = (DeviceState.LOST, reason)

    def settling(self, reason: str, action: str) -> None:
        """The phone goes in and out: it is left alone until discovery says more."""
        self._state(DeviceState.DISCOVERED, reason, action)

    # --- the link -------------------------------------------------------------------------------------------

    def _state(self, state: DeviceState, reason: str = "", action: str = "") -> None:
        """Report a state once; the same failure again and again is one event, an empty place none."""
        if self._unplugged and state is DeviceState.CONNECTING:
            return
        if (state, reason) != self._last_state:
            self._last_state = (state, reason)
            self._emit(
                DeviceStateChanged(
                    at=self._clock(), device_id=self._device_id, state=state, reason=reason, action=action
                )
            )

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            outcome = await self._try_connect(first=failures == 0 and not self._ladder.in_trouble)
            if isinstance(outcome, Failure):
                failures += 1
                failure = outcome
            else:
                failures = 0
                self._ladder.well(self._clock())
                failure = await self._while_connected(outcome)
            if failure.trouble is None:
                self._ladder.away(self._clock())
                limit = TROUBLE_LIMIT_S if failure.answered else RECONNECT_LIMIT_S
                await self._pause(min(limit, RECONNECT_FIRST_S * 2 ** min(failures, 10)))
            else:
                await self._recover(failure.trouble, failure.reason)

    async def _pause(self, duration_s: float) -> None:
        """Wait before the next try; a phone that is plugged in ends the wait."""
        if self._unplugged:
            duration_s = UNPLUGGED_RETRY_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self._moved.wait()
        self._moved.clear()

    async def _recover(self, trouble: Trouble, reason: str) -> None:
        """Take the next step of the ladder; connecting again follows."""
        was_at_its_end = self._ladder.at_its_end
        step = self._ladder.trouble(trouble, self._clock())
        await self._pause(step.wait_s)
        if self._unplugged:
            return
        if step.rung is Rung.QUARANTINE:
            self._emit(
                DeviceQuarantined(
                    self._clock(),
                    self._device_id,
                    f"nothing that the farm may do brought it back: {reason}",
                    "Look at the phone and its cable; it is released when it passes a health check.",
                )
            )
            return
        if not was_at_its_end:  # later ones would only fill the log
            self._emit(RecoveryStep(self._clock(), self._device_id, step.rung.word, step.number, reason))
        if self._mend and step.rung is not Rung.RECONNECT:
            try:
                await self._mend(step.rung)
            except FarmError as error:
                logger.warning("%s: %s did not work: %s", self._device_id, step.rung.word, error)
            except Exception:
                logger.exception("%s: %s", self._device_id, step.rung.word)

    async def _try_connect(self, first: bool) -> ConnectedPhone | Failure:
        answered = False

        def stage(state: DeviceState) -> None:
            nonlocal answered
            answered |= state in (DeviceState.PROVISIONING, DeviceState.CALIBRATING)
            if state is DeviceState.AWAITING_AUTHORISATION:
                self._state(state, "the phone asks whether to allow USB debugging", ALLOW_ACTION)
            elif state is not DeviceState.CONNECTING or first:
                self._state(state)

        try:
            return await self._connect(self._address, stage, self._transfer)
        except AuthorisationRequired as error:
            self._state(DeviceState.AWAITING_AUTHORISATION, str(error), ALLOW_ACTION)
            return Failure(str(error), None)
        except Silent as error:
            self._state(DeviceState.CONNECTING, str(error))
            return Failure(str(error), Trouble.SILENT)
        except FarmError as error:
            self._state(DeviceState.CONNECTING, str(error), error.action)
            # Else nobody is there, the cable was pulled, or it is a person's move.
            blame = answered and isinstance(error, DeviceError) and not isinstance(error, LinkLost)
            return Failure(str(error), Trouble.SETUP if blame else None, answered)
        except Exception as error:
            logger.exception("connecting %s", self._device_id)
            reason = f"unexpected {type(error).__name__}: {error}"
            self._state(DeviceState.CONNECTING, reason)
            return Failure(reason, None, answered)

    async def _while_connected(self, phone: ConnectedPhone) -> Failure:
        """One session: from ready until the link or the agent is gone."""
        ended: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()

        def end(reason: str, trouble: Trouble | None = Trouble.AGENT) -> None:
            if not ended.done():
                ended.set_result(Failure(reason, trouble))
                self._emit(DeviceLost(at=self._clock(), device_id=self._device_id, reason=reason))

        identity = Identity(self._address, phone.serial, phone.fingerprint)
        if identity != self._identity:
            self._identity, self._sensor_names = identity, SensorNames()
        conditions = ConditionsWatch(self._device_id, phone.stub, self._emit, self._clock, self._sensor_names)
        clock = ClockWatch(self._device_id, phone.stub, self._clock, self._monotonic)
        self._attempts = Attempts(
            self._device_id,
            phone,
            bundle_folder=self._bundle_folder,
            transfer=self._transfer,
            unreachable=end,
            emit=conditions.emit,
            clock=self._clock,
            clock_offset=lambda: clock.offset,
        )
        self._unplugged = False
        ready_after_s = None if self._seen_at is None else self._monotonic() - self._seen_at
        self._seen_at = None
        self._phone, self._end_link = phone, end
        self._last_state = (DeviceState.READY, "")
        description = phone.description
        self._emit(
            DeviceReady(
                at=self._clock(),
                device_id=self._device_id,
                host=self._host,
                identity=identity,
                properties=dict(phone.properties),
                execution=phone.execution,
                held_attempts=tuple(
                    HeldAttempt(
                        held.attempt_id,
                        held.fencing_token,
                        "finished" if held.state == agent_pb2.ATTEMPT_STATE_FINISHED else "running",
                    )
                    for held in description.attempts
                ),
                agent_version=description.agent_version,
                fencing_token=description.fencing_token,
                methods=tuple(description.methods),
                ready_after_s=ready_after_s,
                memory_total_bytes=description.memory_total_bytes,
                cpu_count=description.cpu_count,
                agent_session=description.session_id,
            )
        )
        watchers = [
            asyncio.create_task(self._watch_link(phone, end)),
            asyncio.create_task(self._watch_health(phone, end)),
            asyncio.create_task(conditions.watch()),
            asyncio.create_task(clock.watch()),
        ]
        try:
            return await ended
        finally:
            attempts, self._attempts, self._phone, self._end_link = self._attempts, None, None, None
            await attempts.close()
            tasks = [*watchers, *([self._check] if self._check else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await phone.close()

    async def _check_health(self, phone: ConnectedPhone, check_id: str, fencing_token: int) -> None:
        checkup = await check_phone(phone, check_id, fencing_token)
        self._emit(HealthChecked(self._clock(), self._device_id, check_id, checkup.passed, checkup.reason))
        if checkup.agent_gone and self._end_link:
            self._end_link(f"the agent does not answer: {checkup.reason}", Trouble.AGENT)

    async def _watch_link(self, phone: ConnectedPhone, end: Callable[[str, Trouble | None], None]) -> None:
        end(await phone.wait_lost(), None)

    async def _watch_health(self, phone: ConnectedPhone, end: Callable[[str], None]) -> None:
        """Notice an agent that no longer answers although the link looks open."""
        while True:
            await asyncio.sleep(HEALTH_PERIOD_S)
            try:
                await phone.check_health(HEALTH_DEADLINE_S)
            except DeviceError as error:
                end(str(error))

    def _transfer(self, what: str, bytes_done: int, bytes_total: int) -> None:
        self._emit(TransferProgress(self._clock(), self._device_id, what, bytes_done, bytes_total))
