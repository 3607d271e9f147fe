"""From a source to a bundle on disk: built beside its place and moved there whole, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from mobifarm.agent.editor.manifest import (
    MANIFEST_NAME,
    PREPARATION,
    SCHEMA_VERSION,
    BundleFile,
    Manifest,
    TokenizerInfo,
    manifest_hash,
    parse_manifest,
)
from mobifarm.agent.errors import BundleError
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.checkpoint import Checkpoint
from mobifarm.workloads.models.sources import Source, note_source

# Code whose change may change the graphs; a bundle built by other code is built anew.
_CODE = (
    "attention.py",
    "decoder.py",
    "graph.py",
    "quantise.py",
    "share.py",
    "split.py",
    "checkpoint.py",
    "gguf_file.py",
    "hugging_face.py",
    "safetensors_files.py",
    "tiny.py",
)

# Early layers keep neighbours intact, later ones are easier to steer; see Manifest.edit_layer.
_EDIT_LAYER_SHARE = 0.3


class Precision(StrEnum):
    """How the weights are stored."""

    INT8 = "int8"
    FP32 = "fp32"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A bundle on disk. ``built`` is False where an equal one was there already.

    ``preparation_lost``: it took the place of a prepared one that was built from other inputs.
    """

    path: Path
    name: str
    bundle_hash: str
    size_bytes: int
    edit_layer: int
    built: bool
    preparation_lost: bool = False


class Progress:
    """Told how a build goes. This one keeps silent."""

    def status(self, words: str) -> None:
        """What happens now."""

    def layers(self, done: int, total: int) -> None:
        """How many layers are written."""


def build_bundle(
    source: Source,
    directory: Path,
    *,
    edit_layer: int | None = None,
    precision: Precision = Precision.INT8,
    force: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Build the bundle of ``source`` as a folder in ``directory``, unless an equal one is there.

    Args:
        source: the model.
        directory: the bundle becomes ``directory/NAME``; fp32 bundles are called ``NAME-fp32``.
        edit_layer: layer l whose ``down_proj`` is edited; three tenths of the depth where None.
        precision: int8 weights, or fp32 to compare with.
        force: build even if an equal bundle is there.
        progress: told how it goes.

    Raises:
        WorkloadInputError: the source cannot be read or the layer is not in the model.
    """
    progress = progress or Progress()
    name = source.name if precision is Precision.INT8 else f"{source.name}-{precision}"
    inputs = _build_inputs(source, edit_layer, precision)
    directory.mkdir(parents=True, exist_ok=True)
    with lock_bundle(directory / f".{name}.lock", progress):
        place = directory / name
        note_source(place, source)
        present = None if force else _present(place, inputs)
        if present is not None:
            return present
        prepared = _is_prepared(place)
        work = Path(tempfile.mkdtemp(dir=directory, prefix=f".{name}-"))
        try:
            checkpoint = source.load(progress.status)
            manifest = _write(work, name, source, checkpoint, edit_layer, precision, inputs, progress)
            move_into_place(work, place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    result = _result(place, manifest, manifest_hash(manifest.to_bytes()), built=True)
    return replace(result, preparation_lost=prepared)


def _write(
    folder: Path,
    name: str,
    source: Source,
    checkpoint: Checkpoint,
    edit_layer: int | None,
    precision: Precision,
    inputs: str,
    progress: Progress,
) -> Manifest:
    from mobifarm.workloads.models.attention import rotary_tables
    from mobifarm.workloads.models.decoder import write_graphs
    from mobifarm.workloads.models.graph import HALF_RANGE

    architecture = checkpoint.architecture
    layer = round(architecture.layers * _EDIT_LAYER_SHARE) if edit_layer is None else edit_layer
    if not 0 <= layer < architecture.layers - 1:
        raise WorkloadInputError(
            f"layer {layer} cannot be edited in {name}: choose one from 0 to {architecture.layers - 2}"
        )
    progress.status("writing the graphs")
    tensors, graphs = write_graphs(
        folder,
        architecture,
        checkpoint.weight,
        checkpoint.has,
        rotary_tables(checkpoint, architecture.max_positions),
        edit_layer=layer,
        int8=precision is Precision.INT8,
        progress=lambda done: progress.layers(done, architecture.layers),
    )
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
    quantisation: dict[str, Any] = {"scheme": "none", "weight_bits": 32, "activation_bits": 32}
    if precision is Precision.INT8:
        quantisation = {
            "scheme": "symmetric, per output channel; activations per token, in two halves",
            "weight_bits": 8,
            "activation_bits": 14,
            "activation_half_range": HALF_RANGE,
            "floating_point": [f"model.layers.{layer}.mlp.down_proj", "norms", "attention scores"],
        }
    manifest = Manifest(
        name=name,
        architecture=architecture,
        edit_layer=layer,
        tokenizer=TokenizerInfo(
            "tokenizer.json", checkpoint.bos_id, checkpoint.eos_id, checkpoint.prepend_bos
        ),
        graphs=graphs,
        tensors=tensors,
        files={path.name: describe_file(path) for path in sorted(folder.iterdir())},
        quantisation=quantisation,
        # No time of building: the same inputs and libraries give the same bundle hash.
        provenance={
            **source.origin,
            "versions": {
                **checkpoint.versions,
                **{package: metadata.version(package) for package in ("mobifarm", "numpy", "onnx")},
            },
        },
        build_inputs=inputs,
    )
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return manifest


def _build_inputs(source: Source, edit_layer: int | None, precision: Precision) -> str:
    here = Path(__file__).parent
    inputs = {
        "source": source.fingerprint(),
        "edit_layer": edit_layer,
        "precision": precision.value,
        "schema_version": SCHEMA_VERSION,
        "code": {name: hashlib.sha256((here / name).read_bytes()).hexdigest() for name in _CODE},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _present(place: Path, inputs: str) -> BuildResult | None:
    try:
        raw = (place / MANIFEST_NAME).read_bytes()
        manifest = parse_manifest(raw)
        whole = all((place / name).stat().st_size == file.size for name, file in manifest.files.items())
    except (OSError, BundleError):
        return None
    if manifest.build_inputs != inputs or not whole:
        return None
    return _result(place, manifest, manifest_hash(raw), built=False)


def _is_prepared(place: Path) -> bool:
    """Whether a prepared bundle is there, of whatever version."""
    try:
        return PREPARATION in json.loads((place / MANIFEST_NAME).read_bytes())["extras"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _result(place: Path, manifest: Manifest, bundle_hash: str, *, built: bool) -> BuildResult:
    return BuildResult(place, manifest.name, bundle_hash, manifest.size_bytes, manifest.edit_layer, built)


def describe_file(path: Path) -> BundleFile:
    """Hash and size of a file for the manifest."""
    with path.open("rb") as stream:
        return BundleFile(hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size)


def move_into_place(work: Path, place: Path) -> None:
    """Put the finished folder in its place; a bundle that is there goes only once the new one is whole."""
    work.chmod(0o755)
    if place.exists():
        old = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-old-"))
        place.rename(old / place.name)
        work.rename(place)
        shutil.rmtree(old)
    else:
        work.rename(place)


@contextlib.contextmanager
def lock_bundle(path: Path, progress: Progress) -> Iterator[None]:
    """One build of a bundle at a time; the second finds the first one's result."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.status("waiting for another build of this bundle")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
