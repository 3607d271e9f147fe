"""Batches and summaries of samples."""

from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.telemetry import Recorder, Sampler


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
    summary = recorder.summary()
    assert (summary.samples, summary.gaps, summary.period_s) == (5, 1, 0.1)
    assert (summary.first.monotonic_ns, summary.last.monotonic_ns) == (0, 800_000_000)


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=50).map(sorted))
def test_no_sample_is_lost_or_doubled(times):
    recorder = Recorder(period_s=0.1)
    batches = [batch for time in times if (batch := recorder.add(time, {})) is not None]
    if (rest := recorder.flush()) is not None:
        batches.append(rest)
    assert [sample.monotonic_ns for batch in batches for sample in batch.samples] == times
    assert recorder.summary().samples == len(times)


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
