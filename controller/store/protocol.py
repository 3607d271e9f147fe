"""What the farm needs from a durable store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from mobifarm.controller.core.events import Event
from mobifarm.controller.store.projection import Record


class Store(Protocol):
    """An append-only log with one writer, which keeps tables for readers in step with it."""

    @property
    def epoch(self) -> int:
        """Number of this opening, higher than all before; what ``ControllerStarted`` carries."""
        ...

    def load(self) -> Iterator[Event]:
        """All events in order, without payloads and results (``without_bulk``): what replay needs."""
        ...

    def append_records(self, records: Sequence[Record]) -> Future[int]:
        """Write events in order; the future gives the number of the last once all are durable."""
        ...

    def payload(self, trial_id: str) -> dict[str, Any]:
        """What the trial's phone is to do, as submitted."""
        ...

    def payloads(self, trial_ids: Sequence[str]) -> Mapping[str, dict[str, Any]]:
        """Those of several trials in one look; of a trial that is not known nothing."""
        ...

    def close(self) -> None:
        """Write what was appended, then release the store."""
        ...
