"""``mobifarm why JOB``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mobifarm.controller.cli.farm import Home
from mobifarm.controller.cli.output import console, print_json, table
from mobifarm.controller.client import FarmClient
from mobifarm.controller.paths import farm_paths
from mobifarm.workloads.plain_text import printable


def why(
    job_id: str,
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain why a job waits: for what, which phones would do, and when one may be free."""
    with FarmClient(farm_paths(home)) as client:
        answer = client.get(f"/api/v1/jobs/{job_id}/why")
    if as_json:
        print_json(answer)
        return
    typer.echo(
        printable(
            f"{answer['job_id']} is {answer['state']}: trials waiting {answer['waiting']}, running "
            f"{answer['running']} (policy {answer['policy']})"
        )
    )
    typer.echo(printable(answer["summary"]))
    for cause in answer["causes"]:
        typer.echo(printable(f"  {cause['trials']} of them: {cause['words']}"))
    if answer["phones"]:
        rows = [(each["name"], each["state"], _when(each), each["words"]) for each in answer["phones"]]
        console().print(
            table(
                "Phones that would do",
                ("phone", "state", "may start", "why not now"),
                rows,
                sentences=("why not now",),
            )
        )
    if answer["nearest"]:
        misses = [(miss["name"], "; ".join(miss["unmet"])) for miss in answer["nearest"]]
        console().print(
            table(
                "Phones that would not do, nearest first",
                ("phone", "what it lacks"),
                misses,
                sentences=("what it lacks",),
            )
        )


def _when(outlook: Mapping[str, Any]) -> str:
    if outlook["at"] is None:
        return "not known"
    rest_s = outlook["at"] - time.time()
    if rest_s < 1:
        return "any moment (estimate)" if outlook["estimate"] else "now"
    return f"in about {rest_s:.0f} s (estimate)"
