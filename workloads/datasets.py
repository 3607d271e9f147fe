"""Where edit records come from: the data set that is built in, or a JSON file of the user's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from mobifarm.agent.editor.types import EditRecord
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.paths import expanded
from mobifarm.workloads.records import parse_records, record_from_mapping, record_to_mapping
from mobifarm.workloads.spec import DatasetSpec

__all__ = [
    "load_records",
    "read_records",
    "record_from_mapping",
    "record_to_mapping",
    "without_subjects_of",
]

FILE_LIMIT_BYTES: Final = 256 * 2**20
_BUILTIN_FILES: Final = {"personal-facts": "personal_facts.json"}


def load_records(dataset: DatasetSpec, folder: Path) -> list[EditRecord]:
    """The records that a spec asks for: the whole set is checked, then ids, offset and limit select.

    Args:
        dataset: which set and which part of it.
        folder: where a relative file name starts, the folder of the spec.

    Raises:
        WorkloadInputError: the set cannot be read or used, or it has no such records.
    """
    if dataset.builtin is not None:
        resource = files("mobifarm.workloads") / "data" / _BUILTIN_FILES[dataset.builtin]
        records = parse_records(json.loads(resource.read_text("utf-8")), dataset.builtin, "mobifarm")
    else:
        assert dataset.file is not None  # the spec has exactly one of the two
        records = read_records(folder / expanded(dataset.file), dataset.format)
    return select_records(records, dataset)


def read_records(path: Path, form: str = "auto") -> list[EditRecord]:
    """All records of a JSON file.

    Raises:
        WorkloadInputError: the file cannot be read or any record is malformed.
    """
    return parse_records(_read_json(path), str(path), form)


def without_subjects_of(records: Sequence[EditRecord], others: Iterable[EditRecord]) -> list[EditRecord]:
    """The records about subjects that none of ``others`` is about; letter case does not matter.

    The files of CounterFact overlap, and what was fitted on a fact must not be judged on it.
    """
    subjects = {other.subject.casefold() for other in others}
    return [record for record in records if record.subject.casefold() not in subjects]


def select_records(records: list[EditRecord], dataset: DatasetSpec) -> list[EditRecord]:
    """The part of a set that a spec asks for, in the set's order.

    Raises:
        WorkloadInputError: a record id is unknown, or nothing is left.
    """
    chosen = records
    if dataset.record_ids is not None:
        known = {record.record_id for record in records}
        unknown = [name for name in dataset.record_ids if name not in known]
        if unknown:
            shown = ", ".join(unknown[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
            raise WorkloadInputError(
                f"the data set has no record {shown}: its {len(records)} records are called "
                f"{records[0].record_id} … {records[-1].record_id}"
            )
        wanted = set(dataset.record_ids)
        chosen = [record for record in records if record.record_id in wanted]
    end = None if dataset.limit is None else dataset.offset + dataset.limit
    selected = chosen[dataset.offset : end]
    if not selected:
        raise WorkloadInputError(
            f"the data set has {len(chosen)} records, none is left from offset {dataset.offset} on: "
            "choose a smaller offset"
        )
    return selected


def _read_json(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > FILE_LIMIT_BYTES:
            raise WorkloadInputError(
                f"{path} has {size / 2**20:.0f} MiB, more than {FILE_LIMIT_BYTES // 2**20}: split it"
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise WorkloadInputError(
            f"{path} cannot be read ({error.strerror}): name a data set that exists"
        ) from error
    except UnicodeDecodeError as error:
        raise WorkloadInputError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise WorkloadInputError(
            f"{path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}): mend it there"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise WorkloadInputError(f"{path} cannot be read ({error}): mend it there") from error
    except RecursionError:
        raise WorkloadInputError(f"{path} is nested too deeply to be a data set") from None
