"""A job's results for other programs: one row per edit with its passport flattened, as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.passport import MODELLED
from mobifarm.workloads.plain_text import printable
from mobifarm.workloads.summary import Summary, TrialRecord
from mobifarm.workloads.tables import CSV_COLUMNS, edit_type, edit_value

if TYPE_CHECKING:
    import pyarrow

# Of a passport, what has no fixed fields stays one text of JSON, so that columns are the same for all jobs.
_WHOLE = ("settings", "nodes_by_provider", "sensors")
_RECORD = ("subject", "prompt", "target_new", "target_true")


def export_rows(summary: Summary, trials: Sequence[TrialRecord]) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns, and a row per trial with a value for each; None is not measured.

    The edit's own columns come first, then what was asked for (``asked.seed`` and so on), then the passport:
    ``passport.phone.soc``, ``passport.temperatures.first.battery/temperature.value``.
    """
    rows = []
    for trial, edit in zip(trials, summary.edits, strict=True):
        row = {name: edit_value(edit, name) for name in CSV_COLUMNS}
        row["asked.seed"] = trial.payload.get("seed")
        row |= {f"asked.{name}": trial.payload["record"].get(name) for name in _RECORD}
        _flatten(row, "passport", _apart((trial.stored or {}).get("passport") or {}))
        rows.append(row)
    later = sorted({name for row in rows for name in row if name.startswith("passport.")})
    columns = [*CSV_COLUMNS, "asked.seed", *(f"asked.{name}" for name in _RECORD), *later]
    return columns, [{name: row.get(name) for name in columns} for row in rows]


def _apart(passport: Mapping[str, Any]) -> Mapping[str, Any]:
    """The passport with modelled joules under a name of their own: no column holds them and measured ones."""
    energy = passport.get("energy") or {}
    if energy.get("provenance") != MODELLED:
        return passport
    return {**{name: part for name, part in passport.items() if name != "energy"}, "energy_modelled": energy}


def _flatten(row: dict[str, Any], name: str, value: object) -> None:
    if isinstance(value, list) or name.rpartition(".")[2] in _WHOLE:
        row[name] = None if value is None else json.dumps(value, sort_keys=True)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _flatten(row, f"{name}.{key}", part)
    else:
        row[name] = value


def to_csv(summary: Summary, trials: Sequence[TrialRecord]) -> str:
    """One line per edit (RFC 4180) under a line of names; an empty cell is not measured."""
    columns, rows = export_rows(summary, trials)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([_csv_cell(name) for name in columns])
    writer.writerows([_csv_cell(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def _csv_cell(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    # Text of a phone is not obeyed by a terminal, and becomes no formula where a spreadsheet opens the file.
    return printable(f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value)


def to_parquet(summary: Summary, trials: Sequence[TrialRecord], about: Mapping[str, str]) -> bytes:
    """The same rows as an Apache Parquet file, with types; ``about`` becomes the file's metadata.

    The edit's own columns and what was asked have the same types in the files of all jobs. Those of a
    passport have the type of their values; where there is none it is null, which goes with any other.

    Raises:
        WorkloadInputError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise WorkloadInputError(
            "Parquet needs pyarrow: `pip install pyarrow`, or choose --format csv"
        ) from None
    columns, rows = export_rows(summary, trials)
    arrays, fields = [], []
    for name in columns:
        kind, values = _typed(pyarrow, [row[name] for row in rows], _own_type(name))
        arrays.append(pyarrow.array(values, kind))
        fields.append(pyarrow.field(name, kind))
    schema = pyarrow.schema(fields, metadata=dict(about))
    file = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), file)
    return bytes(file.getvalue())


def _own_type(column: str) -> type | None:
    """The type that a column has whatever stands in it; None where it follows from its values."""
    if column in CSV_COLUMNS:
        return edit_type(column)
    if column.startswith("asked."):
        return int if column == "asked.seed" else str
    return None


def _typed(arrow: Any, values: Sequence[Any], own: type | None = None) -> tuple[pyarrow.DataType, list[Any]]:
    """The narrowest type for a column's values, ``own`` where they fit it, and they in it; text if mixed."""
    kinds = {type(value) for value in values if value is not None} | ({own} if own else set())
    if not kinds:
        return arrow.null(), list(values)
    if kinds == {bool}:
        return arrow.bool_(), list(values)
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values if value is not None):
        return arrow.int64(), list(values)
    if kinds <= {int, float}:
        return arrow.float64(), [None if value is None else float(value) for value in values]
    return arrow.string(), [
        value if value is None or isinstance(value, str) else str(value) for value in values
    ]
