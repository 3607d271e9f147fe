"""Batches and summaries of samples."""

from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.telemetry import IDLE_VALID_S, IdleSampler, Recorder, Sampler
from mobifarm.v1 import agent_pb2 as pb


def test_batches_hold_ten_samples_in_order():
    recorder = Recorder(period_s=0.1)
    batches = [recorder.add(i * 100_000_000, {"x": float(i)}) for i in range(25)]

    full = [batch for batch in batches if batch is not None]
    assert [len(batch.samples) for batch in full] == [10, 10]
    assert [sample.values["x"] for sample in full[1].samples] == list(range(10, 20))
    rest = recorder.flush()
    assert rest is not None
    assert len(rest.samples) == 5
    assert recorder.flush() is None


def test_a_gap_is_an_interval_longer_than_three_periods():
    recorder = Recorder(period_s=0.1)
    for milliseconds in (0, 100, 400, 701, 800):
        recorder.add(milliseconds * 1_000_000, {})
    summary = recorder.summary(900_000_000)
    assert summary.ended_ns == 900_000_000
    assert (summary.samples, summary.gaps, summary.period_s) == (5, 1, 0.1)
    assert (summary.first.monotonic_ns, summary.last.monotonic_ns) == (0, 800_000_000)


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=50).map(sorted))
def test_no_sample_is_lost_or_doubled(times):
    recorder = Recorder(period_s=0.1)
    batches = [batch for time in times if (batch := recorder.add(time, {})) is not None]
    if (rest := recorder.flush()) is not None:
        batches.append(rest)
    assert [sample.monotonic_ns for batch in batches for sample in batch.samples] == times
    assert recorder.summary(0).samples == len(times)


def test_the_sampler_reads_at_both_ends_and_in_between():
    enough = threading.Event()
    times = iter(range(1, 10_000))
    read: list[int] = []
    published: list[int] = []

    def read_sensors() -> dict[str, float]:
        read.append(len(read))
        if len(read) == 12:
            enough.set()
        return {"x": float(len(read))}

    sampler = Sampler(
        read_sensors,
        lambda batch: published.append(len(batch.samples)),
        period_s=0.001,
        clock_ns=lambda: next(times),
    )
    sampler.start()
    assert enough.wait(30)
    summary = sampler.stop()

    assert summary.samples == len(read) == sum(published)
    assert published[0] == 10
    assert summary.first.values["x"] == 1.0
    assert summary.last.values["x"] == len(read)
    assert summary.gaps == 0


def test_a_failing_sensor_costs_its_values_and_nothing_else(caplog: pytest.LogCaptureFixture):
    def fail() -> dict[str, float]:
        raise ValueError("odd firmware")

    with caplog.at_level(logging.ERROR):
        sampler = Sampler(fail, lambda batch: None)
        sampler.start()
        summary = sampler.stop()
    assert summary.samples >= 1
    assert summary.last.values == {}
    assert "odd firmware" in caplog.text


def test_samples_tell_phase_step_and_how_long_the_last_step_took():
    recorder = Recorder(period_s=0.1)
    assert recorder.enter(0, pb.EDIT_PHASE_LOADING)
    recorder.add(0, {})
    recorder.enter(1_000_000_000, pb.EDIT_PHASE_OPTIMISING, 1)
    assert not recorder.enter(1_250_000_000, pb.EDIT_PHASE_OPTIMISING, 2)
    recorder.add(1_300_000_000, {})
    recorder.enter(1_400_000_000, pb.EDIT_PHASE_EVALUATING_AFTER, 2)
    recorder.add(1_500_000_000, {})
    batch = recorder.flush()
    assert batch is not None
    assert [(s.phase, s.step, s.step_s) for s in batch.samples] == [
        (pb.EDIT_PHASE_LOADING, 0, 0.0),
        (pb.EDIT_PHASE_OPTIMISING, 2, 0.25),
        (pb.EDIT_PHASE_EVALUATING_AFTER, 2, 0.25),
    ]
    starts = recorder.summary(2_000_000_000).phases
    assert [(start.phase, start.monotonic_ns) for start in starts] == [
        (pb.EDIT_PHASE_LOADING, 0),
        (pb.EDIT_PHASE_OPTIMISING, 1_000_000_000),
        (pb.EDIT_PHASE_EVALUATING_AFTER, 1_400_000_000),
    ]


def test_a_new_phase_has_its_sample_at_once():
    seen = threading.Event()

    def read_sensors() -> dict[str, float]:
        if sampler_started.is_set():
            seen.set()
        sampler_started.set()
        return {}

    sampler_started = threading.Event()
    sampler = Sampler(read_sensors, lambda batch: None, period_s=3600.0)
    sampler.start()
    assert sampler_started.wait(30)
    sampler.enter(pb.EDIT_PHASE_CACHING)
    assert seen.wait(30)
    summary = sampler.stop()
    assert summary.samples == 3
    assert 0 < summary.sampling_cpu_s <= summary.process_cpu_s + 1e-3


class Idle:
    """An idle sampler that takes samples as fast as it can, with a clock of the test's."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.taken = threading.Semaphore(0)
        self.sampler = IdleSampler(self.read, period_s=0.001, clock_ns=lambda: self.now_ns)
        self.sampler.listen(lambda sample: self.taken.release())

    def read(self) -> dict[str, float]:
        self.now_ns += 1_000_000
        return {"x": 1.0}


def test_an_idle_phone_is_sampled_until_it_has_work():
    idle = Idle()
    with idle.sampler.busy():
        idle.sampler.start()
    for _ in range(3):
        assert idle.taken.acquire(timeout=30)
    with idle.sampler.busy():
        number = len(idle.sampler.window())
    assert number >= 3
    assert idle.taken.acquire(timeout=30)  # it goes on afterwards
    idle.sampler.stop()
    window = idle.sampler.window()
    assert {sample.phase for sample in window} == {pb.EDIT_PHASE_IDLE}
    assert idle.sampler.longest_s() > 0


def test_old_idle_samples_do_not_count():
    idle = Idle()
    idle.sampler.start()
    assert idle.taken.acquire(timeout=30)
    idle.sampler.stop()
    with idle.sampler.busy():
        pass
    idle.now_ns += round(IDLE_VALID_S * 1e9) + 1_000_000_000
    assert idle.sampler.window() == []
    assert idle.sampler.longest_s() == 0.0


def test_the_idle_stretch_before_work_outlives_short_calls():
    idle = Idle()
    idle.sampler.start()
    for _ in range(3):
        assert idle.taken.acquire(timeout=30)
    idle.sampler.stop()
    before = list(idle.sampler.window())
    for _ in range(5):
        with idle.sampler.busy():
            assert list(idle.sampler.window()) == before


def test_a_phone_lies_still_until_it_has_been_seen_or_the_attempt_is_cancelled():
    idle, cancelled = Idle(), threading.Event()
    with idle.sampler.busy():
        idle.sampler.lie_still(0.002, cancelled)
        assert idle.sampler.longest_s() >= 0.002
    idle.now_ns += round(IDLE_VALID_S * 1e9) + 1_000_000_000
    cancelled.set()
    idle.sampler.lie_still(3600.0, cancelled)
    assert idle.sampler.window() == []
