"""``mobifarm run``, ``jobs``, ``results`` and ``cancel``."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mobifarm.controller.cli.farm import Home
from mobifarm.controller.cli.output import ago, console, print_json, progress_console, table
from mobifarm.controller.cli.results import (
    Attempts,
    ResultFormat,
    copy_telemetry,
    print_results,
    write_results,
)
from mobifarm.controller.client import FarmClient
from mobifarm.controller.core.views import JobView
from mobifarm.controller.errors import DeviceError, FarmError, JobCancelled, UserError, WorkloadError
from mobifarm.controller.paths import FarmPaths, farm_paths
from mobifarm.controller.store.choose import open_reader

POLL_PERIOD_S = 0.5
ENDED = ("done", "cancelled")


def run(
    spec: Annotated[Path, typer.Argument(help="The evaluation spec, a YAML file.")],
    home: Home = None,
    wait: Annotated[bool, typer.Option(help="Stay until the job has ended and print its results.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Submit an evaluation to the running farm; the exit code tells whether all of it was carried out."""
    paths = farm_paths(home)
    job_id, trials = submit(paths, spec)
    if not wait:
        if as_json:
            print_json({"job_id": job_id, "trials": trials})
        else:
            typer.echo(
                f"{job_id}: {trials} trials queued; `mobifarm results {job_id}` shows them as they come"
            )
        return
    typer.echo(f"{job_id}: {trials} trials", err=True)
    job = follow(paths, job_id)
    print_results(paths, job_id, ResultFormat.JSON if as_json else ResultFormat.TABLE, Attempts.RETRIED)
    require_carried_out(job)


def submit(paths: FarmPaths, spec: Path) -> tuple[str, int]:
    """Check the spec and its data, hand both to the farm; returns the job's id and its number of trials."""
    from mobifarm.workloads.datasets import load_records
    from mobifarm.workloads.records import record_to_mapping
    from mobifarm.workloads.spec import parse_spec, read_spec

    document = read_spec(spec)
    checked = parse_spec(document, str(spec))
    records = load_records(checked.dataset, spec.parent)
    with FarmClient(paths) as client:
        answer = client.post(
            "/api/v1/jobs",
            {
                "spec": document,
                "records": [record_to_mapping(record) for record in records],
                "user": getpass.getuser(),
            },
        )
    return answer["job_id"], answer["trials"]


def follow(paths: FarmPaths, job_id: str) -> JobView:
    """Show a progress bar on a terminal until the job has ended.

    Raises:
        HostError, UserError: the farm went away; the job goes on when it is started again.
    """
    with (
        open_reader(paths) as reader,
        Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[activity]}"),
            console=progress_console,
            disable=not progress_console.is_terminal,
        ) as bar,
    ):
        task = bar.add_task("edits", total=None, activity="")
        while True:
            job = reader.job(job_id)
            activity = (
                f"{job.leased} running" if job.leased else ("waiting for a phone" if job.pending else "")
            )
            bar.update(task, total=job.trials, completed=job.ended, activity=activity)
            if job.state in ENDED:
                return job
            try:
                _require_farm(paths)
            except FarmError:
                raise UserError(
                    f"the farm stopped before {job_id} had ended; nothing is lost: `mobifarm up` takes it up "
                    "again"
                ) from None
            time.sleep(POLL_PERIOD_S)


def require_carried_out(job: JobView) -> None:
    """Whether scripts may go on with an ended job's results: all of it was carried out, and something worked.

    An edit that failed by itself is a result, as a wrong answer is one.

    Raises:
        JobCancelled, DeviceError: trials have no result.
        WorkloadError: no edit could be done.
    """
    if job.state == "cancelled":
        raise JobCancelled(f"{job.job_id} was cancelled with {job.done + job.failed} of {job.trials} results")
    if job.abandoned:
        raise DeviceError(
            f"{job.abandoned} of {job.trials} edits of {job.job_id} were given up because phones or links "
            f"failed: `mobifarm results {job.job_id}` lists why"
        )
    if job.failed == job.trials:
        raise WorkloadError(
            f"no edit of {job.job_id} could be done as specified: `mobifarm results {job.job_id} --csv` has "
            "the message of each"
        )


def _require_farm(paths: FarmPaths) -> None:
    """Raises FarmError where none answers."""
    with FarmClient(paths) as client:
        client.get("/api/v1/health")


def jobs(
    home: Home = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the jobs, newest last."""
    paths = farm_paths(home)
    with open_reader(paths) as reader:
        rows = reader.jobs()
    if as_json:
        print_json(rows)
        return
    console().print(
        table(
            "Jobs",
            ("job", "name", "user", "state", "submitted", "trials", "done", "failed", "running", "waiting"),
            [
                (
                    job.job_id,
                    job.name,
                    job.user,
                    job.state,
                    ago(job.submitted_at),
                    job.trials,
                    job.done,
                    job.failed + job.abandoned,
                    job.leased,
                    job.pending,
                )
                for job in rows
            ],
            sentences=["name"],
            spare=["user"] if len({job.user for job in rows}) < 2 else [],
            last=["submitted", "user"],
        )
    )
    if any(job.state not in ENDED for job in rows):
        try:
            _require_farm(paths)
        except FarmError as error:
            typer.echo(f"this is how the farm was left: {error}")


def results(
    job_id: str,
    home: Home = None,
    chosen: Annotated[
        ResultFormat, typer.Option("--format", help="CSV and Parquet have a row per edit with its passport.")
    ] = ResultFormat.TABLE,
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything, passports included: --format json.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One line per edit: --format csv.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it to this file.")] = None,
    telemetry: Annotated[
        Path | None, typer.Option(help="Copy the raw samples, a Parquet file per attempt, into this folder.")
    ] = None,
    attempts: Annotated[
        Attempts,
        typer.Option(
            help="Attempts to list with device and reason: those of edits retried or given up, all, or none."
        ),
    ] = Attempts.RETRIED,
) -> None:
    """Show a job's results so far; works while the farm runs and when it does not."""
    asked = {ResultFormat.JSON: as_json, ResultFormat.CSV: as_csv, chosen: chosen is not ResultFormat.TABLE}
    wanted = [each for each, whether in asked.items() if whether]
    if len(wanted) > 1:
        raise UserError("choose one of --format, --json and --csv")
    chosen = wanted[0] if wanted else ResultFormat.TABLE
    paths = farm_paths(home)
    if telemetry is not None:
        number = copy_telemetry(paths, job_id, telemetry)
        typer.echo(f"{number} files of raw samples in {telemetry}", err=True)
    if output is not None:
        write_results(paths, job_id, chosen, output)
    elif telemetry is None or wanted:
        print_results(paths, job_id, chosen, attempts)


def cancel(job_id: str, home: Home = None) -> None:
    """Cancel a job; results that are in are kept."""
    with FarmClient(farm_paths(home)) as client:
        client.post(f"/api/v1/jobs/{job_id}/cancel")
    typer.echo(f"cancelled {job_id}")
