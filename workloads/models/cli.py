"""``mobifarm models``: build, prepare, list and show model bundles.

Importing this module is cheap; numpy, torch and transformers are imported when a command needs them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.paths import bundles_directory

if TYPE_CHECKING:
    from mobifarm.agent.editor.manifest import Manifest
    from mobifarm.workloads.models.build import BuildResult, Progress

USER_MISTAKE = 2

app = typer.Typer(
    help="Build and inspect model bundles.", no_args_is_help=True, pretty_exceptions_enable=False
)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Directory = Annotated[
    Path | None, typer.Option("--output", help="Folder of the bundles.", show_default="the user cache")
]


class PrecisionChoice(StrEnum):
    """Values of ``--precision``."""

    INT8 = "int8"
    FP32 = "fp32"


class NpuChoice(StrEnum):
    """Values of ``--npu``: bits of weights and activations."""

    W8A16 = "w8a16"
    W8A8 = "w8a8"


@app.command()
def build(
    name_or_folder: Annotated[
        str, typer.Argument(help="smollm2-135m-instruct, tiny-random, or a local Hugging Face folder.")
    ],
    layer: Annotated[int | None, typer.Option(help="Layer to edit, from 0.")] = None,
    precision: Annotated[PrecisionChoice, typer.Option(help="Weights on the phone.")] = PrecisionChoice.INT8,
    npu: Annotated[
        NpuChoice | None,
        typer.Option(help="Also build NAME-npu, with graphs for neural processors in this quantisation."),
    ] = None,
    output: Directory = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Build a model bundle, unless an equal one is there."""
    with _mistakes_in_one_sentence():
        from mobifarm.workloads.models.build import Precision, build_bundle
        from mobifarm.workloads.models.sources import find_source

        source = find_source(name_or_folder)
        if npu is not None and precision is not PrecisionChoice.INT8:
            raise WorkloadInputError("graphs for neural processors are int8: leave --precision out")
        with _progress() as progress:
            result = build_bundle(
                source,
                output or bundles_directory(),
                edit_layer=layer,
                precision=Precision(precision.value),
                force=force,
                progress=progress,
            )
            if npu is not None:
                from mobifarm.workloads.models.npu import build_npu_bundle
                from mobifarm.workloads.models.static_graph import Scheme

                lost = result.preparation_lost
                result = build_npu_bundle(
                    source, result.path, Scheme(npu.value), force=force, progress=progress
                )
                result = dataclasses.replace(result, preparation_lost=lost)
    if as_json:
        typer.echo(json.dumps(_as_dict(result)))
    else:
        verb = "built" if result.built else "already there:"
        typer.echo(f"{verb} {result.name} ({result.size_bytes / 1e6:.0f} MB, edit layer {result.edit_layer})")
        typer.echo(f"{result.bundle_hash}  {result.path}")
    if result.preparation_lost:
        typer.echo(
            "the bundle there was prepared, but built by another version or from other inputs: it was built "
            "anew without its preparation; run `mobifarm models prepare` again to have it back",
            err=True,
        )


@app.command()
def prepare(
    name_or_folder: Annotated[
        str, typer.Argument(help="smollm2-135m-instruct, tiny-random, or a local Hugging Face folder.")
    ],
    text: Annotated[Path, typer.Option(help="Ordinary text, UTF-8, for the second moments.")],
    facts: Annotated[Path, typer.Option(help="JSON file of facts to learn from; never evaluate on them.")],
    exclude: Annotated[
        Path | None,
        typer.Option(help="JSON file of facts to evaluate on: facts about their subjects are not learned."),
    ] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="Candidate layer to edit, from 0; repeat it for several.")
    ] = None,
    fact_limit: Annotated[int, typer.Option("--facts-limit", help="Facts to learn from.", min=16)] = 1500,
    token_limit: Annotated[int, typer.Option("--tokens-limit", help="Tokens of text.", min=128)] = 40_000,
    output: Directory = None,
    as_json: Json = False,
) -> None:
    """Learn what makes edits cheap and exact, and add it to the model's bundle (which changes its hash)."""
    with _mistakes_in_one_sentence():
        from mobifarm.workloads.models.sources import find_source
        from mobifarm.workloads.preparation.prepare import PreparationSettings, prepare_bundle

        source = find_source(name_or_folder)
        settings = PreparationSettings(
            tokens=token_limit, facts=fact_limit, layers=tuple(layer) if layer else None
        )
        with _progress() as progress:
            result = prepare_bundle(
                source,
                output or bundles_directory(),
                text=text,
                facts=facts,
                exclude=exclude,
                settings=settings,
                progress=progress,
            )
    if as_json:
        typer.echo(json.dumps(_as_dict(result)))
    else:
        verb = "prepared" if result.built else "already prepared:"
        typer.echo(f"{verb} {result.name} ({result.size_bytes / 1e6:.0f} MB, edit layer {result.edit_layer})")
        typer.echo(f"{result.bundle_hash}  {result.path}")


