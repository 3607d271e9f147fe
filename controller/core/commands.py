"""What the farm does to phones. Commands of one phone run in order, after their event is durable.

Each is safe to run twice and safe to lose: what was lost is derived again when the phone is next ready.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Start the attempt, or attach to it where the phone has it; the store holds the trial's payload."""

    device_id: str
    attempt_id: str
    trial_id: str
    fencing_token: int


@dataclass(frozen=True, slots=True)
class CancelAttempt:
    """Stop the attempt; a phone that does not know it is fine."""

    device_id: str
    attempt_id: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Let the phone drop the attempt's result: it is stored, or nobody wants it."""

    device_id: str
    attempt_id: str


@dataclass(frozen=True, slots=True)
class CheckHealth:
    """Let the phone do a small known edit and report how it went."""

    device_id: str
    check_id: str
    fencing_token: int


Command = Dispatch | CancelAttempt | Acknowledge | CheckHealth
