"""What a policy is. It only proposes: the controller turns proposals into leases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mobifarm.controller.core.state import FarmState


@dataclass(frozen=True, slots=True)
class Assignment:
    trial_id: str
    device_id: str


class Policy(Protocol):
    """An interchangeable rule of scheduling. It reads the state and never changes it.

    It depends on its arguments alone: what it remembers between calls makes it faster, never different.
    """

    @property
    def name(self) -> str: ...

    @property
    def work_conserving(self) -> bool:
        """Whether it leaves no phone idle that could start a trial now."""
        ...

    def assign(self, state: FarmState, now: float) -> Sequence[Assignment]:
        """Pairs to lease now: pending trials with free phones, each trial and each phone at most once."""
        ...
