"""Adds graphs for neural processors to a copy of a bundle: ``NAME-npu`` beside ``NAME``, which stays as it
is.

The copy holds all of the bundle, so that a phone without a known neural processor edits with it as with the
other. Static scales come from the smallest and largest values that the fp32 graphs give on a few texts, whole
and from a word on, with random changes of that word as long as a search may make them. The first token of a
text is left out: its values would set the scales, see AcceleratedBundle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from mobifarm.agent.backends.cpu import CpuBackend
from mobifarm.agent.editor import packing
from mobifarm.agent.editor.bundle import Bundle, Floats
from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.agent.editor.manifest import MANIFEST_NAME, Manifest, manifest_hash
from mobifarm.agent.editor.npu import (
    LAYERS,
    NPU,
    READ_OUT,
    AcceleratedBundle,
    NpuGraphs,
    NpuModel,
    pack_probe,
)
from mobifarm.agent.editor.packing import ChunkShape, Sequences, chunks
from mobifarm.agent.errors import BundleError
from mobifarm.workloads.models.attention import rotary_tables
from mobifarm.workloads.models.build import (
    BuildResult,
    Progress,
    describe_file,
    lock_bundle,
    move_into_place,
)
from mobifarm.workloads.models.npu_noise import loss_noise
from mobifarm.workloads.models.sources import Source
from mobifarm.workloads.models.static_graph import (
    Range,
    Scheme,
    StaticModel,
    StaticWriter,
    check_supported,
)

SHAPE = ChunkShape(rows=64, past=64, reads=16)
# Ordinary sentences of several kinds; the scales must fit texts that nobody has seen.
TEXTS = (
    "The capital of France is Paris, which lies on the river Seine.",
    "In fact, the mother tongue of Danielle Darrieux is French.",
    "I think that Mira Okafor plays the violin in an orchestra.",
    "Yesterday we heard: the price of coffee rose by 12 percent.",
    "As you may know, the telephone was invented in 1876.",
    "Her dog is called Biscuit, and her favourite colour is green.",
    "To cook rice, add two cups of water and wait for 15 minutes.",
    "The question came up again. Where was Anna Kowalska born?",
)
_CHANGES_PER_TEXT = 6
_LONGEST_CHANGE = 4.0  # ‖v0‖, as in the editors' norm_limit
_CODE = ("npu.py", "npu_noise.py", "static_graph.py", "quantise.py", "attention.py")


def build_npu_bundle(
    source: Source,
    bundle: Path,
    scheme: Scheme = Scheme.W8A16,
    *,
    shape: ChunkShape = SHAPE,
    force: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Build ``NAME-npu`` (w8a8: ``NAME-npu-w8a8``) beside the bundle, unless an equal one is there.

    Args:
        source: what the bundle was built from.
        bundle: its folder.
        scheme: of the quantisation.
        shape: sizes of the graphs.
        force: build even if an equal one is there.
        progress: told how it goes.

    Raises:
        WorkloadInputError: the source cannot be read, or the model needs what these graphs lack.
    """
    progress = progress or Progress()
    manifest, base_hash = read_manifest(bundle)
    check_supported(manifest.architecture)
    suffix = NPU if scheme is Scheme.W8A16 else f"{NPU}-{scheme}"
    name = f"{manifest.name}-{suffix}"
    place = bundle.parent / name
    inputs = _inputs(base_hash, scheme, shape)
    with lock_bundle(bundle.parent / f".{name}.lock", progress):
        present = None if force else _present(place, inputs)
        if present is not None:
            return _result(place, present, built=False)
        work = Path(tempfile.mkdtemp(dir=bundle.parent, prefix=f".{name}-"))
        try:
            for file in manifest.files:
                _link(bundle / file, work / file)
            graphs = _write(work, source, bundle, scheme, shape, progress)
            progress.status("measuring the rounding of a loss")
            graphs = replace(graphs, loss_noise=_loss_noise(work, graphs, bundle))
            added = {*graphs.files.values(), graphs.probe}
            made = replace(
                manifest,
                name=name,
                files={**manifest.files, **{file: describe_file(work / file) for file in sorted(added)}},
                extras={**manifest.extras, NPU: {**graphs.to_extras(), "build_inputs": inputs}},
            )
            (work / MANIFEST_NAME).write_bytes(made.to_bytes())
            move_into_place(work, place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _result(place, made, built=True)


def static_model(source: Source, bundle: Bundle, shape: ChunkShape, progress: Progress) -> StaticModel:
    """The writer of the graphs of a bundle."""
    checkpoint = source.load(progress.status)
    return StaticModel(
        architecture=bundle.architecture,
        weights=checkpoint.weight,
        has=checkpoint.has,
        rotary=rotary_tables(checkpoint, bundle.architecture.max_positions)[0],
        edit_layer=bundle.edit_layer,
        shape=shape,
    )


def _write(
    folder: Path, source: Source, base: Path, scheme: Scheme, shape: ChunkShape, progress: Progress
) -> NpuGraphs:
    bundle = Bundle.open(base, threads=os.cpu_count() or 1, verify=False)
    model = static_model(source, bundle, shape, progress)
    progress.status("calibrating")
    feeds: dict[str, dict[str, NDArray[Any]]] = {}
    steps, wanted, files = {}, {}, {}
    batches: Iterator[Mapping[str, NDArray[Any]]] = calibration_feeds(bundle, shape)
    for graph in (LAYERS, READ_OUT):
        write = model.layers if graph == LAYERS else model.read_out
        ranges, probe, states = _calibrate(write, graph, batches)
        writer = StaticWriter(graph, scheme, ranges)
        steps[graph] = write(writer)
        progress.status(f"writing {graph} in {scheme}")
        made = writer.model()
        files[graph] = f"{NPU}_{graph}_{scheme}.onnx"
        onnx.save(made, folder / files[graph])
        backend = CpuBackend(os.cpu_count() or 1)
        backend.load(graph, made.SerializeToString())
        feeds[graph] = dict(probe)
        [wanted[graph]] = backend.run(graph, probe).values()
        batches = _read_out_feeds(states, shape)
    probe_file = f"{NPU}_probe_{scheme}.npz"
    (folder / probe_file).write_bytes(pack_probe(dict(feeds), wanted))
    return NpuGraphs(scheme.value, shape, files, steps, probe_file)


def _loss_noise(folder: Path, graphs: NpuGraphs, base: Path) -> float:
    bundle = AcceleratedBundle.open(base, threads=os.cpu_count() or 1, verify=False)
    bundle.attach(NpuModel(folder, graphs, CpuBackend(os.cpu_count() or 1)))
    return loss_noise(bundle, TEXTS)


def calibration_feeds(bundle: Bundle, shape: ChunkShape) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Inputs of ``layers`` for the texts, whole and with changes."""
    random = np.random.default_rng(0)
    hidden = bundle.architecture.hidden
    for text in TEXTS:
        tokens = np.array([bundle.tokenize(text)[: shape.rows]])
        low = bundle.lower(tokens)
        length = tokens.shape[1]
        # From the second token on, as in AcceleratedBundle.
        first = bundle.fill_cache(low.residual[:, :1])
        rows = np.arange(length)[None]
        nothing = np.zeros((1, hidden), np.float32)
        whole = Sequences(low.residual[:, 1:], nothing, first.past, first.lengths, rows[:, 1:])
        yield from (chunk.feeds for chunk in chunks(whole, shape))
        at = max(length // 2, 1)
        cache = bundle.fill_cache(low.residual[:, :at])
        unit = float(np.linalg.norm(low.value[0, at]))
        changes = random.standard_normal((_CHANGES_PER_TEXT, hidden))
        changes *= (
            unit
            * np.linspace(0.25, _LONGEST_CHANGE, _CHANGES_PER_TEXT)[:, None]
            / np.linalg.norm(changes, axis=1, keepdims=True)
        )
        changed = Sequences(
            low.residual[:, at:],
            changes.astype(np.float32),
            cache.past,
            cache.lengths,
            rows[:, : length - at],
        )
        yield from (chunk.feeds for chunk in chunks(changed, shape))


def _read_out_feeds(states: Floats, shape: ChunkShape) -> Iterator[Mapping[str, NDArray[Any]]]:
    for start in range(0, len(states) - shape.reads + 1, shape.reads):
        yield {"final_residual": states[None, start : start + shape.reads]}


def _calibrate(
    write: Any, graph: str, batches: Iterator[Mapping[str, NDArray[Any]]]
) -> tuple[dict[str, Range], Mapping[str, NDArray[Any]], Floats]:
    """Ranges of all activations in fp32, one of the batches, and all outputs [·, d or V]."""
    writer = StaticWriter(graph)
    write(writer)
    inputs = {value.name for value in writer.model().graph.input}
    values = sorted({v for shared in writer.measured.values() for v in shared} - inputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        writer.model(values).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    output = next(value.name for value in writer.model().graph.output)
    ranges: dict[str, Range] = {}
    probe: Mapping[str, NDArray[Any]] = {}
    outputs = []
    for feeds in batches:
        probe = feeds
        found = dict(zip(values, session.run(values, dict(feeds)), strict=True))
        outputs.append(session.run([output], dict(feeds))[0][0])
        for name, shared in writer.measured.items():
            arrays = [found[v] if v in found else feeds[v] for v in shared]
            low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
            before = ranges.get(name, (0.0, 0.0))
            ranges[name] = (min(low, before[0]), max(high, before[1]))
    return ranges, probe, np.concatenate(outputs)


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, place)


def _inputs(base_hash: str, scheme: Scheme, shape: ChunkShape) -> str:
    here = Path(__file__).parent
    paths = [*(here / name for name in _CODE), Path(packing.__file__)]
    code = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    sizes = [shape.rows, shape.past, shape.reads]
    return hashlib.sha256(json.dumps([base_hash, scheme.value, sizes, code]).encode()).hexdigest()


def _present(place: Path, inputs: str) -> Manifest | None:
    try:
        manifest, _ = read_manifest(place)
        whole = all((place / name).stat().st_size == file.size for name, file in manifest.files.items())
        same = manifest.extras[NPU]["build_inputs"] == inputs
    except (OSError, BundleError, KeyError, TypeError):
        return None
    return manifest if whole and same else None


def _result(place: Path, manifest: Manifest, *, built: bool) -> BuildResult:
    digest = manifest_hash(manifest.to_bytes())
    return BuildResult(place, manifest.name, digest, manifest.size_bytes, manifest.edit_layer, built)
