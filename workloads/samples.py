"""An attempt's telemetry as columns, and the pieces in which it travels. Pure."""

from __future__ import annotations

import json
import zlib
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
    """All samples of the pieces; raises ValueError where they are not those of :func:`pack`."""
    samples: list[pb.TelemetrySample] = []
    try:
        for piece in pieces:
            for data in pb.TelemetryLog.FromString(piece).batches:
                samples += pb.TelemetryBatch.FromString(zlib.decompress(data)).samples
    except (DecodeError, zlib.error) as error:
        raise ValueError("no telemetry") from error
    return _columns(samples)


def _columns(samples: list[pb.TelemetrySample]) -> Samples:
    samples.sort(key=lambda sample: sample.monotonic_ns)
    values: dict[str, Floats] = {}
    for row, sample in enumerate(samples):
        for name, value in sample.values.items():
            column = values.get(name)
            if column is None:
                if len(values) >= SENSOR_LIMIT or "/" not in name:
                    continue
                column = values[name] = np.full(len(samples), np.nan)
            column[row] = value if np.isfinite(value) else np.nan
    return Samples(
        monotonic_ns=np.array([sample.monotonic_ns for sample in samples], dtype=np.int64),
        phase=tuple(phase_name(sample.phase) for sample in samples),
        step=np.array([sample.step for sample in samples], dtype=np.int64),
        step_s=np.array([sample.step_s or np.nan for sample in samples], dtype=np.float64),
        values=dict(sorted(values.items())),
    )


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
