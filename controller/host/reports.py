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
    """The newest telemetry sample of a phone: sensor name to value in the unit of its description.

    ``monotonic_ns`` is the phone's own time of it, ``phase`` what it did then.
    """

    at: float
    device_id: str
    values: Mapping[str, float]
    monotonic_ns: int | None = None
    phase: str | None = None


@dataclass(frozen=True, slots=True)
class SamplesPiece:
    """Raw telemetry of an attempt that has ended, see :func:`mobifarm.workloads.samples.pack`.

    All pieces of an attempt come one after the other, before its :class:`AttemptFinished`.
    """

    at: float
    device_id: str
    attempt_id: str
    number: int  # from 0
    of: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PhoneSeen:
    """A phone is plugged in at this address. ``observed``: it was plugged in while the host looked on."""

    at: float
    host: str
    address: str
    source: str
    observed: bool


@dataclass(frozen=True, slots=True)
class PhoneSettling:
    """A phone goes in and out and is left alone until this unix time, if it stays calm."""

    at: float
    device_id: str
    until: float


@dataclass(frozen=True, slots=True)
class DiscoveryNotice:
    """Phones of this source cannot be seen on the host, and what to do; "" where they can again."""

    at: float
    host: str
    source: str
    reason: str
    action: str


Fleeting = AttemptProgress | TransferProgress | Reading | PhoneSettling | DiscoveryNotice
Report = Event | Fleeting | PhoneSeen | SamplesPiece
