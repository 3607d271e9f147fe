"""Compiles the static graphs of a bundle ahead of time, for one kind of Snapdragon chip each.

What comes out lies beside the bundles under the bundle's hash and the chip, is made once, and is pushed to
phones of that chip: they need no compiler, and open the graphs faster.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mobifarm.agent.backends.interface import BackendError
from mobifarm.agent.backends.snapdragon import CHIPS, chip_of
from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.agent.editor.npu import npu_graphs
from mobifarm.agent.errors import BundleError
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.build import Progress, lock_bundle

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
    with lock_bundle(parent / ".lock", Progress()):
        built = not place.is_dir()
        if built:
            work = Path(tempfile.mkdtemp(dir=parent, prefix=".new-"))
            try:
                from mobifarm.agent.backends.qnn_htp import compile_for

                for file in graphs.files.values():
                    compile_for(chip, (bundle / file).read_bytes(), work / file)
                work.chmod(0o755)
                work.rename(place)
            except BackendError as error:
                raise WorkloadInputError(f"{manifest.name}: {error}") from error
            finally:
                shutil.rmtree(work, ignore_errors=True)
    size = sum(path.stat().st_size for path in place.iterdir())
    return Compiled(place, digest, chip.model, chip.architecture, size, built)
