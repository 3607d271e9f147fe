"""How long trials take on phones, as far as a log tells, for what it does not tell. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median
from typing import Final

from mobifarm.controller.core.state import DELIVERED, FarmState, Trial

NOTHING_KNOWN_S: Final = 60.0

# From the surest to the weakest; reports list them in this order.
SOURCES: Final = ("measured", "scaled", "of its kind", "of any kind", "assumed")


class Durations:
    """Seconds of a trial on a phone: measured where the log has that pair, estimated otherwise.

    ``scaled``: the same trial was measured on another phone, and the two phones' speeds are compared by what
    they did. ``of its kind``: the median of the job's trials with the same method, by the phone's speed.
    ``of any kind``: the same over all jobs. ``assumed``: the log has no finished trial at all, so a minute.

    A lease during which the controller was started anew is not taken as a measurement: it holds the time in
    which nobody listened.
    """

    def __init__(self, recorded: FarmState) -> None:
        self.used: Counter[str] = Counter()
        self._measured: dict[str, dict[str, float]] = defaultdict(dict)  # trial -> phone -> seconds
        kinds: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for attempt in recorded.attempts.values():
            whole = attempt.counted_from == attempt.granted_at and attempt.ended_at is not None
            if attempt.state in DELIVERED and whole:
                seconds = max(0.0, (attempt.ended_at or 0.0) - attempt.granted_at)
                trial = recorded.trials[attempt.trial_id]
                self._measured[trial.trial_id][attempt.device_id] = seconds
                kinds[trial.job_id, trial.method].append(seconds)
        self._kinds = {kind: median(seconds) for kind, seconds in kinds.items()}
        every = [seconds for of_kind in kinds.values() for seconds in of_kind]
        self._any = median(every) if every else None
        ratios: defaultdict[str, list[float]] = defaultdict(list)
        for trial_id, by_phone in self._measured.items():
            trial = recorded.trials[trial_id]
            usual = self._kinds[trial.job_id, trial.method]
            for device_id, seconds in by_phone.items():
                if usual > 0:
                    ratios[device_id].append(seconds / usual)
        self._slowness = {device_id: median(of_phone) for device_id, of_phone in ratios.items()}

    def of(self, trial: Trial, device_id: str) -> float:
        """Seconds from lease to result; counts in ``used`` where they come from."""
        source, seconds = self._look_up(trial, device_id)
        self.used[source] += 1
        return seconds

    def _look_up(self, trial: Trial, device_id: str) -> tuple[str, float]:
        measured = self._measured.get(trial.trial_id, {})
        if device_id in measured:
            return "measured", measured[device_id]
        slowness = self._slowness.get(device_id, 1.0)
        if measured:
            other, seconds = next(iter(measured.items()))
            return "scaled", seconds * slowness / (self._slowness.get(other) or 1.0)
        usual = self._kinds.get((trial.job_id, trial.method))
        if usual is not None:
            return "of its kind", usual * slowness
        if self._any is not None:
            return "of any kind", self._any * slowness
        return "assumed", NOTHING_KNOWN_S
