"""The phone's neural processor, used as long as it computes what the processor does."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from mobifarm.agent.backends.interface import Backend, BackendError
from mobifarm.agent.backends.worker import SocketLink, WorkerBackend
from mobifarm.agent.editor.evaluation import Scorer, questions, tokenize_questions
from mobifarm.agent.editor.npu import (
    AcceleratedBundle,
    NpuModel,
    accelerator_report,
    compiled_folder,
    npu_graphs,
)
from mobifarm.agent.editor.stack import EditStack
from mobifarm.agent.editor.types import EditOutcome, EditRecord
from mobifarm.agent.properties import read_properties

PROCESSOR = "cpu"
WORKER_SOCKET = "npu/worker.sock"
_NO_GRAPHS = "the bundle has no graphs for neural processors: build it with --npu"
_NO_WORKER = "no worker for a neural processor runs on this phone"
_PROCESSOR_WORKER = "the worker runs the graphs on the processor: start it without --soc cpu"
_log = logging.getLogger(__name__)


class Accelerator:
    """The worker that owns the neural processor, found at its socket in the agent's folder.

    Args:
        home: the agent's folder; compiled graphs may lie there too.

    Attributes:
        reason: why it is not used; "" where it is. Once it failed, it is not used until the agent starts
        anew.
    """

    def __init__(self, home: Path) -> None:
        self._home, self._worker = home, home / WORKER_SOCKET
        self._backend: Backend | None = None
        self._quarantined = ""
        self.reason = ""

    def attach(self, bundle: AcceleratedBundle, folder: Path) -> None:
        """Let the bundle use it, checked on its probe batch; :attr:`reason` says why not."""
        bundle.attach(None)
        self.reason = self._quarantined
        graphs = npu_graphs(bundle.manifest)
        if graphs is None:
            self.reason = _NO_GRAPHS
            self.close()  # agent and worker would keep the graphs of the model before
        elif self._backend is None and not self.reason and not SocketLink(self._worker).listens():
            self.reason = _NO_WORKER
        elif not self.reason:
            try:
                backend = self._backend or WorkerBackend(SocketLink(self._worker))
                self._backend = backend
                chip = read_properties().get("ro.soc.model", "")
                compiled = compiled_folder(self._home, bundle.bundle_hash, chip)
                bundle.attach(NpuModel(folder, graphs, backend, compiled))
            except BackendError as error:
                self.quarantine(bundle, str(error))

    def quarantine(self, bundle: AcceleratedBundle, reason: str) -> None:
        """Use it no more; the phone goes on with its processor."""
        _log.error("the neural processor is not used any more: %s", reason)
        self._quarantined = self.reason = reason
        bundle.attach(None)
        self.close()

    def close(self) -> None:
        """Let the worker go."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def describe(
        self, bundle: AcceleratedBundle, record: EditRecord, outcome: EditOutcome, stack: EditStack
    ) -> tuple[str, str]:
        """Where an edit ran: the name of the accelerator and what is told about it, as JSON.

        The scores after the edit are taken on the processor too, with the graphs of the bundle that need no
        neural processor.
        """
        npu = bundle.npu
        if npu is None:
            # Of a bundle without graphs for one, nobody wants to hear why it was not used.
            has_graphs = npu_graphs(bundle.manifest) is not None
            return PROCESSOR, json.dumps({"reason": self.reason, "bundle_has_graphs": has_graphs})
        report: dict[str, Any] = accelerator_report(npu, bundle)
        if npu.backend.accelerator == PROCESSOR:
            report["reason"] = _PROCESSOR_WORKER
        scorer = Scorer(bundle, tokenize_questions(bundle, questions(record)))
        # Of the search's difference steps the longest, in units of ‖v0‖; null of a method that takes its own.
        report["perturbation"] = outcome.perturbation
        there = scorer.score(stack.side_input(), lambda: None)
        report["processor"] = {
            "largest_score_difference_nats": max(
                abs(score.wanted_after.log_probability - wanted.log_probability)
                for score, (wanted, _) in zip(outcome.scores, there, strict=True)
            ),
            "scores_after": [
                [wanted.log_probability, None if other is None else other.log_probability]
                for wanted, other in there
            ],
        }
        return npu.backend.accelerator, json.dumps(report)
