"""The log's one writer, over any database: group commit, one state, tables for readers in step with the log.

A writer thread commits whatever has been appended meanwhile in one transaction (group commit), so everybody
who waits shares the disk's flush. It applies each event to a state of its own with the same ``step`` as the
farm: an event that does not fit is refused before it reaches the log, and the tables for readers change in
the same transaction as the log. Every opening raises the epoch in the database, which fences a writer that
was overtaken.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

from mobifarm.controller.core.events import AttemptFinished, Event, kind
from mobifarm.controller.core.state import Changes, take_changes
from mobifarm.controller.core.step import replay, step
from mobifarm.controller.errors import Bug, FarmError, HostError, UserError
from mobifarm.controller.store.database import Database
from mobifarm.controller.store.projection import PROJECTIONS, Record, record
from mobifarm.controller.store.read import Reader

COMMIT_LIMIT: Final = 1000  # appends per transaction: bounds what a reader's snapshot and a failure can span


@dataclass(frozen=True, slots=True)
class _Request:
    records: Sequence[Record]
    future: Future[int]


class LogStore:
    """A :class:`~mobifarm.controller.store.protocol.Store`; methods may be called from any thread.

    Args:
        database: to which only this store writes.
        reader: of the same database, with a connection of its own.
        resources: closed with the store.

    Raises:
        UserError: the log cannot be read by this MobiFarm.
        HostError: the database cannot be read or written.
    """

    def __init__(self, database: Database, reader: Reader, resources: ExitStack) -> None:
        self._database = database
        self._reader = reader
        self._epoch: int
        self._last: int
        ((self._epoch,),) = database.execute("UPDATE controller SET epoch = epoch + 1 RETURNING epoch")
        ((self._last,),) = database.execute("SELECT coalesce(max(seq), 0) FROM events")
        self._state = replay(self.load())
        self._resources = resources
        self._reading = threading.Lock()
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._failure: FarmError | None = None
        self._writer = threading.Thread(target=self._write, name="mobifarm-store", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        return self._epoch

    def load(self) -> Iterator[Event]:
        """All events in order, without payloads and results."""
        return (event for _, event in self._reader.events())

    def payload(self, trial_id: str) -> dict[str, Any]:
        """What the trial's phone is to do; UserError where the trial is not durable or not known."""
        with self._reading:
            return self._reader.payload(trial_id)

    def payloads(self, trial_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Those of several trials; of a trial that is not durable or not known nothing."""
        with self._reading:
            return self._reader.payloads(trial_ids)

    def append(self, events: Sequence[Event]) -> Future[int]:
        """As :meth:`append_records`; Bug where an event cannot be written as JSON, or lacks its bulk."""
        return self.append_records([record(event) for event in events])

    def append_records(self, records: Sequence[Record]) -> Future[int]:
        """Write events in order; the future gives the number of the last once all are durable.

        The future fails with Bug where an event does not fit the log (those before it are kept), and with
        HostError where the disk or another controller stopped this one from writing; then every later append
        fails too, and the controller must be started again.

        Raises:
            Bug: there is no event, or the store is closed.
        """
        if not records:
            raise Bug("No event was given to append.")
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()  # a waiter that gives up must not undo the write
        with self._closing:
            if self._closed:
                raise Bug("An event was appended to a store that is closed.")
            self._queue.put(_Request(records, future))
        return future

    def fill(self, pages: Iterable[tuple[str, Sequence[Sequence[Any]]]], epoch: int) -> None:
        """Give a store without a history that of another one, all or nothing; then open it anew.

        Args:
            pages: statements, and the rows that each is executed with.
            epoch: the other's; that of the next opening is higher.

        Raises:
            UserError: this store has a history.
            HostError: the database cannot be written.
        """
        if self._last:
            raise UserError("the store holds the log of a farm already: name an empty database")
        self._database.begin()
        try:
            for statement, rows in pages:
                self._database.execute_many(statement, rows)
            self._database.execute("UPDATE controller SET epoch = ?", (epoch,))
            self._database.commit()
        except BaseException:
            self._database.roll_back()
            raise

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._writer.join()
        self._resources.close()

    # The writer thread

    def _write(self) -> None:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            try:
                while len(batch) < COMMIT_LIMIT:
                    batch.append(self._queue.get_nowait())
            except Empty:
                pass
            closing = None in batch
            requests = [request for request in batch if request is not None]
            if requests:
                self._commit(requests)

    def _commit(self, requests: list[_Request]) -> None:
        """Write the requests in one transaction and settle their futures."""
        outcomes: list[int | Bug] = []
        if self._failure is None:
            try:
                self._database.begin()
                self._check_epoch()
                outcomes = [self._insert(request.records) for request in requests]
                self._project(take_changes(self._state))
                self._database.commit()
            except (
                Exception
            ) as error:  # whatever it is, nobody may wait for ever and nothing may follow the gap
                self._failure = error if isinstance(error, FarmError) else _unwritable(error)
                with suppress(Exception):  # what is not committed is undone by the next opening too
                    self._database.roll_back()
        for position, request in enumerate(requests):
            outcome = self._failure or outcomes[position]
            if isinstance(outcome, FarmError):
                request.future.set_exception(outcome)
            else:
                request.future.set_result(outcome)

    def _check_epoch(self) -> None:
        ((epoch,),) = self._database.execute("SELECT epoch FROM controller")
        if epoch != self._epoch:
            raise HostError(
                f"Another controller has taken over the farm's store (epoch {epoch} after {self._epoch}): "
                "stop this one."
            )

    def _insert(self, records: Sequence[Record]) -> int | Bug:
        """Number of the last event, or why one of them does not fit."""
        for item in records:
            try:
                step(self._state, item.event)
            except Bug as refusal:
                return refusal
            self._last += 1
            self._database.execute(
                "INSERT INTO events (seq, at, kind, body) VALUES (?, ?, ?, ?)",
                (self._last, item.event.at, kind(item.event), item.body),
            )
            for statement, parameters in item.documents:
                self._database.execute(statement, parameters)
            if isinstance(item.event, AttemptFinished):
                self._insert_result(item.event, item.result)
        return self._last

    def _insert_result(self, event: AttemptFinished, result: str | None) -> None:
        """Store the result where its attempt is the one that counts, once; fenced results leave no trace."""
        attempt = self._state.attempts.get(event.attempt_id)
        if attempt is None or self._state.trials[attempt.trial_id].result_attempt_id != event.attempt_id:
            return
        self._database.execute(
            "INSERT INTO results (trial_id, attempt_id, at, failed, body) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (trial_id) DO NOTHING",
            (attempt.trial_id, event.attempt_id, event.at, int(event.failed), result),
        )

    def _project(self, changes: Changes) -> None:
        for projection in PROJECTIONS:
            self._database.execute_many(projection.statement, projection.rows(self._state, changes))


def _unwritable(error: Exception) -> HostError:
    return HostError(
        f"The farm's store cannot be written ({error}): check the disk, then restart the controller."
    )
