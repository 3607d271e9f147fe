"""What is counted from the events of a running farm: attempts, edits, their seconds and their quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    DeviceForgotten,
    DeviceLost,
    DeviceReady,
    Event,
    HostLost,
    JobCancelled,
    LeaseExpired,
    LeaseGranted,
)
from mobifarm.controller.core.state import Attempt, FarmState
from mobifarm.controller.metrics import families as f
from mobifarm.controller.metrics.families import Family
from mobifarm.workloads.scores import quality

# From an edit on a computer with the model in memory to ten minutes on a slow phone.
SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
_PHASES: Final = {"load": "load_s", "edit": "edit_s", "evaluation": "evaluation_s"}
_MEASURES: Final = ("edit_success", "paraphrase_success", "neighbourhood_success")
_RAN: Final = ("converged", "step_limit")


class Tally:
    """Follows the events of a farm, after each is durable, from when the controller started.

    Attributes:
        accelerators: by device, of its newest result since it connected.
        away_since: by device that was connected and is not, unix time.
        moved_at: by open job, unix time at which something of it last began or ended.
    """

    def __init__(self, state: Callable[[], FarmState], registry: CollectorRegistry) -> None:
        # A series of creation times beside every counter would say nothing here.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._state = state
        self.accelerators: dict[str, str] = {}
        self.away_since: dict[str, float] = {}
        self.moved_at: dict[str, float] = {}

        def counter(family: Family) -> Counter:
            return Counter(family.name, family.help, family.labels, registry=registry)

        self._attempts = counter(f.ATTEMPTS)
        self._edits = counter(f.EDITS)
        self._evaluations = counter(f.EVALUATIONS)
        self._token_layers = counter(f.TOKEN_LAYERS)
        duration, share = f.DURATION, f.QUALITY
        self._duration = Histogram(
            duration.name, duration.help, duration.labels, registry=registry, buckets=SECONDS
        )
        self._quality = Summary(share.name, share.help, share.labels, registry=registry)
        for outcome in ("done", "failed", "broken", "expired"):
            self._attempts.labels(outcome)  # a rate needs the zero before the first one

    def note(self, event: Event) -> None:
        """Count one event that has been applied to the state."""
        match event:
            case LeaseGranted():
                self._moved(event.attempt_id, event.at)
            case AttemptFinished():
                self._finished(event)
            case AttemptFailed():
                self._attempts.labels("broken").inc()
                self._moved(event.attempt_id, event.at)
            case LeaseExpired():
                self._attempts.labels("expired").inc()
                self._moved(event.attempt_id, event.at)
            case JobCancelled():
                self.moved_at.pop(event.job_id, None)
            case DeviceLost():
                self.accelerators.pop(event.device_id, None)
                self.away_since.setdefault(event.device_id, event.at)
            case HostLost():  # its phones have no event of their own
                for device in self._state().devices.values():
                    if device.joined_host == event.host and not device.connected:
                        self.accelerators.pop(device.device_id, None)
                        self.away_since.setdefault(device.device_id, event.at)
            case DeviceReady() | DeviceForgotten():
                self.accelerators.pop(event.device_id, None)
                self.away_since.pop(event.device_id, None)

    def _moved(self, attempt_id: str, at: float) -> Attempt | None:
        state = self._state()
        attempt = state.attempts.get(attempt_id)
        if attempt is not None:
            if state.jobs[attempt.job_id].open:
                self.moved_at[attempt.job_id] = at
            else:
                self.moved_at.pop(attempt.job_id, None)
        return attempt

    def _finished(self, event: AttemptFinished) -> None:
        attempt = self._moved(event.attempt_id, event.at)
        if attempt is None or event.result is None:
            return
        trial = self._state().trials[attempt.trial_id]
        if trial.result_attempt_id != event.attempt_id:
            return  # it came too late and does not count
        result: Mapping[str, Any] = event.result["result"]
        run = result.get("execution") or {}
        if accelerator := run.get("accelerator"):
            self.accelerators[event.device_id] = str(accelerator)
        edit = (trial.method or "unknown", attempt.execution)
        status = str(result.get("status"))
        self._attempts.labels("failed" if event.failed else "done").inc()
        self._edits.labels(*edit, status if status in _RAN else "failed").inc()
        if status not in _RAN:
            return
        cost = result.get("cost") or {}
        for phase, name in _PHASES.items():
            if (seconds := _number(cost.get(name))) is not None:
                self._duration.labels(phase, *edit).observe(seconds)
        self._evaluations.labels(*edit).inc(_number(cost.get("loss_evaluations")) or 0)
        self._token_layers.labels(*edit).inc(_number(cost.get("token_layers")) or 0)
        found = quality(result.get("scores") or (), "after")
        for measure in _MEASURES:
            if (share := getattr(found, measure)) is not None:
                self._quality.labels(measure, *edit).observe(share)


def _number(value: object) -> float | None:
    """A phone's number where it is one that can be counted."""
    return value if isinstance(value, int | float) and math.isfinite(value) and value >= 0 else None
