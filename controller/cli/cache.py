"""``mobifarm cache``: what MobiFarm keeps on this computer's disk, and removing what nobody uses."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mobifarm.controller.cache import PRUNED, Kind, Stored, stored
from mobifarm.controller.cache import prune as prune_cache
from mobifarm.controller.cli.farm import Home
from mobifarm.controller.cli.output import ago, console, print_json, table
from mobifarm.controller.paths import farm_paths
from mobifarm.workloads.paths import cache_directory

DAY_S = 86_400.0

app = typer.Typer(help="Show what MobiFarm keeps on disk; remove what nobody has used for long.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def cache(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """List what lies on this computer's disk: the cache, and what belongs to the farm and its results."""
    if context.invoked_subcommand is not None:
        return
    found, farm = stored(cache_directory()), farm_paths(home)
    own = {"log": _size(farm.home.glob(f"{farm.database.name}*")), "raw samples": _size([farm.telemetry])}
    if as_json:
        print_json(
            {
                "cache": str(cache_directory()),
                "stored": [_row(one) for one in found],
                "farm": str(farm.home),
                "farm_bytes": {name.replace(" ", "_"): size for name, size in own.items()},
            }
        )
        return
    rows = [
        (kind.value, str(len(ones)), _megabytes(ones), ago(min(one.used_at for one in ones)), _fate(kind))
        for kind in Kind
        if (ones := [one for one in found if one.kind is kind])
    ]
    rows += [
        (f"the farm's {name}", "–", f"{size / 1e6:.1f} MB", "–", "belongs to the results: never removed")
        for name, size in own.items()
    ]
    title = f"{cache_directory()} and {farm.home}"
    console().print(
        table(title, ("what", "number", "size", "longest unused", "`mobifarm cache prune`"), rows)
    )


@app.command()
def prune(
    unused_for_days: Annotated[
        int, typer.Option("--unused-for", metavar="DAYS", min=1, help="Keep what was used since.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove agent runtimes and fetched bundles that nobody used for long; they come again when needed."""
    since = time.time() - unused_for_days * DAY_S
    removed = prune_cache(cache_directory(), unused_since=since, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "removed": [_row(one) for one in removed]})
        return
    for one in removed:
        typer.echo(f"{one.kind}  {one.size_bytes / 1e6:8.1f} MB  used {ago(one.used_at)}  {one.path}")
    verb = "would free" if dry_run else "freed"
    typer.echo(f"{verb} {_megabytes(removed)}")


def _row(one: Stored) -> dict[str, Any]:
    return {**asdict(one), "kind": one.kind.name.lower(), "path": str(one.path), "pruned": one.kind in PRUNED}


def _fate(kind: Kind) -> str:
    return "removes what is old, it comes again" if kind in PRUNED else "leaves it alone"


def _megabytes(ones: Sequence[Stored]) -> str:
    return f"{sum(one.size_bytes for one in ones) / 1e6:.1f} MB"


def _size(paths: Iterable[Path]) -> int:
    files = [file for path in paths for file in ((path,) if path.is_file() else path.rglob("*"))]
    return sum(file.lstat().st_size for file in files if file.is_file())
