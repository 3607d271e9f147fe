"""A job's results as they stand in the store: the same for the command line, the API and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobifarm.controller.core.views import JobView
from mobifarm.controller.store.read import Reader
from mobifarm.workloads.summary import Summary, TrialRecord, summarise


@dataclass(frozen=True, slots=True)
class JobResults:
    """Everything that is known of a job so far."""

    job: JobView
    spec: dict[str, Any]
    summary: Summary
    trials: Sequence[TrialRecord]

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
    return JobResults(job, reader.spec(job_id), summarise(trials, reader.attempts(job_id)), trials)
