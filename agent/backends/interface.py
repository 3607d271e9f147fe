"""What the editor needs of a thing that runs static graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from mobifarm.agent.errors import AgentError

Arrays = Mapping[str, NDArray[Any]]


class BackendError(AgentError):
    """The accelerator cannot be used, or gave no answer in time; the message says why."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the operators of the graphs ran.

    Attributes:
        operators: graph nodes that ran, those of all sessions together.
        on_accelerator: how many of them on the accelerator.
        estimated_cycles: of one run on the accelerator, where it tells; of an emulator an estimate.
        proof: what the numbers were read from.
    """

    operators: int
    on_accelerator: int
    estimated_cycles: int | None
    proof: str

    @property
    def share(self) -> float:
        """Share of the operators that ran on the accelerator, 0 to 1."""
        return self.on_accelerator / self.operators if self.operators else 0.0


class Backend(Protocol):
    """Runs static graphs. Any method may raise BackendError; after one, load all graphs anew or close it."""

    @property
    def accelerator(self) -> str:
        """``cpu``, ``htp_emulator`` or ``htp_hardware``."""

    @property
    def restarts(self) -> int:
        """How many times something else took the place of what ran the graphs, and opened them anew: what
        was checked before holds no more."""

    def load(self, graph: str, model: bytes) -> None:
        """Open an ONNX model under the name ``graph``, in place of one that has it."""

    def run(self, graph: str, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """All outputs of a graph by name."""

    def placement(self) -> Placement:
        """Where the graphs that ran so far ran; of the first run of each."""

    def close(self) -> None:
        """Give all graphs back. May be called twice."""
