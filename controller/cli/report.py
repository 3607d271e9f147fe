"""``mobifarm report JOB``: a job's report as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobifarm.controller.cli.farm import Home
from mobifarm.controller.cli.output import print_json
from mobifarm.controller.cli.results import write_file
from mobifarm.controller.errors import UserError
from mobifarm.controller.paths import farm_paths
from mobifarm.controller.store.choose import open_reader


def report(
    job_id: str,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; JOB.html if absent.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(help="Another job: say whether its results may be subtracted from this one's, and why."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what --compare finds, as JSON, and write no file.")
    ] = False,
    home: Home = None,
) -> None:
    """Write a job's report, one HTML file that stands alone; also when the farm does not run."""
    from mobifarm.controller.results import job_comparability, job_report

    paths = farm_paths(home)
    if as_json:
        if compare is None:
            raise UserError(
                f"--json prints a comparison: add --compare JOB, or use `mobifarm results {job_id} --json`"
            )
        with open_reader(paths) as reader:
            print_json(job_comparability(reader, job_id, compare))
        return
    with open_reader(paths) as reader:
        page = job_report(reader, job_id, compare)
    file = output or Path(f"{job_id}.html")
    write_file(file, page.encode())
    typer.echo(str(file))
