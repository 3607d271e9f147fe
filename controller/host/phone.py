"""One phone from the host's side: keep the link up, follow the attempts that run on it, report what happens.

Not responsible for deciding anything: which attempt runs where, what a lost phone means for its lease and
when an attempt is given up are decisions of the core. Here a shaky cable is turned into truthful events.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import grpc.aio

from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    DeviceLost,
    DeviceReady,
    DeviceState,
    DeviceStateChanged,
    HeldAttempt,
    Identity,
)
from mobifarm.controller.errors import AuthorisationRequired, DeviceError, FarmError, WorkloadError
from mobifarm.controller.host.reports import AttemptProgress, Reading, Report, TransferProgress
from mobifarm.v1 import agent_pb2, agent_pb2_grpc
from mobifarm.workloads.messages import payload_to_run_request, result_to_mapping

logger = logging.getLogger(__name__)

RECONNECT_FIRST_S = 0.25
RECONNECT_LIMIT_S = 2.0  # a plugged phone should be seen at once; a try on a closed port costs nothing
TROUBLE_LIMIT_S = 30.0  # a phone that answers but cannot be set up is left alone for longer and longer
HEALTH_PERIOD_S = 10.0
CALL_DEADLINE_S = 10.0
LINK_LOSS_NOTICE_S = 2.0
BUSY_RETRY_S = 0.5
BUSY_PATIENCE_S = 60.0
ALLOW_ACTION = "unlock the phone, tick 'Always allow from this computer' and tap Allow"


class ConnectedPhone(Protocol):
    """A phone with a running agent, as :mod:`mobifarm.controller.host.connection` makes it."""

    @property
    def stub(self) -> agent_pb2_grpc.AgentServiceAsyncStub: ...

    @property
    def description(self) -> agent_pb2.DescribeResponse: ...

    @property
    def properties(self) -> Mapping[str, str]: ...

    @property
    def serial(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def execution(self) -> str: ...

    async def push_bundle(
        self, folder: Path, bundle_hash: str, progress: Callable[[int, int], None]
    ) -> None: ...

    async def wait_lost(self) -> str:
        """Return the reason once the link is gone."""
        ...

    async def check_health(self, timeout_s: float) -> None: ...

    async def close(self) -> None: ...


class Connect(Protocol):
    """Opens the link, provisions the phone and starts its agent; ``state`` is told each stage on the way."""

    def __call__(
        self, address: str, stage: Callable[[DeviceState], None], transfer: Callable[[str, int, int], None]
    ) -> Awaitable[ConnectedPhone]: ...


class PhoneSession:
    """Keeps one phone connected and follows its attempts until :meth:`stop`."""

    def __init__(
        self,
        device_id: str,
        address: str,
        *,
        host: str,
        connect: Connect,
        bundle_folder: Callable[[str, str], Path],
        emit: Callable[[Report], None],
        clock: Callable[[], float],
    ) -> None:
        self._device_id = device_id
        self._address = address
        self._host = host
        self._connect = connect
        self._bundle_folder = bundle_folder
        self._emit = emit
        self._clock = clock
        self._phone: ConnectedPhone | None = None
        self._bundles: set[str] = set()
        self._bundle_lock = asyncio.Lock()
        self._attempts: dict[str, asyncio.Task[None]] = {}
        self._calls: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._preparing: set[str] = set()  # attempts of which the phone knows nothing yet
        self._last_state: tuple[DeviceState | None, str] = (None, "")
        self._task = asyncio.create_task(self._keep_connected(), name=f"phone {device_id}")

    # --- called by the host ---------------------------------------------------------------------------------

    def dispatch(self, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]) -> None:
        """Start or resume an attempt; without a link the phone's return dispatches it again."""
        task = self._attempts.get(attempt_id)
        if self._phone is None or (task and not task.done()):
            return
        self._attempts[attempt_id] = asyncio.create_task(
            self._follow(self._phone, attempt_id, fencing_token, payload), name=f"attempt {attempt_id}"
        )

    def cancel(self, attempt_id: str) -> None:
        """Stop an attempt: one that has not reached the phone yet ends here, else the phone reports it."""
        if attempt_id in self._preparing:
            self._attempts[attempt_id].cancel()
        self._calls.put_nowait(("Cancel", attempt_id))

    def acknowledge(self, attempt_id: str) -> None:
        """Let the phone drop a result; where the link is gone the attempt is met again later."""
        self._calls.put_nowait(("Acknowledge", attempt_id))

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- the link -------------------------------------------------------------------------------------------

    def _state(self, state: DeviceState, reason: str = "", action: str = "") -> None:
        """Report a state once; the same failure again and again is one event."""
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
            phone, trouble = await self._try_connect(first=failures == 0)
            if phone:
                failures = 0
                await self._while_connected(phone)
            else:
                failures += 1
            limit = TROUBLE_LIMIT_S if trouble else RECONNECT_LIMIT_S
            await asyncio.sleep(min(limit, RECONNECT_FIRST_S * 2 ** min(failures, 10)))

    async def _try_connect(self, first: bool) -> tuple[ConnectedPhone | None, bool]:
        """One try; the second value tells whether a phone that answers could not be set up."""
        answered = False

        def stage(state: DeviceState) -> None:
            nonlocal answered
            answered |= state in (DeviceState.PROVISIONING, DeviceState.CALIBRATING)
            if state is DeviceState.AWAITING_AUTHORISATION:
                self._state(state, "the phone asks whether to allow USB debugging", ALLOW_ACTION)
            elif state is not DeviceState.CONNECTING or first:
                self._state(state)

        try:
            return await self._connect(self._address, stage, self._transfer), False
        except AuthorisationRequired as error:
            self._state(DeviceState.AWAITING_AUTHORISATION, str(error), ALLOW_ACTION)
        except FarmError as error:
            self._state(DeviceState.CONNECTING, str(error))
        except Exception as error:
            logger.exception("connecting %s", self._device_id)
            self._state(DeviceState.CONNECTING, f"unexpected {type(error).__name__}: {error}")
        return None, answered

    async def _while_connected(self, phone: ConnectedPhone) -> None:
        self._phone = phone
        self._bundles.clear()
        self._calls = asyncio.Queue()  # what the last session did not do is derived again from DeviceReady
        self._last_state = (DeviceState.READY, "")
        description = phone.description
        self._emit(
            DeviceReady(
                at=self._clock(),
                device_id=self._device_id,
                host=self._host,
                identity=Identity(self._address, phone.serial, phone.fingerprint),
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
            )
        )
        lost = asyncio.create_task(phone.wait_lost())
        health = asyncio.create_task(self._watch_health(phone))
        calls = asyncio.create_task(self._make_calls(phone))
        try:
            await asyncio.wait({lost, health}, return_when=asyncio.FIRST_COMPLETED)
            reason = lost.result() if lost.done() else health.result()
            self._emit(DeviceLost(at=self._clock(), device_id=self._device_id, reason=reason))
        finally:
            self._phone = None
            tasks = [lost, health, calls, *self._attempts.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._attempts.clear()
            await phone.close()

    async def _make_calls(self, phone: ConnectedPhone) -> None:
        """Make the short calls in order; one that fails is derived again when the phone reconnects."""
        while True:
            method, attempt_id = await self._calls.get()
            try:
                if method == "Cancel":
                    await phone.stub.Cancel(
                        agent_pb2.CancelRequest(attempt_id=attempt_id), timeout=CALL_DEADLINE_S
                    )
                else:
                    await phone.stub.Acknowledge(
                        agent_pb2.AcknowledgeRequest(attempt_id=attempt_id), timeout=CALL_DEADLINE_S
                    )
            except grpc.aio.AioRpcError as error:
                logger.info("%s of %s on %s: %s", method, attempt_id, self._device_id, error.details())

    async def _watch_health(self, phone: ConnectedPhone) -> str:
        """Return a reason when the agent no longer answers although the link looks open."""
        while True:
            await asyncio.sleep(HEALTH_PERIOD_S)
            try:
                await phone.check_health(CALL_DEADLINE_S)
            except DeviceError as error:
                return str(error)

    def _transfer(self, what: str, bytes_done: int, bytes_total: int) -> None:
        self._emit(TransferProgress(self._clock(), self._device_id, what, bytes_done, bytes_total))

    # --- attempts -------------------------------------------------------------------------------------------

    async def _follow(
        self, phone: ConnectedPhone, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]
    ) -> None:
        """Run or resume one attempt and report how it ended; a link that went away is reported elsewhere."""
        try:
            self._preparing.add(attempt_id)
            try:
                await self._ensure_bundle(phone, str(payload["model"]), str(payload["bundle_hash"]))
            except asyncio.CancelledError:
                if self._phone is phone:  # cancelled by the farm, not by a lost link
                    self._failed(attempt_id, fencing_token, "cancelled before it reached the phone")
                raise
            finally:
                self._preparing.discard(attempt_id)
            request = payload_to_run_request(payload, attempt_id, fencing_token)
            await self._run(phone, request)
        except grpc.aio.AioRpcError as error:
            await self._report_failure(phone, attempt_id, fencing_token, error)
        except WorkloadError as error:
            self._refused(phone, attempt_id, fencing_token, str(error))
        except FarmError as error:
            if not await self._link_lost(phone):
                self._failed(attempt_id, fencing_token, str(error))
        except Exception as error:
            logger.exception("attempt %s on %s", attempt_id, self._device_id)
            self._failed(attempt_id, fencing_token, f"unexpected {type(error).__name__}: {error}")

    async def _run(self, phone: ConnectedPhone, request: agent_pb2.RunRequest) -> None:
        patience_until = self._clock() + BUSY_PATIENCE_S
        while True:
            try:
                await self._stream(phone, request)
                return
            except grpc.aio.AioRpcError as error:
                # A discarded attempt may take a moment to stop; it was cancelled before this one was leased.
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED or self._clock() > patience_until:
                    raise
                await asyncio.sleep(BUSY_RETRY_S)

    async def _stream(self, phone: ConnectedPhone, request: agent_pb2.RunRequest) -> None:
        started = False
        async for response in phone.stub.Run(request):
            if not started:
                started = True
                self._emit(AttemptStarted(at=self._clock(), attempt_id=request.attempt_id))
            match response.WhichOneof("payload"):
                case "progress":
                    self._emit(self._progress(request.attempt_id, response.progress))
                case "telemetry":
                    if response.telemetry.samples:
                        newest = response.telemetry.samples[-1]
                        self._emit(Reading(self._clock(), self._device_id, dict(newest.values)))
                case "result":
                    self._finished(phone, request, response.result)
                    return
        raise DeviceError(
            f"{self._device_id}: the agent ended the stream of {request.attempt_id} without a result"
        )

    def _progress(self, attempt_id: str, progress: agent_pb2.EditProgress) -> AttemptProgress:
        return AttemptProgress(
            at=self._clock(),
            device_id=self._device_id,
            attempt_id=attempt_id,
            phase=agent_pb2.EditPhase.Name(progress.phase).removeprefix("EDIT_PHASE_").lower(),
            step=progress.step,
            step_limit=progress.step_limit,
            loss=_known(progress.loss),
            target_probability=_known(progress.target_probability),
            loss_evaluations=progress.loss_evaluations,
        )

    def _finished(
        self, phone: ConnectedPhone, request: agent_pb2.RunRequest, result: agent_pb2.EditResult
    ) -> None:
        if result.status == agent_pb2.EDIT_STATUS_CANCELLED:
            self._failed(request.attempt_id, request.fencing_token, "the attempt was cancelled on the phone")
            self.acknowledge(request.attempt_id)
            return
        self._emit(
            AttemptFinished(
                at=self._clock(),
                attempt_id=request.attempt_id,
                fencing_token=request.fencing_token,
                device_id=self._device_id,
                failed=result.status == agent_pb2.EDIT_STATUS_FAILED,
                result=self._stored(phone, result_to_mapping(result)),
            )
        )

    def _stored(self, phone: ConnectedPhone, result: Mapping[str, Any]) -> dict[str, Any]:
        sensors = [
            {
                "name": sensor.name,
                "source": sensor.source,
                "readable": sensor.readable,
                "unit": sensor.unit,
                "sign": sensor.sign,
                "reason": sensor.reason,
            }
            for sensor in phone.description.sensors
        ]
        return {"result": dict(result), "agent_version": phone.description.agent_version, "sensors": sensors}

    def _failed(self, attempt_id: str, fencing_token: int, reason: str) -> None:
        self._emit(
            AttemptFailed(
                at=self._clock(),
                attempt_id=attempt_id,
                fencing_token=fencing_token,
                device_id=self._device_id,
                reason=reason,
            )
        )

    def _refused(self, phone: ConnectedPhone, attempt_id: str, fencing_token: int, message: str) -> None:
        """The request is refused for what it says: a result, trying it elsewhere would end the same way."""
        self._emit(
            AttemptFinished(
                at=self._clock(),
                attempt_id=attempt_id,
                fencing_token=fencing_token,
                device_id=self._device_id,
                failed=True,
                result=self._stored(phone, {"status": "refused", "message": message}),
            )
        )

    async def _report_failure(
        self, phone: ConnectedPhone, attempt_id: str, fencing_token: int, error: grpc.aio.AioRpcError
    ) -> None:
        message = error.details() or error.code().name
        if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
            self._refused(phone, attempt_id, fencing_token, message)
        elif not await self._link_lost(phone):
            self._failed(attempt_id, fencing_token, f"{error.code().name}: {message}")

    async def _link_lost(self, phone: ConnectedPhone) -> bool:
        """Whether the link is gone. A broken call is often noticed a moment before the broken link."""
        try:
            await asyncio.wait_for(phone.wait_lost(), LINK_LOSS_NOTICE_S)
        except TimeoutError:
            return False
        return True

    async def _ensure_bundle(self, phone: ConnectedPhone, model: str, bundle_hash: str) -> None:
        async with self._bundle_lock:
            if bundle_hash in self._bundles:
                return
            folder = self._bundle_folder(model, bundle_hash)
            await phone.push_bundle(
                folder, bundle_hash, lambda done, total: self._transfer(f"model {model}", done, total)
            )
            await phone.stub.CheckBundle(agent_pb2.CheckBundleRequest(bundle_hash=bundle_hash), timeout=120.0)
            self._bundles.add(bundle_hash)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