@app.command("compile")
def compile_graphs(
    name: Annotated[str, typer.Argument(help="Bundle with graphs for neural processors, such as NAME-npu.")],
    soc: Annotated[list[str], typer.Option(help="ro.soc.model, such as SM8650; repeat it for several.")],
    output: Directory = None,
    as_json: Json = False,
) -> None:
    """Compile a bundle's graphs for the neural processors of Snapdragon chips, unless they are there."""
    with _mistakes_in_one_sentence():
        from mobifarm.workloads.models.compile import compile_bundle

        folder = output or bundles_directory()
        compiled = [compile_bundle(folder / name, chip) for chip in soc]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) | {"path": str(one.path)} for one in compiled]))
        return
    for one in compiled:
        verb = "compiled" if one.built else "already there:"
        typer.echo(f"{verb} {name} for {one.soc} (Hexagon {one.architecture}): {one.size_bytes / 1e6:.1f} MB")


@app.command("list")
def list_bundles(output: Directory = None, as_json: Json = False) -> None:
    """List the bundles that are there."""
    found, problems = _found(output or bundles_directory())
    for name, problem in problems.items():
        typer.echo(f"{name}: {problem}", err=True)
    if as_json:
        typer.echo(json.dumps([_summary(path, manifest, digest) for path, manifest, digest in found]))
    elif not found and not problems:
        typer.echo("no bundles yet: mobifarm models build smollm2-135m-instruct", err=True)
    else:
        for _, manifest, digest in found:
            size = manifest.size_bytes / 1e6
            typer.echo(f"{manifest.name:32} {size:8.1f} MB  edit layer {manifest.edit_layer:3}  {digest}")


@app.command()
def show(name: str, output: Directory = None, as_json: Json = False) -> None:
    """Show a bundle's manifest."""
    with _mistakes_in_one_sentence():
        found, problems = _found(output or bundles_directory())
        for path, manifest, digest in found:
            if manifest.name == name:
                details = {
                    **_summary(path, manifest, digest),
                    "manifest": json.loads(manifest.to_bytes()),
                }
                typer.echo(json.dumps(details, indent=None if as_json else 2, ensure_ascii=False))
                return
        if name in problems:
            raise WorkloadInputError(f"the bundle {name!r} cannot be shown: {problems[name]}")
        raise WorkloadInputError(f"there is no bundle {name!r}: see mobifarm models list, or build it")


def _found(directory: Path) -> tuple[list[tuple[Path, Manifest, str]], dict[str, str]]:
    """The bundles with their hashes, and by folder's name what is wrong with the others."""
    from mobifarm.agent.editor.bundle_files import read_manifest
    from mobifarm.agent.errors import BundleError

    found, problems = [], {}
    for path in sorted(directory.glob("[!.]*/manifest.json")):
        try:
            manifest, digest = read_manifest(path.parent)
        except BundleError as error:
            problems[path.parent.name] = str(error)
        else:
            found.append((path.parent, manifest, digest))
    return found, problems


def _summary(path: Path, manifest: Manifest, digest: str) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "bundle_hash": digest,
        "path": str(path),
        "size_bytes": manifest.size_bytes,
        "edit_layer": manifest.edit_layer,
    }


def _as_dict(result: BuildResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "bundle_hash": result.bundle_hash,
        "path": str(result.path),
        "size_bytes": result.size_bytes,
        "edit_layer": result.edit_layer,
        "built": result.built,
    }


@contextmanager
def _mistakes_in_one_sentence() -> Iterator[None]:
    try:
        yield
    except WorkloadInputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(USER_MISTAKE) from None


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress bar on stderr where a person watches; otherwise one line per stage."""
    from mobifarm.workloads.models.build import Progress

    if not sys.stderr.isatty():

        class Lines(Progress):
            def status(self, words: str) -> None:
                typer.echo(words, err=True)

        yield Lines()
        return

    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("building", total=None)

        class Bar(Progress):
            def status(self, words: str) -> None:
                bar.update(task, description=words)

            def layers(self, done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

        yield Bar()


if __name__ == "__main__":
    app(prog_name="mobifarm models")
