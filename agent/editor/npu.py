"""The part of a bundle that a neural processor runs, and the bundle that uses it.

The layers above the edited one and the output projection run on the accelerator, for probes, line searches
and scores. Embeddings, the layers up to the edited one with the edits, and the caches of prefixes stay on the
processor: they run a few times for an edit, the others hundreds of times.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.backends.interface import Arrays, Backend, BackendError
from mobifarm.agent.editor.bundle import Bundle, Cache, Floats, UpperOutput
from mobifarm.agent.editor.manifest import Manifest
from mobifarm.agent.editor.packing import ChunkShape, Sequences, chunks, fits
from mobifarm.agent.errors import BundleError

NPU = "npu"
LAYERS, READ_OUT = "layers", "read_out"
# Each operator may round to the neighbouring number, and the next ones carry that on. Of the probe batch the
# root mean square of the differences may be this many steps of the output; emulated were at most half of it.
ALLOWED_RMS_STEPS = {LAYERS: 8.0, READ_OUT: 4.0}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NpuGraphs:
    """What ``models build --npu`` added to a bundle.

    Attributes:
        quantisation: ``w8a16`` or ``w8a8``.
        shape: sizes of the graphs.
        files: ``layers`` and ``read_out`` → file of the graph.
        steps: of each, the distance of two numbers that its output can take.
        probe: file of a probe batch with the outputs of the processor, as .npz.
        loss_noise: standard deviation of the rounding in one loss, nats; 0 where it was not measured.
    """

    quantisation: str
    shape: ChunkShape
    files: dict[str, str]
    steps: dict[str, float]
    probe: str
    loss_noise: float = 0.0

    def to_extras(self) -> dict[str, Any]:
        """The entry of the manifest."""
        return asdict(self)


def npu_graphs(manifest: Manifest) -> NpuGraphs | None:
    """The entry of a manifest; None where the bundle has no graphs for neural processors.

    Raises:
        BundleError: the entry is incomplete or names a file that is not of the bundle.
    """
    if NPU not in manifest.extras:
        return None
    try:
        raw = manifest.extras[NPU]
        graphs = NpuGraphs(
            quantisation=str(raw["quantisation"]),
            shape=ChunkShape(**{name: int(size) for name, size in raw["shape"].items()}),
            files={name: str(raw["files"][name]) for name in (LAYERS, READ_OUT)},
            steps={name: float(raw["steps"][name]) for name in (LAYERS, READ_OUT)},
            probe=str(raw["probe"]),
            loss_noise=float(raw.get("loss_noise", 0.0)),
        )
        if not 0 <= graphs.loss_noise < float("inf"):
            raise ValueError(f"loss_noise is {graphs.loss_noise}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"the graphs for neural processors of {manifest.name} are incomplete ({error}): build it again"
        ) from error
    foreign = sorted({*graphs.files.values(), graphs.probe} - manifest.files.keys())
    if foreign:
        raise BundleError(f"the entry {NPU} of bundle {manifest.name} names {foreign}: build it again")
    return graphs


@dataclass(frozen=True, slots=True)
class ProbeCheck:
    """How far a graph's outputs on the accelerator are from those of the processor, in steps of the output.

    ``largest_share``: the largest difference as a share of the largest output.
    """

    rms_steps: float
    largest_steps: float
    largest_share: float
    allowed_rms_steps: float

    @property
    def passed(self) -> bool:
        """Whether the accelerator computes what the processor does; not a number never passes."""
        return self.rms_steps <= self.allowed_rms_steps


def compare(found: NDArray[Any], wanted: NDArray[Any], step: float, allowed_rms_steps: float) -> ProbeCheck:
    """Compare an output with the processor's."""
    difference = np.abs(found.astype(np.float64) - wanted)
    largest = float(difference.max())
    return ProbeCheck(
        rms_steps=float(np.sqrt(np.mean(difference**2))) / step,
        largest_steps=largest / step,
        largest_share=largest / max(float(np.abs(wanted).max()), 1e-30),
        allowed_rms_steps=allowed_rms_steps,
    )


def pack_probe(feeds: dict[str, Arrays], outputs: dict[str, NDArray[Any]]) -> bytes:
    """A probe batch: of each graph its inputs and the processor's output, as plain arrays."""
    stream = io.BytesIO()
    arrays = {f"{graph}/{name}": a for graph, part in feeds.items() for name, a in part.items()}
    np.savez(stream, **arrays, **{f"{graph}/=": array for graph, array in outputs.items()})  # type: ignore[arg-type]
    return stream.getvalue()


