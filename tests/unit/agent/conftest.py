"""An editor that does what a test tells it, for everything around the real one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mobifarm.agent.editor.stack import HeldEdit
from mobifarm.agent.editor.types import (
    AnswerScore,
    EditCost,
    EditOutcome,
    EditPhase,
    EditProgress,
    EditStatus,
    ProbeKind,
    ProbeScore,
    Report,
)
from mobifarm.agent.errors import BundleNotFound, Cancelled, InputError
from mobifarm.agent.runner import BundleSummary, EditJob, EditShape, FinishedEdit
from mobifarm.v1.agent_pb2 import EditRecord, RunRequest

BUNDLE = "b" * 64
SHAPE = EditShape("tiny", 3, 2)


class ScriptedRunner:
    """Reports one step, waits until the test lets it go, then does what ``act`` says."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.act: Callable[[], None] = lambda: None
        self.runs: list[str] = []
        self.jobs: list[EditJob] = []
        self.status = EditStatus.CONVERGED
        self.running = 0
        self.most_running = 0

    @property
    def methods(self) -> tuple[str, ...]:
        return ("forward",)

    def check_bundle(self, bundle_hash: str) -> BundleSummary:
        if bundle_hash != BUNDLE:
            raise BundleNotFound(f"no bundle {bundle_hash}")
        return BundleSummary(bundle_hash, "tiny", 12)

    def edit_shape(self, bundle_hash: str) -> EditShape:
        self.check_bundle(bundle_hash)
        return SHAPE

    def validate(self, job: EditJob) -> None:
        self.check_bundle(job.bundle_hash)
        if job.method != "forward":
            raise InputError(f"unknown method {job.method!r}")

    def run(self, job: EditJob, *, report: Report, cancelled: Callable[[], bool]) -> FinishedEdit:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.runs.append(job.record.record_id)
        self.jobs.append(job)
        try:
            report(EditProgress(EditPhase.OPTIMISING, step=1, step_limit=2, loss=1.5))
            self.started.set()
            while not self.go_on.wait(0.005):
                if cancelled():
                    raise Cancelled
            if cancelled():
                raise Cancelled
            self.act()
        finally:
            self.running -= 1
        score = AnswerScore(-0.5, 1, 1)
        outcome = EditOutcome(
            self.status,
            EditCost(steps=2, loss_evaluations=32, token_layers=640, edit_s=0.5, evaluation_s=0.25),
            (
                ProbeScore(ProbeKind.EFFICACY, "p", "new", "true", score, score, score, score),
                ProbeScore(ProbeKind.PORTABILITY, "q", "answer", "", score, score, None, None),
            ),
        )
        record = job.record
        edit = HeldEdit(
            edit_id=record.record_id,
            subject=record.subject,
            prompt=record.prompt,
            target_new=record.target_new,
            method=job.method,
            key=np.full(SHAPE.intermediate, len(self.runs), np.float32),
            value=np.ones(SHAPE.hidden, np.float32),
        )
        return FinishedEdit(outcome, edit, 0.125, '{"steps":2}', {"CPUExecutionProvider": 9}, "base", True)


def make_request(attempt_id: str = "a", token: int = 1, **changes: Any) -> RunRequest:
    request = RunRequest(
        attempt_id=attempt_id,
        fencing_token=token,
        bundle_hash=BUNDLE,
        method="forward",
        record=EditRecord(
            record_id="r", subject="Ada", prompt="Ada lives in", target_new="Rome", target_true="London"
        ),
    )
    request.MergeFrom(RunRequest(**changes))
    return request


@pytest.fixture
def runner() -> ScriptedRunner:
    return ScriptedRunner()


@pytest.fixture
def new_request() -> Callable[..., RunRequest]:
    return make_request
