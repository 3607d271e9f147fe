"""``mobifarm page``: where a browser shows the farm as it works."""

from __future__ import annotations

from typing import Annotated

import typer

from mobifarm.controller.api.access import Role
from mobifarm.controller.cli.farm import Home, page_address
from mobifarm.controller.cli.output import print_json
from mobifarm.controller.client import FarmClient
from mobifarm.controller.paths import farm_paths


def page(
    home: Home = None,
    role: Annotated[
        Role, typer.Option(help="What the page may do: viewer looks, operator drains and cancels too.")
    ] = Role.OPERATOR,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the address of the farm's live page; each opens once, within an hour."""
    with FarmClient(farm_paths(home)) as client:
        address = new_page_address(client, role)
    if as_json:
        print_json({"address": address, "role": str(role)})
    else:
        typer.echo(address)


def new_page_address(client: FarmClient, role: Role = Role.OPERATOR) -> str:
    """An address that opens the page once. Raises as :class:`FarmClient`."""
    key: str = client.post("/api/v1/page/keys", {"role": str(role)})["key"]
    return page_address(client.url, key)
