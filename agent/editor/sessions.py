"""Runs the pieces of a graph by ONNX Runtime so that the weights of one piece are resident at a time.

The weights are inputs of the pieces, fed from one read-only map of their file. ONNX Runtime packs no copies
of inputs, and after each piece the map's pages are given back to the kernel: they stay in the page cache as
long as nobody needs the memory more, and the next run maps them again without reading the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from mobifarm.agent.editor.bundle_files import MappedTensors
from mobifarm.agent.editor.manifest import StoredTensor
from mobifarm.agent.memory import return_freed

Arrays = Mapping[str, NDArray[Any]]

_DTYPES = {"tensor(float)": "float32", "tensor(int8)": "int8"}


class Pieces:
    """The pieces of one graph, in order.

    Args:
        graphs: the pieces' files.
        tensors: where the weights are.
        threads: threads of ONNX Runtime for one call.
        trace: the start of the names of the files for :meth:`end_profiling`.
    """

    def __init__(self, graphs: Iterable[Path], tensors: MappedTensors, threads: int, trace: Path) -> None:
        self._tensors = tensors
        self._sessions = [_open_session(graph, threads, trace) for graph in graphs]
        self._weights: list[Arrays] = [_weights(session, tensors) for session in self._sessions]
        self._inputs = [[value.name for value in session.get_inputs()] for session in self._sessions]
        self._outputs = [[value.name for value in session.get_outputs()] for session in self._sessions]

    @property
    def outputs(self) -> Sequence[str]:
        """Names of all outputs, those that only pass between two pieces included."""
        return [name for outputs in self._outputs for name in outputs]

    def run(self, names: Sequence[str], feeds: Arrays) -> list[NDArray[Any]]:
        """The outputs ``names``, in that order; ``feeds`` may hold more than the graph takes."""
        self._tensors.release()  # what was read beside the graphs
        values = dict(feeds)
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        for index, session in enumerate(self._sessions):
            later = {name for inputs in self._inputs[index + 1 :] for name in inputs}
            wanted = [name for name in self._outputs[index] if name in later or name in names]
            fed = {name: values[name] for name in self._inputs[index]}
            found = session.run(wanted, {**fed, **self._weights[index]}, options)
            kept = later.union(names)
            values = {name: array for name, array in values.items() if name in kept}
            values.update(zip(wanted, found, strict=True))
            del fed, found
            self._tensors.release()
        return_freed()
        return [values[name] for name in names]

    def end_profiling(self) -> Counter[str]:
        """Stop the profiling that starts with the sessions: execution provider → number of nodes it ran."""
        nodes: Counter[str] = Counter()
        for session in self._sessions:
            for event in json.loads(Path(session.end_profiling()).read_bytes()):
                provider = event.get("args", {}).get("provider")
                if provider and event["name"].endswith("_kernel_time"):
                    nodes[provider] += 1
        return nodes


def _weights(session: onnxruntime.InferenceSession, tensors: MappedTensors) -> Arrays:
    weights = {}
    for value in session.get_overridable_initializers():
        file, _, offset = value.name.rpartition("@")
        stored = StoredTensor(file, int(offset), _DTYPES[value.type], tuple(value.shape))
        weights[value.name] = tensors.tensor(stored)
    return weights


def _open_session(graph: Path, threads: int, trace: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = f"{trace}-{graph.stem}"
    # Shapes differ from fact to fact; remembering a memory plan for each would only grow.
    options.enable_mem_pattern = False
    # Waiting threads would burn the phone's energy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # An arena keeps the largest of everything it ever gave.
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    session.disable_fallback()
    return session
