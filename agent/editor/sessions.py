"""Runs the pieces of a graph by ONNX Runtime so that the weights of one piece are resident at a time.

Pieces of the same form run in one session. What sets them apart, weights above all, are inputs, fed from one
read-only map of their file. ONNX Runtime packs no copies of inputs, and after each piece the map's pages are
given back to the kernel: they stay in the page cache as long as nobody needs the memory more, and the next
run maps them again without reading the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from mobifarm.agent.editor.bundle_files import MappedTensors
from mobifarm.agent.editor.manifest import WEIGHTS_FILE, Piece, StoredTensor
from mobifarm.agent.memory import SpareHeap

Arrays = Mapping[str, NDArray[Any]]

# About what it takes to fall asleep and to be woken.
_AWAKE_US = 50
_DTYPES = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(int64)": "int64"}


class Session:
    """A graph file in ONNX Runtime. Its first run is traced, which proves where the graph really runs.

    Attributes:
        nodes: execution provider → number of nodes that it ran; empty before the first run.
    """

    def __init__(self, graph: Path, threads: int, trace: Path) -> None:
        self._session = _open_session(graph, threads, trace)
        self._inputs, self._outputs = self._session.get_inputs(), self._session.get_outputs()
        self.nodes: Counter[str] = Counter()

    def bind(self, piece: Piece, tensors: MappedTensors) -> tuple[dict[str, str], Arrays, dict[str, str]]:
        """Names in the piece of the graph's inputs, its weights, and names in the graph of the outputs."""
        count = len(piece.inputs)
        fed = {value.name: name for value, name in zip(self._inputs[:count], piece.inputs, strict=True)}
        weights = {
            value.name: tensors.tensor(
                StoredTensor(WEIGHTS_FILE, offset, _DTYPES[value.type], tuple(value.shape))
            )
            for value, offset in zip(self._inputs[count:], piece.weights, strict=True)
        }
        return fed, weights, {n: v.name for v, n in zip(self._outputs, piece.outputs, strict=True)}

    def run(self, names: Sequence[str], feeds: Arrays) -> list[NDArray[Any]]:
        """The outputs ``names`` of the graph."""
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        found: list[NDArray[Any]] = self._session.run(names, feeds, options)
        if not self.nodes:
            # At once: a session keeps in memory what it traced.
            self.nodes = _nodes_by_provider(Path(self._session.end_profiling()))
        return found


class Sessions:
    """The sessions of some graph files, each opened once.

    Args:
        folder: where the files are.
        threads: threads of ONNX Runtime for one call.
        traces: folder for the traces of the first runs.
    """

    def __init__(self, folder: Path, threads: int, traces: Path) -> None:
        self._folder, self._threads, self._traces = folder, threads, traces
        self._open: dict[str, Session] = {}

    def of(self, file: str) -> Session:
        """The session of a graph file."""
        if file not in self._open:
            self._open[file] = Session(self._folder / file, self._threads, self._traces / "trace")
        return self._open[file]


class Pieces:
    """The pieces of one graph, in order."""

    def __init__(
        self, pieces: Sequence[Piece], sessions: Sessions, tensors: MappedTensors, heap: SpareHeap
    ) -> None:
        self._tensors, self._heap = tensors, heap
        self._steps = [_Step(piece, sessions.of(piece.file), tensors) for piece in pieces]

    def run(self, names: Sequence[str], feeds: Arrays) -> list[NDArray[Any]]:
        """The outputs ``names``, in that order; ``feeds`` may hold more than the graph takes."""
        self._tensors.release()  # what was read beside the graphs
        values = dict(feeds)
        for step, needed in zip(self._steps, self._needed_after_each(names), strict=True):
            found = step.run(values, needed)
            values = {name: array for name, array in values.items() if name in needed}
            values.update(found)
            self._tensors.release(WEIGHTS_FILE)
        self._heap.return_excess()
        return [values[name] for name in names]

    def placement(self) -> Counter[str]:
        """Execution provider → number of nodes that it ran in the first runs, counted for each piece."""
        return sum((step.session.nodes for step in self._steps), Counter[str]())

    def _needed_after_each(self, names: Sequence[str]) -> list[frozenset[str]]:
        """After each step, what later ones take on the way to ``names``, and these themselves."""
        needed = [frozenset(names)]
        for step in reversed(self._steps[1:]):
            takes = step.inputs if needed[0].intersection(step.outputs) else ()
            needed.insert(0, needed[0].union(takes))
        return needed


class _Step:
    def __init__(self, piece: Piece, session: Session, tensors: MappedTensors) -> None:
        self.inputs, self.outputs, self.session = piece.inputs, piece.outputs, session
        self._fed, self._weights, self._given = session.bind(piece, tensors)

    def run(self, values: Arrays, wanted: Container[str]) -> dict[str, NDArray[Any]]:
        """Those outputs of the piece that are wanted."""
        names = [name for name in self.outputs if name in wanted]
        if not names:
            return {}
        feeds = {graph_name: values[name] for graph_name, name in self._fed.items()}
        found = self.session.run([self._given[name] for name in names], {**feeds, **self._weights})
        return dict(zip(names, found, strict=True))


def _nodes_by_provider(trace: Path) -> Counter[str]:
    nodes: Counter[str] = Counter()
    for event in json.loads(trace.read_bytes()):
        provider = event.get("args", {}).get("provider")
        if provider and event["name"].endswith("_kernel_time"):
            nodes[provider] += 1
    return nodes


def _open_session(graph: Path, threads: int, trace: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = f"{trace}-{graph.stem}"
    # Shapes differ from fact to fact; remembering a memory plan for each would only grow.
    options.enable_mem_pattern = False
    # Threads wait awake from one operator to the next, which is some microseconds away, and no longer: every
    # session has threads of its own, and awake ones of another session would keep it from the processors.
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_AWAKE_US))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # An arena keeps the largest of everything it ever gave.
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    session.disable_fallback()
    return session
