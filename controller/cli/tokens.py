"""``mobifarm tokens``: who else may use the farm's HTTP API."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from mobifarm.controller.api.access import Role, TokenFile
from mobifarm.controller.cli.farm import Home, SubcommandHome
from mobifarm.controller.cli.output import ago, console, print_json, table
from mobifarm.controller.paths import farm_paths

app = typer.Typer(help="List the tokens of the farm's HTTP API; create or revoke one.")


@app.callback(invoke_without_command=True)
def tokens(
    context: typer.Context,
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the tokens without their secrets, which nobody keeps."""
    if context.invoked_subcommand is not None:
        context.obj = home
        return
    found = TokenFile(farm_paths(home).tokens).tokens()
    if as_json:
        print_json(
            [{"name": token.name, "role": token.role, "created_at": token.created_at} for token in found]
        )
    elif found:
        rows = [(token.name, token.role, ago(token.created_at)) for token in found]
        console().print(table("Tokens", ("name", "role", "created"), rows))
    else:
        typer.echo("no tokens; `mobifarm tokens create NAME --role viewer` makes one")


@app.command()
def create(
    name: str,
    role: Annotated[
        Role,
        typer.Option(help="viewer reads; submitter also submits and cancels its own jobs; operator may all."),
    ] = Role.VIEWER,
    home: SubcommandHome = None,
) -> None:
    """Make a token and print its secret, once; a running farm takes it at once."""
    typer.echo(TokenFile(farm_paths(home).tokens).create(name, role, time.time()))


@app.command()
def revoke(name: str, home: SubcommandHome = None) -> None:
    """End a token; a running farm refuses it at once."""
    TokenFile(farm_paths(home).tokens).revoke(name)
    typer.echo(f"revoked {name}")
