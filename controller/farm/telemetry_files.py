"""Raw telemetry of attempts: from the pieces that hosts send to one Parquet file each, and to joules.

``TelemetryFiles`` is used from the event loop, its :meth:`TelemetryFiles.record` from a thread.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobifarm.controller.host.reports import SamplesPiece
from mobifarm.workloads.energy import edit_energy, none
from mobifarm.workloads.samples import Samples, description, unpack

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """An attempt that has ended, and how its figures came about."""

    attempt_id: str
    job_id: str
    device_id: str
    execution: str
    provenance: str
    clock: Mapping[str, Any] | None
    telemetry: Mapping[str, Any]
    sensors: Sequence[Mapping[str, Any]]


class TelemetryFiles:
    """Files below ``folder``: JOB/ATTEMPT.parquet. None keeps none; energy is told all the same."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._pieces: dict[str, list[SamplesPiece]] = {}  # by phone: an attempt's follow each other

    def take(self, piece: SamplesPiece) -> None:
        """Keep a piece until its attempt's result comes."""
        if piece.number == 0:
            self._pieces[piece.device_id] = []
        self._pieces.setdefault(piece.device_id, []).append(piece)

    def drop(self, device_id: str) -> None:
        """The phone is gone: it sends what it has anew when it is back."""
        self._pieces.pop(device_id, None)

    def pop(self, device_id: str, attempt_id: str) -> list[bytes]:
        """The pieces of an attempt; none where they are not complete."""
        pieces = self._pieces.pop(device_id, [])
        whole = [piece.data for piece in pieces if piece.attempt_id == attempt_id]
        return whole if pieces and len(whole) == pieces[0].of else []

    def record(self, pieces: Sequence[bytes], measured: Measured) -> dict[str, Any]:
        """Write the file and tell the energy; blocks.

        Returns:
            ``file`` (path below the farm's folder, sha256, number of samples, or None beside a ``reason``)
            and ``energy``, see :func:`mobifarm.workloads.energy.edit_energy`.
        """
        if not pieces:
            reason = "no sample came with the result"
            return {"file": None, "reason": reason, "energy": none(reason)}
        try:
            return self._record(unpack(pieces), measured)
        except Exception:  # what a phone sends must stop neither its result nor the farm
            logger.exception("the samples of %s", measured.attempt_id)
            reason = "the samples are damaged"
            return {"file": None, "reason": reason, "energy": none(reason)}

    def _record(self, samples: Samples, measured: Measured) -> dict[str, Any]:
        energy = edit_energy(samples, measured.telemetry, measured.sensors, provenance=measured.provenance)
        if self._folder is None:
            return {"file": None, "reason": "this farm keeps no samples", "energy": energy}
        try:
            return {"file": _write(self._folder, samples, measured), "reason": None, "energy": energy}
        except OSError as error:
            logger.exception("the samples of %s", measured.attempt_id)
            reason = f"the file could not be written ({error.strerror})"
            return {"file": None, "reason": reason, "energy": energy}


def _write(folder: Path, samples: Samples, measured: Measured) -> dict[str, Any]:
    import pyarrow.parquet

    path = folder / measured.job_id / f"{measured.attempt_id}.parquet"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table_of(samples, measured), sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    _write_atomically(path, content)
    return {
        "path": str(Path(folder.name, measured.job_id, path.name)),
        "sha256": hashlib.sha256(content).hexdigest(),
        "samples": len(samples),
    }


def table_of(samples: Samples, measured: Measured) -> pyarrow.Table:
    """The samples as a table.

    Columns are monotonic_ns, unix_s (null where the offset is unknown), phase, step, step_s, and each sensor
    (null where it was not read) with its description as the field's metadata.
    """
    import pyarrow

    offset_s = (measured.clock or {}).get("offset_s")
    unix_s = np.full(len(samples), np.nan) if offset_s is None else samples.monotonic_ns / 1e9 + offset_s
    columns: list[tuple[pyarrow.Field, pyarrow.Array]] = [
        (pyarrow.field("monotonic_ns", pyarrow.int64()), pyarrow.array(samples.monotonic_ns)),
        (pyarrow.field("unix_s", pyarrow.float64()), _floats(unix_s)),
        (pyarrow.field("phase", pyarrow.string()), pyarrow.array(samples.phase, pyarrow.string())),
        (pyarrow.field("step", pyarrow.int64()), pyarrow.array(samples.step)),
        (pyarrow.field("step_s", pyarrow.float64()), _floats(samples.step_s)),
    ]
    described = {str(one["name"]): one for one in measured.sensors}
    for name, values in samples.values.items():
        told = {**described.get(name, {}), "provenance": measured.provenance}
        metadata = {key: str(told[key]) for key in ("unit", "source", "sign", "provenance") if told.get(key)}
        columns.append((pyarrow.field(name, pyarrow.float64(), metadata=metadata), _floats(values)))
    text = description(
        attempt_id=measured.attempt_id,
        job_id=measured.job_id,
        device_id=measured.device_id,
        execution=measured.execution,
        provenance=measured.provenance,
        clock=measured.clock,
        telemetry=measured.telemetry,
        sensors=measured.sensors,
    )
    schema = pyarrow.schema([field for field, _ in columns], metadata={"mobifarm": text})
    return pyarrow.Table.from_arrays([array for _, array in columns], schema=schema)


def read_description(path: Path) -> dict[str, Any]:
    """What a file says about itself, without its samples. Raises OSError, ValueError."""
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_schema(path).metadata or {}
    found: dict[str, Any] = json.loads(metadata.get(b"mobifarm", b"{}"))
    return found


def _floats(values: Any) -> pyarrow.Array:
    import pyarrow

    return pyarrow.array(values, pyarrow.float64(), mask=np.isnan(values))


def _write_atomically(path: Path, content: bytes) -> None:
    """Replace the file as a whole: after a crash there is the old one, the new one, or none."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
