"""What a report says of a job, as data: rows of phones, energies and what is measured or missing. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mobifarm.workloads.passport import MEASURED, MODELLED
from mobifarm.workloads.statistics import median
from mobifarm.workloads.summary import (
    COMPUTER,
    AttemptRow,
    EditRow,
    Estimate,
    MethodRow,
    StoredAttempt,
    Summary,
    TrialRecord,
    mean_with_interval,
    method_row,
)

PHONE: Final = "phone"
GREEDY_REASON: Final = "a job scores given answers and lets the model write none; `make bench` does"
_SENSORS_AT_MOST: Final = 4
_FARMS_FAULT: Final = ("broken", "expired")


class Job(Protocol):
    """What is needed of a job; the store's rows have it. Times are unix seconds."""

    @property
    def job_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def submitted_at(self) -> float: ...
    @property
    def finished_at(self) -> float | None: ...
    @property
    def trials(self) -> int: ...
    @property
    def ended(self) -> int: ...


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Everything that the farm's store has of a job."""

    job: Job
    spec: Mapping[str, Any]
    summary: Summary
    trials: Sequence[TrialRecord]
    attempts: Sequence[StoredAttempt]

    @property
    def stored(self) -> list[Mapping[str, Any]]:
        """The results, with their passports."""
        return [trial.stored for trial in self.trials if trial.stored is not None]


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules per successful edit of one origin: means over the edits that succeeded and have them.

    ``joules`` are above what the phone draws idle, ``gross_joules`` with it. ``uncertainty_joules`` is the
    median of the single edits' standard uncertainties.
    """

    provenance: str
    joules: Estimate | None
    gross_joules: Estimate | None
    uncertainty_joules: float | None
    edits: int


@dataclass(frozen=True, slots=True)
class PlaceRow:
    """What one method did on one phone in one measurement epoch."""

    device_id: str
    serial: str
    model: str
    measurement_epoch: int | None
    row: MethodRow
    energy: tuple[Energy, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Where the numbers of one quantity come from. ``status`` in words; ``edits`` of ``of`` have it so."""

    quantity: str
    status: str
    edits: int
    of: int
    detail: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt or edit that did not succeed as asked; ``whose``: the farm's or the method's."""

    label: str
    attempt: str
    device_id: str
    serial: str
    outcome: str
    whose: str
    reason: str


def passport(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = stored.get("passport") or {}
    return found


def places(record: JobRecord) -> list[PlaceRow]:
    """Every method on every phone and epoch that has results of it, in the order of the plan's methods."""
    stored = {trial.trial_id: trial.stored for trial in record.trials if trial.stored is not None}
    groups: dict[tuple[Any, ...], list[EditRow]] = {}
    for row in record.summary.edits:
        if row.status is not None:
            key = (
                row.method,
                row.execution or "",
                row.device_id or "",
                row.serial or "",
                row.measurement_epoch,
            )
            groups.setdefault(key, []).append(row)
    order = list(dict.fromkeys(key[:2] for key in groups))
    return [
        PlaceRow(
            device_id=device_id,
            serial=serial,
            model=next((row.model for row in rows if row.model), ""),
            measurement_epoch=epoch,
            row=method_row(method, execution, rows),
            energy=energies([(row, stored[row.trial_id]) for row in rows]),
        )
        for (method, execution, device_id, serial, epoch), rows in sorted(
            groups.items(), key=lambda group: order.index(group[0][:2])
        )
    ]


def method_energies(record: JobRecord) -> dict[tuple[str, str], tuple[Energy, ...]]:
    """Energies by method and execution, for the lines of the summary."""
    stored = {trial.trial_id: trial.stored for trial in record.trials if trial.stored is not None}
    groups: dict[tuple[str, str], list[tuple[EditRow, Mapping[str, Any]]]] = {}
    for row in record.summary.edits:
        if row.status is not None:
            groups.setdefault((row.method, row.execution or ""), []).append((row, stored[row.trial_id]))
    return {key: energies(pairs) for key, pairs in groups.items()}


def energies(edits: Iterable[tuple[EditRow, Mapping[str, Any]]]) -> tuple[Energy, ...]:
    """Energy of the successful edits, what was measured and what comes from a model each by itself."""
    by_origin: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for row, stored in edits:
        found = passport(stored).get("energy") or {}
        if row.quality is not None and row.quality.edit_success and _has_energy(found):
            by_origin.setdefault(energy_origin(stored), []).append((row.record_id, found))
    return tuple(_energy(origin, by_origin[origin]) for origin in sorted(by_origin))


def _has_energy(found: Mapping[str, Any]) -> bool:
    return found.get("joules") is not None or found.get("gross_joules") is not None


def energy_origin(stored: Mapping[str, Any]) -> str:
    """``measured`` only of a phone that says so: whatever else tells joules has them from a model."""
    found = passport(stored)
    said = (found.get("energy") or {}).get("provenance")
    return MEASURED if said == MEASURED and found.get("execution") == PHONE else MODELLED


def _energy(origin: str, edits: Sequence[tuple[str, Mapping[str, Any]]]) -> Energy:
    uncertain = [found.get("uncertainty_joules") for _, found in edits]
    return Energy(
        provenance=origin,
        joules=mean_with_interval([(record, found.get("joules")) for record, found in edits]),
        gross_joules=mean_with_interval([(record, found.get("gross_joules")) for record, found in edits]),
        uncertainty_joules=median([value for value in uncertain if value is not None]),
        edits=len(edits),
    )


