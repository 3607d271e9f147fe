"""What a host tells the controller: durable events of the core, and fleeting readings, never stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mobifarm.controller.core.events import Event


@dataclass(frozen=True, slots=True)
class AttemptProgress:
    """How far a running edit is. ``loss`` in nats; None before the first step."""

    at: float
    device_id: str
    attempt_id: str
    phase: str
    step: int
    step_limit: int
    loss: float | None
    target_probability: float | None
    loss_evaluations: int


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """Bytes of a runtime or a model bundle on their way to a phone."""

    at: float
    device_id: str
    what: str
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Reading:
    """The newest telemetry sample of a phone: sensor name to value in the unit of its description."""

    at: float
    device_id: str
    values: Mapping[str, float]


Report = Event | AttemptProgress | TransferProgress | Reading
