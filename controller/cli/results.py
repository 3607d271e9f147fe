"""A job's results from the store, as tables, JSON or CSV."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Any

import typer

from mobifarm.controller.cli.output import console, print_json
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.store.read import StoreReader
from mobifarm.workloads.summary import TrialRecord, summarise


class ResultFormat(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class Attempts(StrEnum):
    """Which attempts are listed: those of edits that needed several, all, or none."""

    RETRIED = "retried"
    ALL = "all"
    NONE = "none"


def print_results(paths: FarmPaths, job_id: str, chosen: ResultFormat, attempts: Attempts) -> None:
    """Print a job's results so far.

    Args:
        attempts: which attempts the tables list.

    Raises:
        UserError: there is no such job.
    """
    with StoreReader(paths.database) as reader:
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
        summary = summarise(trials, reader.attempts(job_id))
        if chosen is ResultFormat.JSON:
            print_json(
                {
                    "job": asdict(job),
                    "spec": reader.spec(job_id),
                    "summary": summary.to_json(),
                    "results": [_result(trial) for trial in trials if trial.stored is not None],
                }
            )
            return
    if chosen is ResultFormat.CSV:
        from mobifarm.workloads.tables import to_csv

        typer.echo(to_csv(summary), nl=False)
        return
    from mobifarm.workloads.tables import print_summary

    print_summary(summary, console(), attempts=attempts.value)


def _result(trial: TrialRecord) -> dict[str, Any]:
    return {"trial_id": trial.trial_id, "label": trial.label, **(trial.stored or {})}
