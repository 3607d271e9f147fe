"""Reading the farm's store while a controller writes to it, or while none runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from mobifarm.controller.core.events import Event, decode
from mobifarm.controller.core.views import AttemptView, DeviceView, JobView, TrialView
from mobifarm.controller.errors import UserError
from mobifarm.controller.store.database import Queries
from mobifarm.controller.store.schema import TABLE_KEYS, columns_of, open_for_reading

PAGE: Final = 10_000  # rows of the log in memory at a time
RESULTS_PAGE: Final = 500  # which are larger

View = TypeVar("View", JobView, TrialView, AttemptView, DeviceView)


@dataclass(frozen=True, slots=True)
class ResultView:
    """The one result of a trial with the attempt and the phone that it came from; ``at`` is unix time."""

    failed: bool  # by the workload's fault
    result: dict[str, Any]
    trial_id: str
    label: str
    attempt_id: str
    attempts: int  # how many the trial took
    device_id: str
    serial: str
    fingerprint: str
    execution: str
    measurement_epoch: int
    at: float


class Reader:
    """A read-only view of a store; every call sees the latest commit. Use it from one thread at a time."""

    def __init__(self, queries: Queries, close: Callable[[], None]) -> None:
        self._queries = queries
        self._close = close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._close()

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Numbered events after the given number, in order, without payloads and results."""
        while rows := self._queries.execute(
            "SELECT seq, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (after, PAGE)
        ):
            for seq, body in rows:
                yield seq, decode(json.loads(body))
            after = rows[-1][0]

    def jobs(self) -> list[JobView]:
        """All jobs, oldest first."""
        return self._views(JobView, "jobs", "ORDER BY sequence")

    def job(self, job_id: str) -> JobView:
        """One job.

        Raises:
            UserError: there is no such job.
        """
        found = self._views(JobView, "jobs", "WHERE job_id = ?", job_id)
        if not found:
            raise UserError(f"There is no job {job_id}: `mobifarm jobs` lists them.")
        return found[0]

    def trials(self, job_id: str) -> list[TrialView]:
        """The job's trials in the order of its plan; UserError where there is no such job."""
        self.job(job_id)
        return self._views(TrialView, "trials", "WHERE job_id = ? ORDER BY position", job_id)

    def attempts(self, job_id: str) -> list[AttemptView]:
        """Every lease of the job's trials, in the order in which they were granted; UserError as above."""
        self.job(job_id)
        return self._views(AttemptView, "attempts", "WHERE job_id = ? ORDER BY fencing_token", job_id)

    def devices(self) -> list[DeviceView]:
        """Every place where a phone was seen, forgotten ones included."""
        return [
            replace(view, tags=tuple(view.tags.split())) if isinstance(view.tags, str) else view
            for view in self._views(DeviceView, "devices", "ORDER BY device_id")
        ]

    def results(self, job_id: str) -> Iterator[ResultView]:
        """The results so far, at most one per trial, in the order of the plan; UserError as above."""
        self.job(job_id)
        after = -1
        while rows := self._queries.execute(
            "SELECT trials.position, results.failed, results.body, results.trial_id, trials.label,"
            " results.attempt_id, trials.attempts, device_id, serial, fingerprint, execution,"
            " measurement_epoch, results.at"
            " FROM trials JOIN results ON results.trial_id = trials.trial_id"
            " JOIN attempts ON attempts.attempt_id = results.attempt_id"
            " WHERE trials.job_id = ? AND trials.position > ? ORDER BY trials.position LIMIT ?",
            (job_id, after, RESULTS_PAGE),
        ):
            for _, failed, body, *columns in rows:
                yield ResultView(bool(failed), json.loads(body), *columns)
            after = rows[-1][0]

    def newest_result(self, device_id: str) -> ResultView | None:
        """The last result that came from the phone; None where none has."""
        rows = self._queries.execute(
            "SELECT results.failed, results.body, results.trial_id, trials.label, results.attempt_id,"
            " trials.attempts, device_id, serial, fingerprint, execution, measurement_epoch, results.at"
            " FROM results JOIN attempts ON attempts.attempt_id = results.attempt_id"
            " JOIN trials ON trials.trial_id = results.trial_id"
            " WHERE attempts.device_id = ? ORDER BY results.at DESC LIMIT 1",
            (device_id,),
        )
        for failed, body, *columns in rows:
            return ResultView(bool(failed), json.loads(body), *columns)
        return None

    def spec(self, job_id: str) -> dict[str, Any]:
        """The job's specification as submitted; UserError where there is no such job."""
        return self._document("SELECT body FROM specs WHERE job_id = ?", job_id, "job")

    def payload(self, trial_id: str) -> dict[str, Any]:
        """What the trial's phone is to do, as submitted; UserError where there is no such trial."""
        return self._document("SELECT body FROM payloads WHERE trial_id = ?", trial_id, "trial")

    def payloads(self, trial_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Those of several trials; of a trial that is not known nothing. At most a few hundred at a time."""
        marks = ", ".join("?" for _ in trial_ids)
        rows = self._queries.execute(
            f"SELECT trial_id, body FROM payloads WHERE trial_id IN ({marks})",  # noqa: S608 (marks only)
            trial_ids,
        )
        return {trial_id: json.loads(body) for trial_id, body in rows}

    def properties(self, device_id: str) -> dict[str, Any]:
        """Android properties of the phone last seen at this place; UserError where none has been ready."""
        return self._document("SELECT body FROM properties WHERE device_id = ?", device_id, "known phone at")

    def digest(self, table: str) -> tuple[int, str]:
        """Number of a table's rows and a hash of all of them, equal in every kind of database."""
        key = TABLE_KEYS[table]
        names = sorted(self._queries.columns(table))
        columns = ", ".join(f'"{name}"' for name in names)
        number = total = 0
        after: tuple[Any, ...] = ()
        while rows := self._queries.execute(
            f"SELECT {columns} FROM {table} {f'WHERE {key} > ?' if after else ''}"  # noqa: S608 (constants only)
            f" ORDER BY {key} LIMIT ?",
            (*after, RESULTS_PAGE),
        ):
            number += len(rows)
            for row in rows:  # a sum, for databases order texts in their own ways
                total += int.from_bytes(hashlib.sha256(repr([*map(_comparable, row)]).encode()).digest())
            after = (rows[-1][names.index(key)],)
        return number, f"{total % 2**256:064x}"

    def _views(self, view: type[View], table: str, condition: str, *parameters: str) -> list[View]:
        # A file that an earlier version wrote may lack the newest columns; these have defaults.
        there = self._queries.columns(table)
        names = [field.name for field in fields(view) if field.name in there]
        chosen = ", ".join(f'"{name}"' for name in names)
        rows = self._queries.execute(
            f"SELECT {chosen} FROM {table} {condition}",  # noqa: S608 (all parts are constants of this module)
            parameters,
        )
        return [view(**dict(zip(names, row, strict=True))) for row in rows]

    def _document(self, query: str, id_: str, what: str) -> dict[str, Any]:
        rows = self._queries.execute(query, (id_,))
        if not rows:
            raise UserError(f"There is no {what} {id_}.")
        document: dict[str, Any] = json.loads(rows[0][0])
        return document


def _comparable(value: object) -> object:
    # See controller.store.postgresql: its text holds no NUL.
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


class StoreReader(Reader):
    """Reads the SQLite file."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            UserError: there is no store there, or a newer MobiFarm wrote it.
            HostError: the file cannot be read.
        """
        self._connection = open_for_reading(path)
        super().__init__(self, self._connection.close)

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        return self._connection.execute(statement, parameters).fetchall()

    def columns(self, table: str) -> frozenset[str]:
        return columns_of(self._connection, table)