def _read_probe(path: Path) -> tuple[dict[str, dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    feeds: dict[str, dict[str, NDArray[Any]]] = {LAYERS: {}, READ_OUT: {}}
    outputs = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            graph, _, what = name.partition("/")
            if what == "=":
                outputs[graph] = archive[name]
            else:
                feeds[graph][what] = archive[name]
    return feeds, outputs


class NpuModel:
    """The graphs of a bundle on a backend, checked against the processor.

    Args:
        folder: of the bundle.
        graphs: its entry.
        backend: runs them.
        compiled: folder with graphs compiled for this chip, tried before those of the bundle; None for none.

    Raises:
        BackendError: the backend does not take the graphs, or computes something else than the processor.
    """

    def __init__(
        self, folder: Path, graphs: NpuGraphs, backend: Backend, compiled: Path | None = None
    ) -> None:
        self.graphs, self.backend = graphs, backend
        self.compiled = compiled is not None and all((compiled / f).is_file() for f in graphs.files.values())
        self._probe = folder / graphs.probe
        try:
            self._open(compiled if self.compiled and compiled is not None else folder)
        except BackendError as error:
            if not self.compiled:
                raise
            # The phone's runtime may be older than the compiler was.
            _log.warning("graphs compiled ahead are refused, the ONNX files are tried: %s", error)
            self.compiled = False
            self._open(folder)

    def _open(self, source: Path) -> None:
        for graph, file in self.graphs.files.items():
            self.backend.load(graph, (source / file).read_bytes())
        self._check()

    def _check(self) -> None:
        backend, restarts = self.backend, self.backend.restarts
        feeds, wanted = _read_probe(self._probe)
        self._shapes = {graph: array.shape for graph, array in wanted.items()}
        self.checks: dict[str, ProbeCheck] = {}
        for graph, allowed in ALLOWED_RMS_STEPS.items():
            found = self._answer(graph, feeds[graph])
            check = compare(found, wanted[graph], self.graphs.steps[graph], allowed)
            self.checks[graph] = check
            if not check.passed:
                raise BackendError(
                    f"{backend.accelerator} computes something else than the processor: on the probe batch "
                    f"{graph} is {check.rms_steps:.1f} steps off (root mean square; {allowed:g} allowed)"
                )
        # Every graph has had its first run, the one that is counted: nothing is asked once an edit is done,
        # as a worker that is gone by then would take the edit along.
        self.placed = backend.placement()
        if backend.restarts != restarts:
            raise BackendError("the accelerator's worker failed while it was checked")
        self._checked_restarts = restarts

    def _run(self, graph: str, feeds: Arrays) -> NDArray[Any]:
        found = self._answer(graph, feeds)
        if self.backend.restarts != self._checked_restarts:
            # Another worker gave this, and what the checks said of the one before says nothing about it.
            self._check()
        return found

    def _answer(self, graph: str, feeds: Arrays) -> NDArray[Any]:
        found = list(self.backend.run(graph, feeds).values())
        if [array.shape for array in found] != [self._shapes[graph]]:
            raise BackendError(f"{self.backend.accelerator} answers with something else than {graph} gives")
        return found[0]

    def final_residuals(self, call: Sequences) -> Floats:
        """[B, N, d] of a call, see packing."""
        batch, width = len(call.delta), call.rows.shape[1]
        found = np.empty((batch, width, call.residual.shape[2]), np.float32)
        for chunk in chunks(call, self.graphs.shape):
            states = self._run(LAYERS, chunk.feeds)
            for index, start in zip(chunk.sequences, chunk.starts, strict=True):
                rows = call.rows[index if len(call.rows) > 1 else 0]
                found[index] = states[0, start + rows]
        return found

    def logits(self, states: Floats) -> Floats:
        """[M, V] of states [M, d] before the last norm."""
        reads = self.graphs.shape.reads
        parts = []
        for start in range(0, len(states), reads):
            part = states[start : start + reads]
            padded = np.repeat(part[:1], reads, axis=0)
            padded[: len(part)] = part
            found = self._run(READ_OUT, {"final_residual": padded[None]})
            parts.append(found[0, : len(part)])
        return np.concatenate(parts)


class AcceleratedBundle(Bundle):
    """A bundle whose upper part may run on an accelerator; without :meth:`attach` it is like any other."""

    npu: NpuModel | None = None
    calls_on_accelerator = 0
    calls_on_processor = 0
    _engaged = False

    def attach(self, npu: NpuModel | None) -> None:
        """Use an accelerator from now on, or none."""
        self.npu = npu

    @contextmanager
    def on_accelerator(self) -> Iterator[None]:
        """In here calls of :meth:`upper` run on the accelerator, if there is one; those that do not fit into
        a chunk are counted in ``calls_on_processor``."""
        self.calls_on_accelerator = self.calls_on_processor = 0
        self._engaged = True
        try:
            yield
        finally:
            self._engaged = False

    def upper(
        self,
        residual: Floats,
        cache: Cache | None,
        delta: Floats,
        rows: Any,
        targets: Any,
        *,
        with_log_softmax: bool = False,
        with_final_residual: bool = False,
    ) -> UpperOutput:
        """See Bundle."""
        cache = self.empty_cache() if cache is None else cache
        call = Sequences(
            residual,
            np.asarray(delta, np.float32),
            cache.past,
            cache.lengths,
            np.atleast_2d(np.asarray(rows, np.int64)),
        )
        npu = self.npu if self._engaged else None
        if npu is not None:
            call = self._without_first_tokens(call)
        if npu is None or not fits(call, npu.graphs.shape):
            self.calls_on_processor += npu is not None
            return super().upper(
                residual,
                cache,
                delta,
                rows,
                targets,
                with_log_softmax=with_log_softmax,
                with_final_residual=with_final_residual,
            )
        self.calls_on_accelerator += 1
        states = npu.final_residuals(call)
        logits = npu.logits(states.reshape(-1, states.shape[2])).reshape(*states.shape[:2], -1)
        logits -= logits.max(axis=2, keepdims=True)
        log_softmax = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
        wanted = np.broadcast_to(np.atleast_2d(np.asarray(targets, np.int64)), states.shape[:2])
        picked = np.take_along_axis(log_softmax, wanted[:, :, None], axis=2)[:, :, 0]
        return UpperOutput(
            picked,
            logits.argmax(axis=2),
            log_softmax if with_log_softmax else None,
            states if with_final_residual else None,
        )

    @property
    def loss_noise(self) -> float:
        """See Bundle."""
        return self.npu.graphs.loss_noise if self.npu is not None and self._engaged else 0.0

    def _without_first_tokens(self, call: Sequences) -> Sequences:
        """The same call with every text's first token in the prefix, computed on the processor.

        Decoders put values a hundred times as large into that token, and static scales that held them would
        leave few steps for all others. Where it is changed or asked for, the call stays as it is.
        """
        if call.lengths.any() or call.delta.any() or call.residual.shape[1] == 1 or not call.rows.all():
            return call
        cache = self.fill_cache(call.residual[:, :1])
        return Sequences(call.residual[:, 1:], call.delta, cache.past, cache.lengths, call.rows - 1)

    def placement(self) -> dict[str, int]:
        """See Bundle. With an accelerator: of the lower part on the processor, and of the rest there."""
        if self.npu is None:
            return super().placement()
        found = Counter(self._lower.placement())
        placed = self.npu.placed
        found[self.npu.backend.accelerator] += placed.on_accelerator
        found["CPUExecutionProvider"] += placed.operators - placed.on_accelerator
        return dict(+found)


def accelerator_report(npu: NpuModel, bundle: AcceleratedBundle) -> dict[str, Any]:
    """What a result tells about its accelerator, as JSON has it."""
    return {
        "quantisation": npu.graphs.quantisation,
        "compiled_ahead": npu.compiled,
        "operators": npu.placed.operators,
        "operators_on_accelerator": npu.placed.on_accelerator,
        "proof": npu.placed.proof,
        "estimated_cycles": npu.placed.estimated_cycles,
        "probe": {name: asdict(check) for name, check in npu.checks.items()},
        "calls_on_accelerator": bundle.calls_on_accelerator,
        "calls_on_processor": bundle.calls_on_processor,
        "loss_noise_nats": npu.graphs.loss_noise,
    }


def compiled_folder(home: Path, bundle_hash: str, soc_model: str) -> Path:
    """Where the graphs of a bundle lie that were compiled for a chip."""
    chip = hashlib.sha256(soc_model.encode()).hexdigest()[:16] if not soc_model.isalnum() else soc_model
    return home / "npu" / bundle_hash / chip
