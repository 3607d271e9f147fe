"""Samples the phone while an attempt runs, in its own thread so that a busy event loop leaves no holes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mobifarm.v1.agent_pb2 import TelemetryBatch, TelemetrySample, TelemetrySummary

_log = logging.getLogger(__name__)

PERIOD_S = 0.1
SAMPLES_PER_BATCH = 10


def boottime_ns() -> int:
    """Nanoseconds since the phone started, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Recorder:
    """Gathers samples into batches and into the summary of an attempt. Pure.

    Args:
        period_s: interval that was asked for; one longer than three of them counts as a gap.
    """

    def __init__(self, period_s: float = PERIOD_S, samples_per_batch: int = SAMPLES_PER_BATCH) -> None:
        self._longest_ns = round(3 * period_s * 1e9)
        self._samples_per_batch = samples_per_batch
        self._pending: list[TelemetrySample] = []
        self._samples = self._gaps = 0
        self._period_s = period_s
        self._first: TelemetrySample | None = None
        self._last: TelemetrySample | None = None

    def add(self, monotonic_ns: int, values: dict[str, float]) -> TelemetryBatch | None:
        """Take one sample; returns the batch that it completes."""
        sample = TelemetrySample(monotonic_ns=monotonic_ns, values=values)
        if self._last is not None and monotonic_ns - self._last.monotonic_ns > self._longest_ns:
            self._gaps += 1
        self._first = self._first or sample
        self._last = sample
        self._samples += 1
        self._pending.append(sample)
        return self.flush() if len(self._pending) >= self._samples_per_batch else None

    def flush(self) -> TelemetryBatch | None:
        """The samples that wait for a full batch, if any."""
        if not self._pending:
            return None
        batch = TelemetryBatch(samples=self._pending)
        self._pending = []
        return batch

    def summary(self) -> TelemetrySummary:
        """What was recorded so far."""
        return TelemetrySummary(
            samples=self._samples,
            period_s=self._period_s,
            gaps=self._gaps,
            first=self._first,
            last=self._last,
        )


class Sampler:
    """A thread that reads the sensors at a fixed period from ``start`` to ``stop``, both ends included."""

    def __init__(
        self,
        read: Callable[[], dict[str, float]],
        publish: Callable[[TelemetryBatch], None],
        *,
        period_s: float = PERIOD_S,
        clock_ns: Callable[[], int] = boottime_ns,
    ) -> None:
        self._read = read
        self._publish = publish
        self._period_s = period_s
        self._clock_ns = clock_ns
        self._recorder = Recorder(period_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, name="telemetry", daemon=True)

    def start(self) -> None:
        """Take the first sample and go on in the background."""
        self._thread.start()

    def stop(self) -> TelemetrySummary:
        """Take the last sample, publish what is left, and sum up."""
        self._stop.set()
        self._thread.join()
        self._sample()
        self._send(self._recorder.flush())
        return self._recorder.summary()

    def _sample_until_stopped(self) -> None:
        due_s = time.monotonic()
        while True:
            self._sample()
            now_s = time.monotonic()
            # A late sample does not make the next ones crowd: the grid moves on.
            due_s = max(due_s + self._period_s, now_s)
            if self._stop.wait(due_s - now_s):
                return

    def _sample(self) -> None:
        monotonic_ns = self._clock_ns()
        try:
            values = self._read()
        except Exception:
            # A sensor must never cost an edit; the sample then holds nothing.
            _log.exception("the sensors could not be read")
            values = {}
        self._send(self._recorder.add(monotonic_ns, values))

    def _send(self, batch: TelemetryBatch | None) -> None:
        if batch is not None:
            self._publish(batch)
