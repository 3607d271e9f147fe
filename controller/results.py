"""A job's results and its report as the store has them: the same for the command line and the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobifarm import __version__
from mobifarm.controller.core.views import AttemptView, JobView
from mobifarm.controller.errors import UserError
from mobifarm.controller.store.read import Reader
from mobifarm.workloads.comparability import Comparability, compare_jobs
from mobifarm.workloads.compared_edits import edits_of
from mobifarm.workloads.report.contents import JobRecord
from mobifarm.workloads.report.page import render
from mobifarm.workloads.summary import Summary, TrialRecord, summarise


@dataclass(frozen=True, slots=True)
class JobResults:
    """Everything that is known of a job so far."""

    job: JobView
    spec: dict[str, Any]
    summary: Summary
    trials: Sequence[TrialRecord]
    attempts: Sequence[AttemptView]

    def to_json(self) -> dict[str, Any]:
        """The job, its spec, the summary, and every stored result with its passport."""
        return {
            "job": asdict(self.job),
            "spec": self.spec,
            "summary": self.summary.to_json(),
            "results": [
                {"trial_id": trial.trial_id, "label": trial.label, **trial.stored}
                for trial in self.trials
                if trial.stored is not None
            ],
        }


def job_results(reader: Reader, job_id: str) -> JobResults:
    """Read a job's results.

    Raises:
        UserError: there is no such job.
    """
    job = reader.job(job_id)
    stored = {result.trial_id: result.result for result in reader.results(job_id)}
    trials = [
        TrialRecord(
            trial.trial_id,
            trial.label,
            trial.state,
            reader.payload(trial.trial_id),
            stored.get(trial.trial_id),
        )
        for trial in reader.trials(job_id)
    ]
    attempts = reader.attempts(job_id)
    return JobResults(job, reader.spec(job_id), summarise(trials, attempts), trials, attempts)


def job_report(reader: Reader, job_id: str, other_id: str | None = None) -> str:
    """A job's report as an HTML page; with another job's id, what may be said of that one against it.

    Raises:
        UserError: there is no such job, or they are the same.
    """
    results = job_results(reader, job_id)
    compared = None if other_id is None else _compare(results, reader, other_id)
    record = JobRecord(results.job, results.spec, results.summary, results.trials, results.attempts)
    return render(record, version=__version__, compared=compared)


def job_comparability(reader: Reader, job_id: str, other_id: str) -> Comparability:
    """Whether the results of the other job may be subtracted from this one's; raises as above."""
    return _compare(job_results(reader, job_id), reader, other_id)


def _compare(results: JobResults, reader: Reader, other_id: str) -> Comparability:
    if other_id == results.job.job_id:
        raise UserError(f"{other_id} cannot be compared with itself: name another job")
    other = job_results(reader, other_id)
    a, b = (edits_of(each.trials, each.summary.edits) for each in (results, other))
    return compare_jobs(results.job.job_id, a, other_id, b)
