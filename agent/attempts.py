"""The attempts that the phone holds: one runs, finished ones wait until they are acknowledged. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mobifarm.agent.errors import Busy, InputError
from mobifarm.v1.agent_pb2 import EditResult, RunRequest

_LONGEST_ID = 200


@dataclass(slots=True)
class Attempt:
    """One request and, once it is finished, its result."""

    request: RunRequest
    result: EditResult | None = None

    @property
    def attempt_id(self) -> str:
        """The farm's name of the attempt."""
        return self.request.attempt_id


class Attempts:
    """All held attempts by id.

    Args:
        finished: what the journal brought over from an earlier start.
    """

    def __init__(self, finished: Iterable[tuple[RunRequest, EditResult]] = ()) -> None:
        self._held = {request.attempt_id: Attempt(request, result) for request, result in finished}

    def held(self) -> list[Attempt]:
        """Every held attempt, oldest first."""
        return list(self._held.values())

    def running(self) -> Attempt | None:
        """The attempt that has no result yet."""
        return next((attempt for attempt in self._held.values() if attempt.result is None), None)

    def get(self, attempt_id: str) -> Attempt | None:
        """The held attempt of that id."""
        return self._held.get(attempt_id)

    def find(self, request: RunRequest) -> Attempt | None:
        """The held attempt to attach to, or None where a new one may start.

        A newer lease may attach to an older one's attempt: the fencing token is no part of the request.

        Raises:
            InputError: the id was given to another request.
            Busy: another attempt runs.
        """
        held = self._held.get(request.attempt_id)
        if held is not None:
            if _without_fencing_token(held.request) != _without_fencing_token(request):
                raise InputError(
                    f"attempt {request.attempt_id} is already held with another request: "
                    "give every attempt its own attempt_id"
                )
            return held
        self.refuse_while_running()
        return None

    def refuse_while_running(self) -> None:
        """Raises Busy where an attempt has no result yet."""
        running = self.running()
        if running is not None:
            raise Busy(
                f"attempt {running.attempt_id} is running and the phone does one thing at a time: "
                "wait for its result or cancel it"
            )

    def start(self, request: RunRequest) -> Attempt:
        """Hold a new running attempt; ``find`` has just returned None for it."""
        assert self.find(request) is None
        copy = RunRequest()
        copy.CopyFrom(request)
        attempt = self._held[request.attempt_id] = Attempt(copy)
        return attempt

    def finish(self, attempt_id: str, result: EditResult) -> None:
        """Give the running attempt its result."""
        attempt = self._held[attempt_id]
        assert attempt.result is None
        attempt.result = result

    def drop(self, attempt_id: str) -> None:
        """Forget an attempt; an unknown one is already forgotten."""
        self._held.pop(attempt_id, None)


def check_id(attempt_id: str) -> None:
    """Raises InputError where an attempt cannot be told from others by this id."""
    if not attempt_id.strip() or len(attempt_id) > _LONGEST_ID:
        raise InputError(f"attempt_id needs 1 to {_LONGEST_ID} characters")


def _without_fencing_token(request: RunRequest) -> RunRequest:
    copy = RunRequest()
    copy.CopyFrom(request)
    copy.ClearField("fencing_token")
    return copy
