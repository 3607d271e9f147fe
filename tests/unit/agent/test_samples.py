"""Samples that wait on the phone until the farm has them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.samples import SampleFiles, SampleLog, read_log
from mobifarm.v1.agent_pb2 import TelemetryBatch, TelemetrySample


def batch(*times: int) -> TelemetryBatch:
    return TelemetryBatch(samples=[TelemetrySample(monotonic_ns=time, values={"x": 1.0}) for time in times])


def times(batches: list[TelemetryBatch]) -> list[int]:
    return [sample.monotonic_ns for one in batches for sample in one.samples]


@given(st.lists(st.lists(st.integers(0, 99), max_size=3), max_size=12), st.integers(1, 5), st.integers(1, 4))
def test_a_reader_gets_everything_that_was_kept_and_the_rest_is_counted(
    given: list[list[int]], limit: int, at_once: int
) -> None:
    log = SampleLog(limit)
    for one in given:
        log.append(batch(*one))
    found, number = [], 0
    while True:
        number, batches = log.since(number, at_once)
        if not batches:
            break
        found += times(batches)
    everything = [time for one in given for time in one]
    assert everything[len(everything) - len(found) :] == found
    assert log.dropped == len(everything) - len(found)
    assert log.end == number == len(given)
    assert times(read_log(log.to_bytes())) == found


def test_a_reader_goes_on_where_it_was(tmp_path: Path) -> None:
    log = SampleLog()
    log.append(batch(1))
    number, _ = log.since(0, 50)
    log.append(batch(2, 3))
    assert times(log.since(number, 50)[1]) == [2, 3]


def test_files_are_those_of_held_attempts(tmp_path: Path) -> None:
    log = SampleLog()
    log.append(batch(1, 2))
    files = SampleFiles(tmp_path, [])
    files.write("a", log)
    files.write("b", log)
    again = SampleFiles(tmp_path, ["a"])
    assert times(list(again.read("a"))) == [1, 2]
    assert again.read("b") == []
    again.remove("a")
    again.remove("a")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_loses_samples_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = SampleFiles(tmp_path, [])
    files.write("a", SampleLog())
    [path] = tmp_path.iterdir()
    path.write_bytes(b"\x0a\x03abc")
    with caplog.at_level(logging.ERROR):
        assert files.read("a") == []
    assert "telemetry of attempt a" in caplog.text