def claims(record: JobRecord) -> list[Claim]:
    """Every quantity of the report: measured, modelled or missing, on how many edits, and why."""
    stored = record.stored
    finished = [row for row in record.summary.edits if row.status in ("converged", "step_limit")]
    executions = Counter(str(passport(one).get("execution") or "unknown") for one in stored)
    rows = [
        Claim(
            "success, accuracy, portability",
            MEASURED,
            len(finished),
            len(stored),
            "scored before and after the edit by the device that made it; a failed edit counts as wrong",
        )
    ]
    rows += [
        Claim(name.replace("_", " "), "not measured", 0, len(stored), "the records have no such prompts")
        for name in ("paraphrase_success", "neighbourhood_success", "portability_accuracy")
        if finished and all(row.quality is None or getattr(row.quality, name) is None for row in finished)
    ]
    rows += [
        Claim(name, "not measured", 0, len(stored), GREEDY_REASON)
        for name in ("greedy form of success", "fluency, perplexity drift")
    ]
    for execution, count in sorted(executions.items()):
        status = MEASURED if execution == PHONE else f"{MEASURED}, not of a phone"
        rows.append(Claim("seconds per edit", status, count, len(stored), _CLOCKS.get(execution, execution)))
    counted = sum(row.loss_evaluations is not None for row in finished)
    rows.append(
        Claim("loss evaluations, token_layers", "counted", counted, len(stored), "by the editor; exact")
    )
    rows += _conditions(stored, "peak memory", "memory", "peak_rss_bytes")
    rows += _conditions(stored, "temperatures", "temperatures", "first")
    rows += _conditions(stored, "clocks", "clocks", "first")
    rows += _conditions(stored, "charge state", "charge_state", "first")
    rows += _conditions(stored, "accelerator's placement", "accelerator", "proof")
    rows += _conditions(stored, "telemetry samples", "telemetry", "samples")
    rows += _conditions(stored, "energy", "energy", "joules")
    return rows


_CLOCKS: Final[Mapping[str, str]] = {
    PHONE: "the phone's own monotonic clock",
    "virtual": "a process on a computer: its seconds and memory are the computer's",
    "qemu_arm64": "an emulated processor: its seconds are not phone performance",
    COMPUTER: "torch on a computer: its seconds compare with those of no phone",
}


def _conditions(stored: Sequence[Mapping[str, Any]], quantity: str, part: str, key: str) -> list[Claim]:
    groups: Counter[tuple[str, str]] = Counter()
    names: set[str] = set()
    for one in stored:
        found = passport(one).get(part) or {}
        if found.get(key) is None and not (part == "energy" and _has_energy(found)):
            groups["not measured", found.get("reason") or "the result does not say why"] += 1
        elif part == "energy":
            groups[energy_origin(one), _energy_words(found)] += 1
        else:
            execution = passport(one).get("execution")
            own = MEASURED if execution == PHONE or part == "accelerator" else f"{MEASURED}, not of a phone"
            names |= set(found[key]) if isinstance(found[key], Mapping) else set()
            groups[
                found.get("provenance") or own, found.get("proof") or found.get("reason") or _how(found)
            ] += 1
    sensors = ", ".join(sorted(names)[:_SENSORS_AT_MOST])
    more = f" and {len(names) - _SENSORS_AT_MOST} more" if len(names) > _SENSORS_AT_MOST else ""
    return [
        Claim(quantity, status, count, len(stored), detail or sensors + more)
        for (status, detail), count in sorted(groups.items())
    ]


def _energy_words(found: Mapping[str, Any]) -> str:
    source = str(found.get("source") or "source not told")
    return source if found.get("joules") is not None else f"{source}; gross alone: {found.get('reason')}"


def _how(found: Mapping[str, Any]) -> str:
    """What is good to know of a part of a passport that has its value."""
    if found.get("since_start_of_attempt"):
        return "the kernel's peak of the agent, set back at the start of each edit"
    gaps = found.get("gaps")
    return "" if gaps is None else "no gaps" if not gaps else "with gaps"


def failures(record: JobRecord) -> list[Failure]:
    """Attempts that ended without a result, and edits that did not end as asked, in the order of the log."""
    edits = {row.attempt_id: row for row in record.summary.edits if row.attempt_id}
    found = []
    for attempt in record.summary.attempts:
        edit = edits.get(attempt.attempt_id)
        if attempt.state in _FARMS_FAULT:
            found.append(_failure(attempt, attempt.state, "the farm's", attempt.reason))
        elif attempt.state == "failed" or (edit is not None and edit.status not in ("converged", None)):
            outcome = (edit.status if edit else None) or attempt.state
            said = (edit.message if edit else "") or attempt.reason
            found.append(_failure(attempt, outcome, "the method's", said))
        elif attempt.state == "cancelled":
            found.append(_failure(attempt, attempt.state, "nobody's", attempt.reason))
    return found


def _failure(attempt: AttemptRow, outcome: str, whose: str, reason: str) -> Failure:
    number = f"{attempt.number} of {attempt.of}"
    return Failure(attempt.label, number, attempt.device_id, attempt.serial, outcome, whose, reason)


def records_hash(record: JobRecord) -> str:
    """SHA-256 over the records in the order of the plan, as canonical JSON, each once."""
    found: dict[str, Any] = {}
    for trial in record.trials:
        mapping = trial.payload["record"]
        found.setdefault(str(mapping["record_id"]), mapping)
    return hashlib.sha256(canonical(list(found.values())).encode()).hexdigest()


def canonical(value: object) -> str:
    """The one text of a JSON value: keys in order, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
