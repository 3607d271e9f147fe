"""Static graphs on the processor: the reference, and the way where there is no accelerator."""

from __future__ import annotations

from typing import Any

import onnxruntime
from numpy.typing import NDArray

from mobifarm.agent.backends.interface import Arrays, BackendError, Placement


class CpuBackend:
    """A Backend on ONNX Runtime's CPU provider. What a quantised graph says is computed as it stands:
    operators are not fused, so that every rounding of the graph takes place."""

    accelerator = "cpu"
    restarts = 0

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def load(self, graph: str, model: bytes) -> None:
        """See Backend."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._sessions[graph] = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise BackendError(f"the graph {graph} cannot be opened: {first_line(error)}") from error

    def run(self, graph: str, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """See Backend."""
        return run_session(self._sessions, graph, feeds)

    def placement(self) -> Placement:
        """See Backend. Nothing runs on an accelerator."""
        return Placement(0, 0, None, "no accelerator")

    def close(self) -> None:
        """See Backend."""
        self._sessions.clear()


def run_session(
    sessions: dict[str, onnxruntime.InferenceSession], graph: str, feeds: Arrays
) -> dict[str, NDArray[Any]]:
    """All outputs of a session by name. Raises BackendError."""
    session = sessions.get(graph)
    if session is None:
        raise BackendError(f"no graph {graph!r} is loaded")
    try:
        found = session.run(None, dict(feeds))
    except Exception as error:
        raise BackendError(f"the graph {graph} failed: {first_line(error)}") from error
    return {output.name: array for output, array in zip(session.get_outputs(), found, strict=True)}


def first_line(error: Exception) -> str:
    """An error of ONNX Runtime in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
