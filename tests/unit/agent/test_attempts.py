"""The attempts a phone holds, against a model of plain sets."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mobifarm.agent.attempts import Attempts, check_id
from mobifarm.agent.errors import Busy, InputError
from mobifarm.v1.agent_pb2 import EditResult, RunRequest

ids = st.sampled_from("abcd")


class AttemptsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.attempts = Attempts()
        self.running: str | None = None
        self.finished: dict[str, EditResult] = {}
        self.seeds: dict[str, int] = {}

    @rule(attempt_id=ids, seed=st.integers(0, 1), token=st.integers(0, 9))
    def run(self, attempt_id: str, seed: int, token: int) -> None:
        request = RunRequest(attempt_id=attempt_id, seed=seed, fencing_token=token)
        if attempt_id in self.seeds:
            if seed != self.seeds[attempt_id]:
                with pytest.raises(InputError, match="another request"):
                    self.attempts.find(request)
            else:
                held = self.attempts.find(request)
                assert held is not None
                assert held.result == self.finished.get(attempt_id)
        elif self.running is not None:
            with pytest.raises(Busy, match=f"attempt {self.running} is running"):
                self.attempts.find(request)
        else:
            assert self.attempts.find(request) is None
            self.attempts.start(request)
            self.running = attempt_id
            self.seeds[attempt_id] = seed

    @precondition(lambda self: self.running is not None)
    @rule()
    def finish(self) -> None:
        assert self.running is not None
        result = EditResult(attempt_id=self.running)
        self.attempts.finish(self.running, result)
        self.finished[self.running] = result
        self.running = None

    @rule(attempt_id=ids)
    def drop(self, attempt_id: str) -> None:
        self.attempts.drop(attempt_id)
        self.finished.pop(attempt_id, None)
        self.seeds.pop(attempt_id, None)
        if self.running == attempt_id:
            self.running = None

    @rule()
    def restart(self) -> None:
        """Only what was finished is in the journal."""
        kept = [
            (attempt.request, attempt.result)
            for attempt in self.attempts.held()
            if attempt.result is not None
        ]
        self.attempts = Attempts(kept)
        if self.running is not None:
            del self.seeds[self.running]
            self.running = None

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        running = self.attempts.running()
        assert (running.attempt_id if running else None) == self.running
        assert {attempt.attempt_id for attempt in self.attempts.held()} == self.seeds.keys()
        assert sum(attempt.result is None for attempt in self.attempts.held()) <= 1


TestAttempts = AttemptsMachine.TestCase


@pytest.mark.parametrize("attempt_id", ["", "  ", "x" * 201])
def test_an_id_must_tell_attempts_apart(attempt_id: str):
    with pytest.raises(InputError, match="attempt_id"):
        check_id(attempt_id)
