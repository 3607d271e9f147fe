"""Rows for other programs: typed, with the passport, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mobifarm.workloads.exports import export_rows, to_csv, to_parquet
from mobifarm.workloads.summary import Summary, TrialRecord, summarise
from mobifarm.workloads.tables import CSV_COLUMNS, edit_type


def trial(number: int, passport: dict[str, Any] | None, **result: Any) -> TrialRecord:
    payload = {
        "bundle_hash": "b",
        "method_label": "forward",
        "seed": 2**52 + number,
        "record": {"record_id": f"r{number}", "subject": "=Ann", "prompt": "p"},
        "repeat": 0,
    }
    stored = None
    if passport is not None:
        found = {"status": "converged", "message": "", "scores": [], "cost": {"edit_s": 2, **result}}
        stored = {"attempt_id": f"a{number}", "device_id": "tcp:1", "result": found, "passport": passport}
    return TrialRecord(f"j/{number}", f"edit {number}", "done" if stored else "pending", payload, stored)


def table() -> tuple[Summary, list[TrialRecord]]:
    first = {
        "phone": {"serial": "-1\x1b[31m", "soc": None},
        "settings": {"directions": 8},
        "temperatures": {"first": {"battery/temperature": {"value": 30, "unit": "degC"}}},
        "sensors": [{"name": "battery/temperature"}],
        "kept": False,
    }
    second = {
        "phone": {"serial": "S2"},
        "temperatures": {"first": {"battery/temperature": {"value": 31.5, "unit": "degC"}}},
    }
    trials = [trial(1, first), trial(2, second, edit_s=2.5), trial(3, None)]
    return summarise(trials, []), trials


def test_a_row_has_the_edit_what_was_asked_and_its_passport() -> None:
    columns, rows = export_rows(*table())
    assert columns[0] == "trial_id"
    assert [row["asked.seed"] for row in rows] == [2**52 + 1, 2**52 + 2, 2**52 + 3]
    assert rows[0]["passport.temperatures.first.battery/temperature.unit"] == "degC"
    assert rows[0]["passport.settings"] == '{"directions": 8}'
    assert rows[1]["passport.sensors"] is None
    assert {value for name, value in rows[2].items() if name.startswith("passport.")} == {None}
    assert all(list(row) == columns for row in rows)


def test_modelled_and_measured_joules_have_columns_of_their_own() -> None:
    passports = [{"energy": {"joules": 2.0, "provenance": one}} for one in ("measured", "modelled")]
    trials = [trial(number, passport) for number, passport in enumerate(passports)]
    _, rows = export_rows(summarise(trials, []), trials)
    assert [row["joules"] for row in rows] == [2.0, None]
    assert [row["modelled_joules"] for row in rows] == [None, 2.0]
    assert [row["passport.energy.joules"] for row in rows] == [2.0, None]
    assert [row["passport.energy_modelled.joules"] for row in rows] == [None, 2.0]


def test_csv_is_harmless_and_leaves_unmeasured_cells_empty() -> None:
    text = to_csv(*table())
    assert "\x1b" not in text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0]["passport.phone.serial"] == "'-1�[31m"
    assert rows[0]["asked.subject"] == "'=Ann"
    assert (rows[2]["edit_s"], rows[2]["passport.phone.serial"]) == ("", "")


def test_parquet_has_types_and_says_where_it_is_from() -> None:
    found = parquet.read_table(io.BytesIO(to_parquet(*table(), {"job_id": "job-1"})))
    columns, rows = export_rows(*table())
    assert found.column_names == columns
    assert found.to_pylist() == rows
    types = {name: found.schema.field(name).type for name in columns}
    assert types["asked.seed"] == pyarrow.int64()
    assert types["edit_s"] == pyarrow.float64()
    assert types["passport.temperatures.first.battery/temperature.value"] == pyarrow.float64()
    assert types["passport.kept"] == pyarrow.bool_()
    assert types["passport.phone.serial"] == pyarrow.string()
    assert types["passport.phone.soc"] == pyarrow.null()  # nothing tells its type
    assert found.schema.metadata[b"job_id"] == b"job-1"


def test_files_of_jobs_that_measured_different_things_go_together() -> None:
    trials = [trial(1, {"phone": {"soc": "SM8650"}, "kept": True}, steps=7, loss_evaluations=56)]
    assert trials[0].stored is not None
    answer = {"log_probability": -1.0, "tokens": 2, "tokens_argmax": 1}
    compared = {f"{who}_{moment}": answer for who in ("wanted", "other") for moment in ("before", "after")}
    trials[0].stored["result"]["scores"] = [{"kind": "paraphrase", **compared}]
    jobs = [trials, [trial(2, {"phone": {"soc": None}, "kept": None})], [trial(3, None)]]
    tables = [parquet.read_table(io.BytesIO(to_parquet(summarise(job, []), job, {}))) for job in jobs]
    own = [name for name in tables[0].column_names if not name.startswith("passport.")]
    assert tables[0].select(own).schema == tables[1].select(own).schema == tables[2].select(own).schema
    together = pyarrow.concat_tables(tables, promote_options="permissive")
    assert together["paraphrase_success_after"].to_pylist() == [0.0, None, None]
    assert together["loss_evaluations"].type == pyarrow.int64()
    assert together["kept"].to_pylist() == [True, None, None]
    assert together["passport.phone.soc"].to_pylist() == ["SM8650", None, None]
    assert together["passport.kept"].type == pyarrow.bool_()


@pytest.mark.parametrize("column", CSV_COLUMNS)
def test_each_column_of_an_edit_has_a_type(column: str) -> None:
    assert edit_type(column) in (str, int, float, bool)
