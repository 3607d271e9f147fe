"""``mobifarm edits``: list, undo and move the edits that a phone keeps."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mobifarm.controller.cli.farm import Home
from mobifarm.controller.cli.output import console, print_json, table
from mobifarm.controller.client import FarmClient
from mobifarm.controller.errors import UserError
from mobifarm.controller.host.edits import EXPORT_LIMIT_BYTES
from mobifarm.controller.paths import farm_paths
from mobifarm.workloads.plain_text import printable

Device = Annotated[str, typer.Argument(help="The phone, as `mobifarm devices` lists it.")]
Bundle = Annotated[
    str | None, typer.Option("--bundle", help="First digits of the hash of the bundle that is edited.")
]
Model = Annotated[str | None, typer.Option("--model", help="Name or folder of the bundle that is edited.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    help="The edits that a phone keeps: a job with `keep: together` or `keep: in_sequence` makes them.",
    no_args_is_help=True,
)


@app.command("list")
def list_edits(
    device: Device, home: Home = None, bundle: Bundle = None, model: Model = None, as_json: Json = False
) -> None:
    """List the edits that a phone keeps, oldest first."""
    with FarmClient(farm_paths(home)) as client:
        kept = _bundles(client, device)
    found = _matching(kept, _bundle_prefix(bundle, model))
    if as_json:
        print_json(found)
        return
    if not found:
        others = f" of this bundle; it keeps some of {', '.join(map(_named, kept))}" if kept else ""
        typer.echo(printable(f"the phone {device} keeps no edits{others}"))
    for one in found:
        title = f"Kept edits of {_named(one)}"
        if one["problem"]:
            typer.echo(printable(f"{title}: {one['problem']}"))
            continue
        rows = [
            (edit["edit_id"], edit["prompt"], edit["target_new"], edit["method"]) for edit in one["edits"]
        ]
        console().print(
            table(title, ("edit", "prompt", "answer", "method"), rows, sentences=("prompt", "answer"))
        )


@app.command()
def undo(
    device: Device,
    edit_ids: Annotated[list[str] | None, typer.Argument(help="Edits as `list` names them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Undo every edit of the bundle.")] = False,
    home: Home = None,
    bundle: Bundle = None,
    model: Model = None,
) -> None:
    """Undo edits; the others stay as they are."""
    if everything == bool(edit_ids):
        raise UserError("name the edits to undo, or give --all")
    with FarmClient(farm_paths(home)) as client:
        chosen = _choose(client, device, bundle, model)
        body = {"all": True} if everything else {"edit_ids": edit_ids}
        answer = client.post(
            f"/api/v1/devices/{device}/edits/undo", {"bundle_hash": chosen["bundle_hash"], **body}
        )
    typer.echo(f"undid {_count(answer['undone'])} on {device}; it keeps {answer['kept']}")


@app.command()
def export(
    device: Device,
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist yet.")],
    home: Home = None,
    bundle: Bundle = None,
    model: Model = None,
) -> None:
    """Write the edits that a phone keeps of one bundle into a file."""
    if file.exists():
        raise UserError(f"{file} exists already: name another file")
    with FarmClient(farm_paths(home)) as client:
        chosen = _choose(client, device, bundle, model)
        answer = client.get(f"/api/v1/devices/{device}/edits/export?bundle={chosen['bundle_hash']}")
    try:
        with file.open("xb") as output:
            output.write(base64.b64decode(answer["exported"]))
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}): name another file") from None
    typer.echo(f"wrote {_count(chosen['edits'])} of {printable(_named(chosen))} to {file}")


@app.command("import")
def import_edits(
    device: Device,
    file: Annotated[Path, typer.Argument(help="A file that `mobifarm edits export` wrote.")],
    home: Home = None,
) -> None:
    """Have a phone keep the edits of an exported file, beside those that it keeps already."""
    try:
        with file.open("rb") as content:
            exported = content.read(EXPORT_LIMIT_BYTES + 1)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name an exported file") from None
    with FarmClient(farm_paths(home)) as client:
        answer = client.post(
            f"/api/v1/devices/{device}/edits/import", {"exported": base64.b64encode(exported).decode("ascii")}
        )
    typer.echo(f"imported {_count(answer['imported'])} on {device}; it keeps {answer['kept']}")


def _bundles(client: FarmClient, device: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/api/v1/devices/{device}/edits")["bundles"]
    return found


def _bundle_prefix(bundle: str | None, model: str | None) -> str:
    """First digits of the hash that was asked for; "" for any."""
    if bundle and model:
        raise UserError("choose one of --bundle and --model")
    if model is None:
        return (bundle or "").lower()
    from mobifarm.workloads.models.catalogue import bundle_named

    return bundle_named(model).hash


def _matching(bundles: Sequence[Mapping[str, Any]], prefix: str) -> list[Mapping[str, Any]]:
    return [one for one in bundles if one["bundle_hash"].startswith(prefix)]


def _choose(client: FarmClient, device: str, bundle: str | None, model: str | None) -> Mapping[str, Any]:
    """The one bundle that is meant.

    Raises:
        UserError: the phone keeps no edits of it, or of several.
    """
    kept = _bundles(client, device)
    found = _matching(kept, _bundle_prefix(bundle, model))
    if len(found) == 1:
        return found[0]
    if not kept:
        raise UserError(f"the phone {device} keeps no edits")
    listed = ", ".join(_named(one) for one in kept)
    problem = "several bundles" if found else "other bundles"
    raise UserError(f"the phone {device} keeps edits of {problem}: choose {listed} with --bundle or --model")


def _named(bundle: Mapping[str, Any]) -> str:
    return f"{bundle['bundle_name'] or 'a bundle that is gone'} ({bundle['bundle_hash'][:12]})"


def _count(edits: Sequence[object]) -> str:
    return "1 edit" if len(edits) == 1 else f"{len(edits)} edits"
