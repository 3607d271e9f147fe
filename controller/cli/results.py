"""A job's results from the store: printed as tables, JSON or CSV, or written to a file."""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path

import typer

from mobifarm import __version__
from mobifarm.controller.cli.output import console, json_text, print_json
from mobifarm.controller.errors import HostError, UserError
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.results import JobResults, job_results
from mobifarm.controller.store.choose import open_reader


class ResultFormat(StrEnum):
    """How results are given."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


class Attempts(StrEnum):
    """Which attempts are listed: those of edits that needed several or were given up, all, or none."""

    RETRIED = "retried"
    ALL = "all"
    NONE = "none"


def print_results(paths: FarmPaths, job_id: str, chosen: ResultFormat, attempts: Attempts) -> None:
    """Print a job's results so far.

    Args:
        attempts: which attempts the tables list.

    Raises:
        UserError: there is no such job, or the format is no text.
    """
    results = _read(paths, job_id)
    if chosen is ResultFormat.PARQUET:
        raise UserError("Parquet is no text: name a file with -o FILE")
    if chosen is ResultFormat.JSON:
        print_json(results.to_json())
    elif chosen is ResultFormat.CSV:
        from mobifarm.workloads.exports import to_csv

        typer.echo(to_csv(results.summary, results.trials), nl=False)
    else:
        from mobifarm.workloads.tables import print_summary

        print_summary(results.summary, console(), attempts=attempts.value)


def write_results(paths: FarmPaths, job_id: str, chosen: ResultFormat, file: Path) -> None:
    """Write a job's results so far into a file.

    Raises:
        UserError: there is no such job, tables have no file format, or the file cannot be written.
        WorkloadInputError: Parquet is asked for and pyarrow is not installed.
    """
    if chosen is ResultFormat.TABLE:
        raise UserError("tables are for the screen: choose --format csv, parquet or json for a file")
    results = _read(paths, job_id)
    write_file(file, _encoded(results, chosen))


def _encoded(results: JobResults, chosen: ResultFormat) -> bytes:
    from mobifarm.workloads.exports import to_csv, to_parquet

    if chosen is ResultFormat.JSON:
        return (json_text(results.to_json()) + "\n").encode()
    if chosen is ResultFormat.CSV:
        return to_csv(results.summary, results.trials).encode()
    about = {
        "mobifarm_version": __version__,
        "job_id": results.job.job_id,
        "spec": json.dumps(results.spec),
        "footnotes": json.dumps(results.summary.footnotes),
    }
    return to_parquet(results.summary, results.trials, about)


def write_file(file: Path, content: bytes) -> None:
    """Write what the user asked for where the user asked for it; UserError where that cannot be."""
    try:
        file.write_bytes(content)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}): name another file") from None


def copy_telemetry(paths: FarmPaths, job_id: str, folder: Path) -> int:
    """Copy the raw samples of a job, a Parquet file per attempt; returns how many files.

    Raises:
        UserError: there is no such job, it has no samples here, or the folder cannot be written.
        HostError: the samples cannot be read.
    """
    with open_reader(paths) as reader:
        reader.job(job_id)  # so that what is joined to a path is a job's id
    source = paths.telemetry / job_id
    try:
        found = sorted(source.glob("*.parquet"))
    except OSError as error:
        raise HostError(f"the samples in {source} cannot be read ({error.strerror})") from None
    if not found:
        raise UserError(f"no raw samples of {job_id} are stored on this machine: {source} has none")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in found:
            shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder") from None
    return len(found)


def _read(paths: FarmPaths, job_id: str) -> JobResults:
    with open_reader(paths) as reader:
        return job_results(reader, job_id)
