"""Compiles the static graphs of a bundle ahead of time, for one kind of Snapdragon chip each.

What comes out lies beside the bundles under the bundle's hash and the chip, is made once by each version of
the compiler, and is pushed to phones of that chip: they need no compiler, and open the graphs faster.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mobifarm.agent.backends.interface import BackendError
from mobifarm.agent.backends.snapdragon import CHIPS, chip_of
from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.agent.editor.npu import npu_graphs
from mobifarm.agent.errors import BundleError
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.build import Progress, lock_bundle, move_into_place

COMPILED = ".compiled"


@dataclass(frozen=True, slots=True)
class Compiled:
    """Graphs of a bundle for a chip; ``built`` is False where they were there already."""

    path: Path
    bundle_hash: str
    soc: str
    architecture: str
    size_bytes: int
    built: bool


def compile_bundle(bundle: Path, soc_model: str) -> Compiled:
    """Compile the graphs of the bundle in the folder ``bundle`` for the chip ``soc_model``.

    Raises:
        WorkloadInputError: the chip is not known, the bundle has no such graphs, or the compiler is missing
        or
            does not take them.
    """
    chip = chip_of(soc_model)
    if chip is None:
        raise WorkloadInputError(f"no HTP is known for {soc_model[:40]!r}: choose from {', '.join(CHIPS)}")
    try:
        manifest, digest = read_manifest(bundle)
        graphs = npu_graphs(manifest)
    except BundleError as error:
        raise WorkloadInputError(str(error)) from error
    if graphs is None:
        raise WorkloadInputError(
            f"{manifest.name} has no graphs for neural processors: mobifarm models build … --npu w8a16"
        )
    parent = bundle.parent / COMPILED / digest
    parent.mkdir(parents=True, exist_ok=True)
    place = parent / chip.model
    note = parent / f".{chip.model}-compiler"
    with lock_bundle(parent / ".lock", Progress()):
        version = _compiler_version()
        # Without a compiler those that are there are all there can be.
        built = not place.is_dir() or (version != "" and version != _text(note))
        if built:
            work = Path(tempfile.mkdtemp(dir=parent, prefix=".new-"))
            try:
                from mobifarm.agent.backends.qnn_htp import compile_for

                for file in graphs.files.values():
                    compile_for(chip, (bundle / file).read_bytes(), work / file)
                move_into_place(work, place)
                note.write_text(version)
            except BackendError as error:
                raise WorkloadInputError(f"{manifest.name}: {error}") from error
            finally:
                shutil.rmtree(work, ignore_errors=True)
    size = sum(path.stat().st_size for path in place.iterdir())
    return Compiled(place, digest, chip.model, chip.architecture, size, built)


def _compiler_version() -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("onnxruntime-qnn")
    return ""


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
