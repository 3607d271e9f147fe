"""The attempts of one session with a phone: run or resume them, and report how they end.

A session is one unbroken link. When it breaks, everything here ends without a word: the attempts go on on the
phone and are met again in the next session.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc.aio

from mobifarm.controller.core.events import AttemptFailed, AttemptFinished, AttemptStarted
from mobifarm.controller.errors import DeviceError, FarmError, WorkloadError
from mobifarm.controller.host.clock import ClockOffset
from mobifarm.controller.host.conditions import reading_of
from mobifarm.controller.host.reports import AttemptProgress, Report, SamplesPiece
from mobifarm.v1 import agent_pb2, agent_pb2_grpc
from mobifarm.workloads.messages import payload_to_run_request, result_to_mapping
from mobifarm.workloads.samples import BYTES_LIMIT, SAMPLES_LIMIT, compress, pack, phase_name

logger = logging.getLogger(__name__)

CALL_DEADLINE_S = 10.0
CHECK_BUNDLE_DEADLINE_S = 120.0  # the phone hashes every file
LINK_LOSS_NOTICE_S = 2.0
BUSY_RETRY_S = 0.5
BUSY_PATIENCE_S = 60.0
CANCEL_RETRY_S = 0.5
BATCHES_LIMIT = 10_000  # of one attempt; an agent keeps 3,600, an hour at ten samples a second


class ReachablePhone(Protocol):
    """What running attempts needs of a connected phone."""

    @property
    def stub(self) -> agent_pb2_grpc.AgentServiceAsyncStub: ...

    @property
    def description(self) -> agent_pb2.DescribeResponse: ...

    async def push_bundle(
        self, folder: Path, bundle_hash: str, progress: Callable[[int, int], None]
    ) -> Sequence[str]:
        """Have the bundle there; ``progress`` is called on this loop. Raises FarmError.

        Returns:
            Hashes of the bundles that had to make room for it.
        """
        ...

    async def wait_lost(self) -> str:
        """Return the reason once the link is gone."""
        ...


class BundleFolder(Protocol):
    """Finds or fetches a model bundle, as :class:`.bundles.Bundles` does. Raises FarmError."""

    def __call__(
        self, model: str, bundle_hash: str, progress: Callable[[int, int], None], /
    ) -> Awaitable[Path]: ...


class Attempts:
    """Follows the attempts on one phone until :meth:`close`.

    ``unreachable`` is told when the agent is gone although the link is up; the session then ends.
    """

    def __init__(
        self,
        device_id: str,
        phone: ReachablePhone,
        *,
        bundle_folder: BundleFolder,
        transfer: Callable[[str, int, int], None],
        unreachable: Callable[[str], None],
        emit: Callable[[Report], None],
        clock: Callable[[], float],
        clock_offset: Callable[[], ClockOffset | None],
    ) -> None:
        self._clock_offset = clock_offset
        self._device_id = device_id
        self._phone = phone
        self._bundle_folder = bundle_folder
        self._transfer = transfer
        self._unreachable = unreachable
        self._emit = emit
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # The attempts of which the phone knows nothing yet, and the hash of the bundle that each waits for.
        self._preparing: dict[str, str] = {}
        self._cancelled: set[str] = set()  # of the attempts that are followed
        self._bundles: dict[str, asyncio.Task[None]] = {}  # on their way, and those that are there
        self._push_lock = asyncio.Lock()
        self._closing = False
        self._calls: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._caller = asyncio.create_task(self._make_calls(), name=f"calls to {device_id}")

    def dispatch(self, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]) -> None:
        """Start an attempt or attach to it; one that is followed already goes on as it is."""
        task = self._tasks.get(attempt_id)
        if task is None or task.done():
            following = asyncio.create_task(
                self._follow(attempt_id, fencing_token, payload), name=f"attempt {attempt_id}"
            )
            self._tasks[attempt_id] = following
            following.add_done_callback(lambda ended: self._forget(attempt_id, ended))

    def _forget(self, attempt_id: str, ended: asyncio.Task[None]) -> None:
        if self._tasks.get(attempt_id) is ended:
            del self._tasks[attempt_id]
            self._cancelled.discard(attempt_id)

    def cancel(self, attempt_id: str) -> None:
        """Stop an attempt: one that has not reached the phone yet ends here, else the phone reports it.

        The phone is told in any case: it may hold the attempt from an earlier session.
        """
        if attempt_id in self._tasks:
            self._cancelled.add(attempt_id)
        if attempt_id in self._preparing:
            self._tasks[attempt_id].cancel()
        self._calls.put_nowait(("Cancel", attempt_id))

    def acknowledge(self, attempt_id: str) -> None:
        """Let the phone drop a result."""
        self._calls.put_nowait(("Acknowledge", attempt_id))

    async def close(self) -> None:
        """Follow no longer; nothing is reported of it."""
        self._closing = True
        tasks = [self._caller, *self._tasks.values(), *self._bundles.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make_calls(self) -> None:
        """Make the short calls in order; one that fails is derived again when the phone reconnects.

        A Cancel that fails is repeated for as long as its attempt is followed: the phone may not hold the
        attempt yet, and would do all of it.
        """
        stub = self._phone.stub
        while True:
            method, attempt_id = await self._calls.get()
            try:
                if method == "Cancel":
                    await stub.Cancel(agent_pb2.CancelRequest(attempt_id=attempt_id), timeout=CALL_DEADLINE_S)
                else:
                    await stub.Acknowledge(
                        agent_pb2.AcknowledgeRequest(attempt_id=attempt_id), timeout=CALL_DEADLINE_S
                    )
            except grpc.aio.AioRpcError as error:
                logger.info("%s of %s on %s: %s", method, attempt_id, self._device_id, error.details())
                if method == "Cancel" and attempt_id in self._cancelled:
                    asyncio.get_running_loop().call_later(
                        CANCEL_RETRY_S, self._calls.put_nowait, (method, attempt_id)
                    )

    async def _follow(self, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]) -> None:
        """Run or resume one attempt and report how it ended; a link that went away is reported elsewhere."""
        try:
            if attempt_id not in self._cancelled:
                await self._prepare(attempt_id, str(payload["model"]), str(payload["bundle_hash"]))
            await self._run(payload_to_run_request(payload, attempt_id, fencing_token))
        except grpc.aio.AioRpcError as error:
            await self._report_failure(attempt_id, fencing_token, error)
        except WorkloadError as error:
            self._refused(attempt_id, fencing_token, str(error))
        except FarmError as error:
            if not await self._link_lost():
                self._failed(attempt_id, fencing_token, str(error))
        except Exception as error:
            logger.exception("attempt %s on %s", attempt_id, self._device_id)
            self._failed(attempt_id, fencing_token, f"unexpected {type(error).__name__}: {error}")

    async def _prepare(self, attempt_id: str, model: str, bundle_hash: str) -> None:
        """Have the bundle on the phone. Returns early where the attempt is cancelled."""
        self._preparing[attempt_id] = bundle_hash
        try:
            await self._ensure_bundle(model, bundle_hash)
        except asyncio.CancelledError:
            if self._closing or attempt_id not in self._cancelled:
                raise
        finally:
            del self._preparing[attempt_id]

    async def _run(self, request: agent_pb2.RunRequest) -> None:
        patience_until = self._clock() + BUSY_PATIENCE_S
        while request.attempt_id not in self._cancelled:
            try:
                await self._stream(request)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DATA_LOSS):
                    # A health check removes a damaged bundle: the next attempt has to look for it again.
                    self._forget_bundle(request.bundle_hash)
                # A discarded attempt may take a moment to stop; it was cancelled before this one was leased.
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED or self._clock() > patience_until:
                    raise
                await asyncio.sleep(BUSY_RETRY_S)
        self._failed(request.attempt_id, request.fencing_token, "cancelled before it reached the phone")

    async def _stream(self, request: agent_pb2.RunRequest) -> None:
        started = False
        batches: list[bytes] = []
        samples = size = 0
        async for response in self._phone.stub.Run(request):
            if not started:
                started = True
                self._emit(AttemptStarted(at=self._clock(), attempt_id=request.attempt_id))
            match response.WhichOneof("payload"):
                case "progress":
                    self._emit(self._progress(request.attempt_id, response.progress))
                case "telemetry":
                    samples += len(response.telemetry.samples)
                    size += response.telemetry.ByteSize()
                    if len(batches) < BATCHES_LIMIT and samples <= SAMPLES_LIMIT and size <= BYTES_LIMIT:
                        batches.append(compress(response.telemetry))
                    reading = reading_of(self._clock(), self._device_id, response.telemetry)
                    if reading is not None:
                        self._emit(reading)
                case "result":
                    self._finished(request, response.result, batches)
                    return
        raise DeviceError(
            f"{self._device_id}: the agent ended the stream of {request.attempt_id} without a result"
        )

    def _progress(self, attempt_id: str, progress: agent_pb2.EditProgress) -> AttemptProgress:
        return AttemptProgress(
            at=self._clock(),
            device_id=self._device_id,
            attempt_id=attempt_id,
            phase=phase_name(progress.phase),
            step=progress.step,
            step_limit=progress.step_limit,
            loss=_known(progress.loss),
            target_probability=_known(progress.target_probability),
            loss_evaluations=progress.loss_evaluations,
        )

    def _finished(
        self,
        request: agent_pb2.RunRequest,
        result: agent_pb2.EditResult,
        batches: Sequence[bytes],
    ) -> None:
        if result.status == agent_pb2.EDIT_STATUS_CANCELLED:
            self._failed(
                request.attempt_id,
                request.fencing_token,
                "the attempt was cancelled on the phone",
                base_proven=_base_proven(result),
            )
            self.acknowledge(request.attempt_id)
            return
        pieces = pack(batches)
        for number, piece in enumerate(pieces):
            self._emit(
                SamplesPiece(self._clock(), self._device_id, request.attempt_id, number, len(pieces), piece)
            )
        self._emit(
            AttemptFinished(
                at=self._clock(),
                attempt_id=request.attempt_id,
                fencing_token=request.fencing_token,
                device_id=self._device_id,
                failed=result.status == agent_pb2.EDIT_STATUS_FAILED,
                result=self._stored(result_to_mapping(result)),
                base_proven=_base_proven(result),
            )
        )

    def _stored(self, result: Mapping[str, Any]) -> dict[str, Any]:
        sensors = [
            {
                "name": sensor.name,
                "source": sensor.source,
                "readable": sensor.readable,
                "unit": sensor.unit,
                "sign": sensor.sign,
                "reason": sensor.reason,
                "resolution": sensor.resolution if 0 < sensor.resolution < math.inf else None,
            }
            for sensor in self._phone.description.sensors
        ]
        offset = self._clock_offset()
        return {
            "result": dict(result),
            "agent_version": self._phone.description.agent_version,
            "sensors": sensors,
            "cpu_governors": dict(sorted(self._phone.description.cpu_governors.items())),
            "clock": offset.to_json() if offset else None,
        }

    def _failed(self, attempt_id: str, fencing_token: int, reason: str, *, base_proven: bool = True) -> None:
        self._emit(
            AttemptFailed(
                at=self._clock(),
                attempt_id=attempt_id,
                fencing_token=fencing_token,
                device_id=self._device_id,
                reason=reason,
                base_proven=base_proven,
            )
        )

    def _refused(self, attempt_id: str, fencing_token: int, message: str) -> None:
        """The request is refused for what it says: a result, trying it elsewhere would end the same way."""
        self._emit(
            AttemptFinished(
                at=self._clock(),
                attempt_id=attempt_id,
                fencing_token=fencing_token,
                device_id=self._device_id,
                failed=True,
                result=self._stored({"status": "refused", "message": message}),
            )
        )

    async def _report_failure(self, attempt_id: str, fencing_token: int, error: grpc.aio.AioRpcError) -> None:
        message = error.details() or error.code().name
        if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
            self._refused(attempt_id, fencing_token, message)
        elif not await self._link_lost():
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                # The session ends first: the trial that is free again must not come back to a dead agent.
                self._unreachable(f"the agent does not answer: {message}")
            self._failed(attempt_id, fencing_token, f"{error.code().name}: {message}")

    async def _link_lost(self) -> bool:
        """Whether the link is gone. A broken call is often noticed a moment before the broken link."""
        try:
            await asyncio.wait_for(self._phone.wait_lost(), LINK_LOSS_NOTICE_S)
        except TimeoutError:
            return False
        return True

    async def _ensure_bundle(self, model: str, bundle_hash: str) -> None:
        """Wait for the one transfer of this bundle. It goes on where a waiting attempt is cancelled.

        The thread that pushes cannot be stopped, and two that push into one folder break both.
        """
        bringing = self._bundles.get(bundle_hash)
        if bringing is None:
            bringing = asyncio.create_task(
                self._bring_bundle(model, bundle_hash), name=f"bundle {bundle_hash} to {self._device_id}"
            )
            self._bundles[bundle_hash] = bringing
            bringing.add_done_callback(lambda ended: self._note_bundle(bundle_hash, ended))
        await asyncio.shield(bringing)

    async def _bring_bundle(self, model: str, bundle_hash: str) -> None:
        to_host = self._progress_of(f"model {model}, to its host", bundle_hash)
        folder = await self._bundle_folder(model, bundle_hash, to_host)
        async with self._push_lock:  # each push counts on the space that it finds free
            removed = await self._phone.push_bundle(
                folder, bundle_hash, self._progress_of(f"model {model}", bundle_hash)
            )
            for gone in removed:
                self._forget_bundle(gone)
            await self._phone.stub.CheckBundle(
                agent_pb2.CheckBundleRequest(bundle_hash=bundle_hash), timeout=CHECK_BUNDLE_DEADLINE_S
            )

    def _note_bundle(self, bundle_hash: str, ended: asyncio.Task[None]) -> None:
        """Forget a transfer that failed: the next attempt tries again."""
        if not ended.cancelled() and (error := ended.exception()):  # cancelled: the session ends
            del self._bundles[bundle_hash]
            logger.info("the bundle %s did not get to %s: %s", bundle_hash, self._device_id, error)

    def _forget_bundle(self, bundle_hash: str) -> None:
        bringing = self._bundles.get(bundle_hash)
        if bringing is not None and bringing.done():  # else it is being brought again already
            del self._bundles[bundle_hash]

    def _progress_of(self, what: str, bundle_hash: str) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            # Nothing would end the display of a transfer that nobody waits for any more.
            if bundle_hash in self._preparing.values():
                self._transfer(what, done, total)

        return progress


def _base_proven(result: agent_pb2.EditResult) -> bool:
    """Whether nothing speaks against the model being what it was; without a hash none was touched."""
    return not result.execution.base_hash or result.execution.returned_to_base


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
