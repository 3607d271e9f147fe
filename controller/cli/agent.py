"""``mobifarm agent``: what phones get to run the agent."""

from __future__ import annotations

import json
import tarfile
import time
from typing import Annotated, Any

import typer

from mobifarm.controller.cli.output import print_json, progress_console
from mobifarm.controller.errors import UserError
from mobifarm.controller.provisioning.runtime import Runtime, ensure_runtime, known_abis
from mobifarm.workloads.paths import cache_directory

app = typer.Typer(help="Build what phones get to run the agent.", no_args_is_help=True)


@app.callback()
def agent() -> None:
    """Build what phones get to run the agent."""


@app.command()
def bundle(
    abi: Annotated[
        str, typer.Option(help="The phones' processor, their ro.product.cpu.abi: arm64-v8a or x86_64.")
    ] = "arm64-v8a",
    anew: Annotated[
        bool, typer.Option("--anew", help="Build it again, with the newest packages of this Debian.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build the agent's runtime for a kind of processor into the cache, unless it is there.

    The farm does the same by itself when the first such phone is plugged in. For a processor that is not this
    computer's, Debian's packages and PyPI's wheels are downloaded; nothing is installed.
    """
    if abi not in known_abis():
        raise UserError(f"there is no runtime for {abi!r}; choose one of: {', '.join(known_abis())}")
    started = time.monotonic()

    def report(doing: str) -> None:
        progress_console.print(f"{time.monotonic() - started:4.0f} s  {doing}", markup=False)

    runtime = ensure_runtime(cache_directory(), abi, report, anew=anew)
    if as_json:
        print_json(_description(runtime))
        return
    for what, archive in (("Python", runtime.python), ("agent", runtime.agent)):
        megabytes, unpacked = archive.size_bytes / 1e6, archive.unpacked_bytes / 1e6
        typer.echo(f"{what}  {megabytes:.1f} MB, {unpacked:.0f} MB unpacked  {archive.path}")


def _description(runtime: Runtime) -> dict[str, Any]:
    archives = {"python": runtime.python, "agent": runtime.agent}
    return {
        "abi": runtime.abi,
        **{
            name: {
                "hash": archive.hash,
                "path": str(archive.path),
                "size_bytes": archive.size_bytes,
                "unpacked_bytes": archive.unpacked_bytes,
            }
            for name, archive in archives.items()
        },
        "inputs": _inputs(runtime),
    }


def _inputs(runtime: Runtime) -> dict[str, Any] | None:
    """Names and checksums of the downloads that it was made from; None for this computer's own Python."""
    with tarfile.open(runtime.python.path) as archive:
        try:
            file = archive.extractfile("inputs.json")
        except KeyError:
            return None
        return dict(json.load(file)) if file else None
