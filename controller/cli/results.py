"""A job's results from the store, as tables, JSON or CSV."""

from __future__ import annotations

from enum import StrEnum

import typer

from mobifarm.controller.cli.output import console, print_json
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.results import job_results
from mobifarm.controller.store.choose import open_reader


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
    with open_reader(paths) as reader:
        results = job_results(reader, job_id)
    if chosen is ResultFormat.JSON:
        print_json(results.to_json())
    elif chosen is ResultFormat.CSV:
        from mobifarm.workloads.tables import to_csv

        typer.echo(to_csv(results.summary), nl=False)
    else:
        from mobifarm.workloads.tables import print_summary

        print_summary(results.summary, console(), attempts=attempts.value)
