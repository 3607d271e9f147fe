"""Raw samples on disk: everything that a phone sent, with what it means."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from mobifarm.controller.farm.telemetry_files import Measured, TelemetryFiles, read_description
from mobifarm.controller.host.reports import SamplesPiece
from mobifarm.v1 import agent_pb2 as pb
from mobifarm.workloads.samples import compress, pack

TELEMETRY: dict[str, Any] = {
    "samples": 4,
    "idle_samples": 0,
    "phases": [
        {"phase": "caching", "monotonic_ns": 1_000_000_000},
        {"phase": "evaluating_after", "monotonic_ns": 3_000_000_000},
    ],
    "ended_ns": 4_000_000_000,
}


def batch(*seconds: int) -> bytes:
    return compress(
        pb.TelemetryBatch(
            samples=[
                pb.TelemetrySample(
                    monotonic_ns=second * 10**9,
                    values={"rail/big/energy": 2.0 * second, **({"x/y": 1.0} if second == 2 else {})},
                    phase=pb.EDIT_PHASE_CACHING,
                    step=second,
                    step_s=0.5 if second > 1 else 0.0,
                )
                for second in seconds
            ]
        )
    )


PIECES = pack([batch(1, 2), batch(3, 4)])


def measured(clock: dict[str, float] | None) -> Measured:
    sensor = {"name": "rail/big/energy", "unit": "J", "source": "/sys/x", "sign": "", "resolution": 1e-6}
    return Measured("a1", "job", "usb:1", "virtual", "modelled", clock, TELEMETRY, [sensor])


def test_a_file_holds_every_sample_and_what_it_means(tmp_path: Path) -> None:
    files = TelemetryFiles(tmp_path / "telemetry")
    recorded = files.record(PIECES, measured({"offset_s": 100.0, "bound_s": 0.001}))

    path = tmp_path / recorded["file"]["path"]
    assert recorded["file"]["path"] == "telemetry/job/a1.parquet"
    assert recorded["file"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert recorded["file"]["samples"] == 4
    assert recorded["reason"] is None
    table = pyarrow.parquet.read_table(path)
    assert table.to_pydict() == {
        "monotonic_ns": [10**9, 2 * 10**9, 3 * 10**9, 4 * 10**9],
        "unix_s": [101.0, 102.0, 103.0, 104.0],
        "phase": ["caching"] * 4,
        "step": [1, 2, 3, 4],
        "step_s": [None, 0.5, 0.5, 0.5],
        "rail/big/energy": [2.0, 4.0, 6.0, 8.0],
        "x/y": [None, 1.0, None, None],
    }
    field = table.schema.field("rail/big/energy").metadata
    assert (field[b"unit"], field[b"provenance"]) == (b"J", b"modelled")
    told = read_description(path)
    assert (told["attempt_id"], told["provenance"]) == ("a1", "modelled")
    assert told["clock"] == {"offset_s": 100.0, "bound_s": 0.001}
    assert told["phases"] == TELEMETRY["phases"]
    assert [one.name for one in path.parent.iterdir()] == ["a1.parquet"]  # nothing unfinished beside it
    assert recorded["energy"]["gross_joules"] == pytest.approx(4.0)
    assert recorded["energy"]["provenance"] == "modelled"


def test_without_an_offset_there_is_no_unix_time(tmp_path: Path) -> None:
    recorded = TelemetryFiles(tmp_path / "t").record(PIECES, measured(None))
    table = pyarrow.parquet.read_table(tmp_path / recorded["file"]["path"])
    assert table["unix_s"].to_pylist() == [None] * 4


def test_the_same_attempt_again_gives_the_same_file(tmp_path: Path) -> None:
    files = TelemetryFiles(tmp_path / "t")
    assert files.record(PIECES, measured(None)) == files.record(PIECES, measured(None))


@pytest.mark.parametrize(
    ("pieces", "words"), [([], "no sample came"), ([b"\x0a\x03abc"], "samples are damaged")]
)
def test_what_is_no_telemetry_says_so(
    tmp_path: Path, pieces: list[bytes], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        recorded = TelemetryFiles(tmp_path / "t").record(pieces, measured(None))
    assert recorded["file"] is None
    assert words in recorded["reason"]
    assert words in recorded["energy"]["reason"]


def test_times_that_cannot_be_stop_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = measured(None)
    given = dataclasses.replace(given, telemetry={"phases": [{"phase": "caching", "monotonic_ns": "soon"}]})
    with caplog.at_level(logging.CRITICAL):
        recorded = TelemetryFiles(tmp_path / "t").record(PIECES, given)
    assert recorded["energy"]["joules"] is None


def test_a_full_disk_loses_the_file_and_not_the_energy(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("not a folder")
    recorded = TelemetryFiles(tmp_path / "t").record(PIECES, measured(None))
    assert "could not be written" in recorded["reason"]
    assert math.isclose(recorded["energy"]["gross_joules"], 4.0)


def piece(attempt_id: str, number: int, of: int) -> SamplesPiece:
    return SamplesPiece(1.0, "usb:1", attempt_id, number, of, f"{attempt_id}{number}".encode())


def test_pieces_count_when_all_of_an_attempt_are_there() -> None:
    files = TelemetryFiles(None)
    for one in (piece("a", 0, 2), piece("a", 1, 2)):
        files.take(one)
    assert files.pop("usb:1", "a") == [b"a0", b"a1"]
    assert files.pop("usb:1", "a") == []
    files.take(piece("b", 0, 2))
    assert files.pop("usb:1", "b") == []
    # A phone that comes back begins anew.
    files.take(piece("c", 0, 2))
    files.drop("usb:1")
    for one in (piece("c", 0, 2), piece("c", 1, 2)):
        files.take(one)
    assert files.pop("usb:1", "c") == [b"c0", b"c1"]
    files.take(piece("d", 0, 1))
    assert files.pop("usb:1", "e") == []
