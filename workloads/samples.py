"""An attempt's telemetry as columns, and the pieces in which it travels. Pure."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from mobifarm.v1 import agent_pb2 as pb

FORMAT: Final = "mobifarm-telemetry/1"
PIECE_BYTES: Final = 80_000  # a call between processes stays below 100 KB
SENSOR_LIMIT: Final = 1024
SENSOR_NAME_LIMIT: Final = 128  # characters
# Of one attempt: compressed, what a phone tells may be a thousandth of what it becomes.
SAMPLES_LIMIT: Final = 100_000
BYTES_LIMIT: Final = 1 << 28
CELLS_LIMIT: Final = 1 << 25

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Samples in order of time, n of them; those of ``phase`` idle were taken before the attempt.

    Attributes:
        monotonic_ns: (n,) CLOCK_BOOTTIME of the phone.
        phase: n names of phases.
        step: (n,) of the search, 0 before the first.
        step_s: (n,) seconds of the last complete step, NaN before there is one.
        values: (n,) by sensor, in the unit of its description, NaN where it was not read.
    """

    monotonic_ns: NDArray[np.int64]
    phase: tuple[str, ...]
    step: NDArray[np.int64]
    step_s: Floats
    values: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.monotonic_ns)


def compress(batch: pb.TelemetryBatch) -> bytes:
    """A batch at rest."""
    return zlib.compress(batch.SerializeToString(), 1)


def pack(compressed: Iterable[bytes]) -> list[bytes]:
    """Batches of :func:`compress` as pieces for :func:`unpack`, of PIECE_BYTES at most or of one batch."""
    pieces: list[bytes] = []
    log, size = pb.TelemetryLog(), 0
    for data in compressed:
        if size and size + len(data) > PIECE_BYTES:
            pieces.append(log.SerializeToString())
            log, size = pb.TelemetryLog(), 0
        log.batches.append(data)
        size += len(data)
    if size:
        pieces.append(log.SerializeToString())
    return pieces


def unpack(pieces: Iterable[bytes]) -> Samples:
    """All samples of the pieces.

    Raises:
        ValueError: they are not those of :func:`pack`, or more than one attempt may have.
    """
    columns = _Columns()
    size = 0
    try:
        for piece in pieces:
            for data in pb.TelemetryLog.FromString(piece).batches:
                unpacking = zlib.decompressobj()
                batch = unpacking.decompress(data, BYTES_LIMIT - size + 1)
                size += len(batch)
                if size > BYTES_LIMIT or not unpacking.eof:
                    raise ValueError("damaged telemetry, or too much of it")
                for sample in pb.TelemetryBatch.FromString(batch).samples:
                    columns.add(sample)
    except (DecodeError, zlib.error) as error:
        raise ValueError("no telemetry") from error
    return columns.samples()


class _Columns:
    """Takes sample by sample, so that no more than a batch of them is there as messages."""

    def __init__(self) -> None:
        self._heads: list[tuple[int, str, int, float]] = []
        self._values: dict[str, array[float]] = {}

    def add(self, sample: pb.TelemetrySample) -> None:
        row = len(self._heads)
        head = (sample.monotonic_ns, phase_name(sample.phase), sample.step, sample.step_s or np.nan)
        self._heads.append(head)
        for name, value in sample.values.items():
            column = self._values.get(name)
            if column is None:
                if len(self._values) >= SENSOR_LIMIT or len(name) > SENSOR_NAME_LIMIT or "/" not in name:
                    continue
                column = self._values[name] = array("d")
            _fill(column, row)
            column.append(value if np.isfinite(value) else np.nan)
        if row >= SAMPLES_LIMIT or len(self._values) * row > CELLS_LIMIT:
            raise ValueError("too much telemetry")

    def samples(self) -> Samples:
        """In order of time."""
        for column in self._values.values():
            _fill(column, len(self._heads))
        monotonic_ns = np.array([head[0] for head in self._heads], dtype=np.int64)
        order = np.argsort(monotonic_ns, kind="stable")
        return Samples(
            monotonic_ns=monotonic_ns[order],
            phase=tuple(self._heads[row][1] for row in order),
            step=np.array([head[2] for head in self._heads], dtype=np.int64)[order],
            step_s=np.array([head[3] for head in self._heads], dtype=np.float64)[order],
            values={name: np.array(column)[order] for name, column in sorted(self._values.items())},
        )


def _fill(column: array[float], rows: int) -> None:
    """What was not read is NaN."""
    column.extend([np.nan] * (rows - len(column)))


def phase_name(phase: pb.EditPhase.ValueType) -> str:
    """``caching``, ``optimising`` and so on."""
    try:
        return pb.EditPhase.Name(phase).removeprefix("EDIT_PHASE_").lower()
    except ValueError:  # of a newer agent
        return f"phase {phase}"


def description(
    *,
    attempt_id: str,
    job_id: str,
    device_id: str,
    execution: str,
    provenance: str,
    clock: Mapping[str, Any] | None,
    telemetry: Mapping[str, Any],
    sensors: Sequence[Mapping[str, Any]],
) -> str:
    """What a reader of stored samples needs to know, as JSON for the file's metadata.

    Args:
        clock: offset of the host's unix time to the phone's clock and its bound, None where it is unknown.
        telemetry: the summary of the attempt, with its phases.
        sensors: as described by the agent.
    """
    return json.dumps(
        {
            "format": FORMAT,
            "attempt_id": attempt_id,
            "job_id": job_id,
            "device_id": device_id,
            "execution": execution,
            "provenance": provenance,
            "clock": clock,
            "phases": telemetry.get("phases") or [],
            "ended_ns": telemetry.get("ended_ns"),
            "gaps": telemetry.get("gaps"),
            "dropped": telemetry.get("dropped"),
            "period_s": telemetry.get("period_s"),
            "sensors": [dict(sensor) for sensor in sensors],
        },
        allow_nan=False,
    )
