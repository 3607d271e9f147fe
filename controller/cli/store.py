"""``mobifarm store``: where the farm keeps its log."""

from __future__ import annotations

from typing import Annotated

import typer

from mobifarm.controller.cli.farm import Home
from mobifarm.controller.paths import farm_paths

app = typer.Typer(help="Move the farm's log to another store.", no_args_is_help=True)


@app.callback()
def store() -> None:
    """Move the farm's log to another store."""


@app.command()
def move(
    url: Annotated[
        str, typer.Argument(metavar="postgresql://…", help="An empty database that the farm may write.")
    ],
    home: Home = None,
) -> None:
    """Move a stopped farm from its file to PostgreSQL; the file is kept beside, as it was."""
    from mobifarm.controller.store.move import move_to_postgresql

    events, kept = move_to_postgresql(farm_paths(home), url)
    typer.echo(f"moved {events} events; `mobifarm up` goes on from there, the file is kept as {kept}")
