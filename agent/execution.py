"""Runs attempts: one at a time in a worker thread, results on disk before anybody hears of them.

An attempt belongs to the phone, not to the call that started it: streams come and go, and only ``cancel``
or the end of the agent stops it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from mobifarm.agent.attempts import Attempt, Attempts, check_id
from mobifarm.agent.conversion import (
    empty_result,
    finished_result,
    job_from_request,
    progress_message,
    request_hash,
)
from mobifarm.agent.editor.stack import EditStack
from mobifarm.agent.editor.types import EditProgress, Report
from mobifarm.agent.errors import (
    AgentError,
    BundleError,
    Cancelled,
    InputError,
    InternalError,
    NotHeld,
    StillRunning,
    Stopping,
)
from mobifarm.agent.feed import Feed
from mobifarm.agent.fence import Fence
from mobifarm.agent.journal import Journal
from mobifarm.agent.kept import KeptBundle, KeptEdits
from mobifarm.agent.memory import peak_rss_bytes, reset_peak_rss
from mobifarm.agent.runner import BundleSummary, EditJob, EditRunner, FinishedEdit
from mobifarm.agent.samples import SampleFiles, SampleLog
from mobifarm.agent.telemetry import SAMPLES_PER_BATCH, IdleSampler, Sampler
from mobifarm.v1.agent_pb2 import (
    EDIT_STATUS_CANCELLED,
    EDIT_STATUS_FAILED,
    EditResult,
    EditStatus,
    RunRequest,
    RunResponse,
    TelemetryBatch,
    TelemetrySummary,
)

_T = TypeVar("_T")
_R = TypeVar("_R")
_log = logging.getLogger(__name__)


class Execution:
    """All attempts of one phone.

    Args:
        read_sensors: gives one telemetry sample; called from a thread of its own.
        samples: where finished attempts' samples wait, given the ids of those that are held.
        idle: samples the phone while it has no work.
        services_cpu_s: processor time that reading sensors has taken outside of the reading thread.
    """

    def __init__(
        self,
        *,
        runner: EditRunner,
        journal: Journal,
        kept: KeptEdits,
        fence: Fence,
        read_sensors: Callable[[], dict[str, float]],
        samples: Callable[[Iterable[str]], SampleFiles],
        idle: IdleSampler,
        services_cpu_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._runner = runner
        self._journal = journal
        self._kept = kept
        self._fence = fence
        self._read_sensors = read_sensors
        self._idle = idle
        self._services_cpu_s = services_cpu_s
        self._attempts = Attempts(journal.load())
        self._samples = samples([attempt.attempt_id for attempt in self._attempts.held()])
        self._feeds: dict[str, Feed] = {}
        self._admission = asyncio.Lock()
        self._cancel = threading.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        # The edit has a thread of its own so that a bundle check never waits for it.
        self._edit_thread = ThreadPoolExecutor(1, "edit")
        self._threads = ThreadPoolExecutor(4, "files")

    def held(self) -> list[Attempt]:
        """Attempts that run or wait for their acknowledgement."""
        return self._attempts.held()

    @property
    def fencing_token(self) -> int:
        """The highest one that this phone has seen."""
        return self._fence.highest

    async def check_bundle(self, bundle_hash: str) -> BundleSummary:
        """Verify a bundle; raises BundleNotFound, BundleError."""
        return await self._in_thread(self._runner.check_bundle, bundle_hash)

    async def run(self, request: RunRequest) -> AsyncGenerator[RunResponse, None]:
        """Start the attempt or attach to it; yields its messages, the result last.

        Raises:
            InputError, BundleError, DamagedEdits, Busy, Fenced: nothing was started.
            InternalError: the edit met a fault of the agent; the result that says so came before.
            Stopping: the agent ends; the attempt is lost.
        """
        async with self._admission:
            check_id(request.attempt_id)
            await self._in_thread(self._fence.check, request.fencing_token)
            attempt = self._attempts.find(request)
            if attempt is None:
                job = job_from_request(request)
                await self._in_thread(self._runner.validate, job)
                job = await self._in_thread(self._beside_kept, job)
                self._refuse_if_stopping()
                attempt = self._start(request, job)
            else:
                attempt.request.fencing_token = request.fencing_token
            feed = self._feeds.get(attempt.attempt_id)
        if feed is None:
            assert attempt.result is not None
            for batch in await self._in_thread(self._samples.read, attempt.attempt_id):
                batch.replayed = True
                yield RunResponse(telemetry=batch)
            yield RunResponse(result=attempt.result)
            return
        async with aclosing(feed.listen()) as messages:
            async for message in messages:
                yield message

    def cancel(self, attempt_id: str) -> None:
        """Ask a running attempt to stop; a finished one stays as it is. Raises NotHeld."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            raise NotHeld(f"this phone holds no attempt {attempt_id!r}: nothing is left to cancel")
        if attempt.result is None:
            self._cancel.set()

    async def acknowledge(self, attempt_id: str) -> None:
        """Forget a finished attempt; one that is not held was acknowledged before. Raises StillRunning."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            return
        if attempt.result is None:
            raise StillRunning(
                f"attempt {attempt_id} is still running: acknowledge it once its result is stored"
            )
        # The disk first: after a crash in between, the result is offered again rather than lost in one place.
        await self._in_thread(self._journal.remove, attempt_id)
        await self._in_thread(self._samples.remove, attempt_id)
        self._attempts.drop(attempt_id)

    async def list_edits(self, bundle_hash: str) -> list[KeptBundle]:
        """See KeptEdits.bundles; also while an attempt runs."""
        return await self._in_thread(self._kept.bundles, bundle_hash)

    async def export_edits(self, bundle_hash: str) -> bytes:
        """The kept edits of a bundle as one file; see KeptEdits.stack and EditStack.export for the errors."""
        return await self._in_thread(lambda name: self._kept.stack(name).export(), bundle_hash)

    async def undo_edits(
        self, bundle_hash: str, edit_ids: Sequence[str] | None, fencing_token: int
    ) -> tuple[list[str], int]:
        """Undo some or, where ``edit_ids`` is None, all edits of a bundle.

        Returns:
            The names of those undone, and how many are left.

        Raises:
            InputError, BundleError, DamagedEdits: see KeptEdits.undo.
            Busy, Fenced: nothing was undone.
        """

        def undo(name: str) -> tuple[list[str], int]:
            if edit_ids is None:
                return self._kept.undo_all(name), 0
            return list(edit_ids), len(self._kept.undo(name, edit_ids))

        return await self._change_edits(undo, bundle_hash, fencing_token)

    async def import_edits(
        self, bundle_hash: str, exported: bytes, fencing_token: int
    ) -> tuple[EditStack, list[str]]:
        """See KeptEdits.import_edits. Raises Busy, Fenced too."""
        return await self._change_edits(
            lambda name: self._kept.import_edits(name, exported), bundle_hash, fencing_token
        )

    async def _change_edits(self, change: Callable[[str], _R], bundle_hash: str, fencing_token: int) -> _R:
        async def change_alone() -> _R:
            async with self._admission:
                await self._in_thread(self._fence.check, fencing_token)
                self._attempts.refuse_while_running()
                return await self._in_thread(change, bundle_hash)

        # A caller that goes away must not let an attempt in before the change is on disk.
        return await asyncio.shield(asyncio.ensure_future(change_alone()))

    async def stop(self, within_s: float) -> bool:
        """Stop the running attempt; False where the editor did not end in time and its thread lives on."""
        self._stopping = True
        self._cancel.set()
        ended = True
        if self._task is not None:
            _, pending = await asyncio.wait({self._task}, timeout=within_s)
            ended = not pending
        for feed in self._feeds.values():
            feed.close(None, Stopping("the agent is stopping and the attempt is lost: send it again"))
        self._edit_thread.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        return ended

    def _start(self, request: RunRequest, job: EditJob) -> Attempt:
        attempt = self._attempts.start(request)
        log = SampleLog()
        feed = self._feeds[attempt.attempt_id] = Feed(log)
        self._cancel.clear()
        _log.info("attempt %s starts", attempt.attempt_id)
        self._task = asyncio.create_task(self._carry_out(attempt, job, feed, log))
        return attempt

    async def _carry_out(self, attempt: Attempt, job: EditJob, feed: Feed, log: SampleLog) -> None:
        loop = asyncio.get_running_loop()

        def publish(batch: TelemetryBatch) -> None:
            log.append(batch)
            _call(loop, feed.telemetry)

        sampler = (
            None
            if attempt.request.telemetry_off
            else Sampler(self._read_sensors, publish, services_cpu_s=self._services_cpu_s)
        )

        def report(progress: EditProgress) -> None:
            message = progress_message(progress)
            if sampler is not None:
                sampler.enter(message.phase, message.step)
            _call(loop, feed.progress, message)

        result: EditResult | None = None
        error: AgentError | None = None
        try:
            with self._idle.busy():
                result, error = await loop.run_in_executor(
                    self._edit_thread, self._perform, attempt, job, sampler, log, report
                )
        except BundleError as damaged:
            _log.error("attempt %s was not carried out: %s", attempt.attempt_id, damaged)
            error = damaged
        except Exception:
            _log.exception("attempt %s could not be carried out", attempt.attempt_id)
            error = InternalError("the agent failed around the edit; its log on the phone has the details")
        if result is None:
            self._attempts.drop(attempt.attempt_id)
        else:
            _log.info("attempt %s ended: %s", attempt.attempt_id, EditStatus.Name(result.status))
            self._attempts.finish(attempt.attempt_id, result)
        del self._feeds[attempt.attempt_id]
        feed.close(result, error)

    def _perform(
        self,
        attempt: Attempt,
        job: EditJob,
        sampler: Sampler | None,
        log: SampleLog,
        report: Report,
    ) -> tuple[EditResult | None, AgentError | None]:
        """In the edit's thread: the result, already on disk; and the agent's own fault if there was one."""
        was_reset = reset_peak_rss()
        telemetry: TelemetrySummary | None = None
        if sampler is None:
            result, error = self._edit(attempt.attempt_id, job, report)
        else:
            wanted_s = attempt.request.idle_window_s
            if wanted_s > 0 and self._idle.longest_s() < wanted_s:
                self._idle.lie_still(wanted_s, self._cancel)
            before = self._idle.window()
            for first in range(0, len(before), SAMPLES_PER_BATCH):
                log.append(TelemetryBatch(samples=before[first : first + SAMPLES_PER_BATCH]))
            sampler.start()
            try:
                result, error = self._edit(attempt.attempt_id, job, report)
            finally:
                telemetry = sampler.stop()
            telemetry.idle_samples = len(before)
            telemetry.dropped = log.dropped
        if result is None:
            return None, error
        if telemetry is not None:
            result.telemetry.CopyFrom(telemetry)
            self._samples.write(attempt.attempt_id, log)
        result.cost.peak_rss_bytes = peak_rss_bytes() or 0
        result.cost.peak_rss_reset = was_reset
        try:
            self._journal.write(attempt.request, result)
        except OSError:
            # Kept in memory: worth more than nothing, and the farm usually listens.
            _log.exception("the result of attempt %s is not on disk", attempt.attempt_id)
        return result, error

    def _edit(
        self, attempt_id: str, job: EditJob, report: Report
    ) -> tuple[EditResult | None, AgentError | None]:
        try:
            finished = self._runner.run(job, report=report, cancelled=self._cancel.is_set)
            kept = self._keep(job, finished)
            return finished_result(attempt_id, job, finished, kept=kept), None
        except _NotKept as error:
            return None, InternalError(str(error))
        except Cancelled as error:
            if self._stopping:
                return None, Stopping("the agent is stopping and the attempt is lost: send it again")
            return empty_result(
                attempt_id, job, EDIT_STATUS_CANCELLED, "cancelled on request", error.base_proof
            ), None
        except InputError as error:
            return empty_result(attempt_id, job, EDIT_STATUS_FAILED, str(error), error.base_proof), None
        except BundleError:
            raise
        except Exception as error:
            _log.exception("attempt %s met an error in the editor", attempt_id)
            message = (
                f"internal error in the editor ({type(error).__name__}): see the agent's log on the phone"
            )
            return empty_result(attempt_id, job, EDIT_STATUS_FAILED, message), InternalError(message)

    def _beside_kept(self, job: EditJob) -> EditJob:
        """The job with the kept edits beside which it is done."""
        if job.keep is None:
            return job
        held = self._kept.before(job.bundle_hash, job.record.record_id, request_hash(job))
        return replace(job, held=held)

    def _keep(self, job: EditJob, finished: FinishedEdit) -> bool:
        """Keep a converged edit where that is wanted.

        The journal comes after it: an attempt that a crash took in between is done anew, and what it finds
        takes the place of this edit.
        """
        if job.held is None or finished.edit is None:
            return False
        edit = replace(finished.edit, request_hash=request_hash(job))
        try:
            self._kept.save(job.held.with_edit(edit) if finished.converged else job.held)
        except OSError as error:
            raise _NotKept(
                f"the edit could not be kept ({error.strerror}): free space on the phone"
            ) from error
        return finished.converged

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            raise Stopping("the agent is stopping: start it again and send the attempt again")

    async def _in_thread(self, function: Callable[[_T], _R], argument: _T) -> _R:
        self._refuse_if_stopping()
        with self._idle.busy():
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, argument)


class _NotKept(Exception):
    """The phone's disk, not the edit: the attempt has no result."""


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:  # the loop is closed: the agent ends and nobody listens any more
        _log.debug("dropped a message of an attempt at the agent's end")
