"""Samples the phone while an attempt runs, in its own thread so that a busy event loop leaves no holes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mobifarm.v1.agent_pb2 import (
    EDIT_PHASE_IDLE,
    EditPhase,
    PhaseStart,
    TelemetryBatch,
    TelemetrySample,
    TelemetrySummary,
)

_log = logging.getLogger(__name__)

PERIOD_S = 0.1
SAMPLES_PER_BATCH = 10
IDLE_PERIOD_S = 1.0
IDLE_SAMPLES = 120
_LONG_ENOUGH_S = 10.0  # a newer stretch of this length takes the place of a longer one
IDLE_VALID_S = 1800.0  # a phone's idle power may be another after so long

_Read = Callable[[], dict[str, float]]


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
        self._phases: list[PhaseStart] = []
        self._step = 0
        self._step_began_ns: int | None = None
        self._step_s = 0.0

    def enter(self, monotonic_ns: int, phase: EditPhase.ValueType, step: int = 0) -> bool:
        """Note what the attempt does from now on; returns whether that is another phase."""
        if step != self._step:
            # A phase may begin at the last step's number: only what lies between two numbers was a step.
            if self._step_began_ns is not None and step == self._step + 1:
                self._step_s = (monotonic_ns - self._step_began_ns) / 1e9
            self._step, self._step_began_ns = step, monotonic_ns
        if self._phases and self._phases[-1].phase == phase:
            return False
        self._phases.append(PhaseStart(phase=phase, monotonic_ns=monotonic_ns))
        return True

    def add(self, monotonic_ns: int, values: dict[str, float]) -> TelemetryBatch | None:
        """Take one sample; returns the batch that it completes."""
        sample = TelemetrySample(
            monotonic_ns=monotonic_ns,
            values=values,
            phase=self._phases[-1].phase if self._phases else EDIT_PHASE_IDLE,
            step=self._step,
            step_s=self._step_s,
        )
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

    def summary(self, ended_ns: int) -> TelemetrySummary:
        """What was recorded until the attempt ended."""
        return TelemetrySummary(
            samples=self._samples,
            period_s=self._period_s,
            gaps=self._gaps,
            first=self._first,
            last=self._last,
            phases=self._phases,
            ended_ns=ended_ns,
        )


class Sampler:
    """A thread that reads the sensors at a fixed period from ``start`` to ``stop``, both ends included.

    A new phase gets a sample of its own at once: energy is told between phases.
    """

    def __init__(
        self,
        read: _Read,
        publish: Callable[[TelemetryBatch], None],
        *,
        period_s: float = PERIOD_S,
        clock_ns: Callable[[], int] = boottime_ns,
        services_cpu_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._read = read
        self._publish = publish
        self._period_s = period_s
        self._clock_ns = clock_ns
        self._services_cpu_s = services_cpu_s
        self._recorder = Recorder(period_s)
        self._lock = threading.Lock()  # of the recorder
        self._wake = threading.Event()
        self._stopping = False
        self._cpu_s = 0.0
        self._cpu_before_s = (0.0, 0.0)  # of the process, and of the services
        self._thread = threading.Thread(target=self._sample_until_stopped, name="telemetry", daemon=True)

    def start(self) -> None:
        """Take the first sample and go on in the background."""
        self._cpu_before_s = time.process_time(), self._services_cpu_s()
        self._thread.start()

    def enter(self, phase: EditPhase.ValueType, step: int = 0) -> None:
        """The attempt has come so far."""
        with self._lock:
            is_new = self._recorder.enter(self._clock_ns(), phase, step)
        if is_new:
            self._wake.set()

    def stop(self) -> TelemetrySummary:
        """Take the last sample, publish what is left, and sum up."""
        ended_ns = self._clock_ns()
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._sample()
        with self._lock:
            rest, summary = self._recorder.flush(), self._recorder.summary(ended_ns)
        if rest is not None:
            self._publish(rest)
        process_s, services_s = self._cpu_before_s
        services_s = self._services_cpu_s() - services_s
        summary.sampling_cpu_s = self._cpu_s + services_s
        summary.process_cpu_s = time.process_time() - process_s + services_s
        return summary

    def _sample_until_stopped(self) -> None:
        due_s = time.monotonic()
        while not self._stopping:
            self._wake.clear()
            self._sample()
            self._cpu_s = time.thread_time()
            now_s = time.monotonic()
            # A late sample does not make the next ones crowd: the grid moves on.
            if now_s >= due_s:
                due_s = max(due_s + self._period_s, now_s)
            self._wake.wait(due_s - now_s)

    def _sample(self) -> None:
        monotonic_ns = self._clock_ns()
        values = _read_all(self._read)
        with self._lock:
            batch = self._recorder.add(monotonic_ns, values)
        if batch is not None:
            self._publish(batch)


class IdleSampler:
    """A thread that reads the sensors once a second while the phone has no work, and keeps the last samples.

    They show what the phone draws without an edit, and are what a host shows of a phone that waits.
    """

    def __init__(
        self,
        read: _Read,
        *,
        period_s: float = IDLE_PERIOD_S,
        clock_ns: Callable[[], int] = boottime_ns,
    ) -> None:
        self._read = read
        self._period_s = period_s
        self._clock_ns = clock_ns
        self._now: deque[TelemetrySample] = deque(maxlen=IDLE_SAMPLES)
        self._before: Sequence[TelemetrySample] = ()  # the stretch before the phone last had work
        self._listeners: set[Callable[[TelemetrySample], None]] = set()
        self._changed = threading.Condition()
        self._busy = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._sample_while_idle, name="idle telemetry", daemon=True)

    def start(self) -> None:
        """Begin in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when no sample is taken any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """The phone has work meanwhile: no sample is taken. May be nested."""
        with self._changed:
            self._busy += 1
            known_s = _duration_s(self._valid(self._before))
            if self._now and _duration_s(self._now) >= min(known_s, _LONG_ENOUGH_S):
                self._before = tuple(self._now)
            self._now.clear()
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def listen(self, listener: Callable[[TelemetrySample], None]) -> None:
        """Have every new sample told to ``listener``, from the sampling thread."""
        with self._changed:
            self._listeners.add(listener)

    def forget(self, listener: Callable[[TelemetrySample], None]) -> None:
        """Tell it no more."""
        with self._changed:
            self._listeners.discard(listener)

    def window(self) -> Sequence[TelemetrySample]:
        """A stretch of the last half hour in which the phone had no work, oldest sample first."""
        with self._changed:
            stretches = (list(self._now), list(self._valid(self._before)))
            return max(stretches, key=lambda one: (_duration_s(one), len(one)))

    def longest_s(self) -> float:
        """How long the phone lay still in the window."""
        return _duration_s(self.window())

    def lie_still(self, duration_s: float, cancelled: threading.Event) -> None:
        """See the phone idle for so long, in this thread and while it counts as having work.

        For an attempt that wants to know what the phone draws without it; the next ones know it then, too.
        """
        period_s = max(PERIOD_S, duration_s / IDLE_SAMPLES)
        samples: list[TelemetrySample] = []
        while not cancelled.is_set():
            monotonic_ns, values = self._clock_ns(), _read_all(self._read)
            samples.append(TelemetrySample(monotonic_ns=monotonic_ns, values=values, phase=EDIT_PHASE_IDLE))
            if _duration_s(samples) >= duration_s:
                with self._changed:
                    self._before = tuple(samples)
                return
            cancelled.wait(period_s)

    def _valid(self, samples: Sequence[TelemetrySample]) -> Sequence[TelemetrySample]:
        oldest_ns = self._clock_ns() - round(IDLE_VALID_S * 1e9)
        return samples if samples and samples[-1].monotonic_ns >= oldest_ns else ()

    def _sample_while_idle(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._busy == 0)
                interrupted = self._changed.wait_for(
                    lambda: self._stopping or self._busy > 0, timeout=self._period_s
                )
                if self._stopping:
                    return
            if interrupted:
                continue
            monotonic_ns, values = self._clock_ns(), _read_all(self._read)
            with self._changed:
                if self._busy:
                    continue  # work began while the sensors were read
                sample = TelemetrySample(monotonic_ns=monotonic_ns, values=values, phase=EDIT_PHASE_IDLE)
                self._now.append(sample)
                listeners = list(self._listeners)
            for listener in listeners:
                listener(sample)


def _duration_s(samples: Sequence[TelemetrySample]) -> float:
    return (samples[-1].monotonic_ns - samples[0].monotonic_ns) / 1e9 if samples else 0.0


def _read_all(read: _Read) -> dict[str, float]:
    try:
        return read()
    except Exception:
        # A sensor must never cost an edit; the sample then holds nothing.
        _log.exception("the sensors could not be read")
        return {}
