"""The result table of a job from its stored trials, results and attempts. Pure.

A failed edit is an unsuccessful edit and counts in every mean. A trial that the farm could not carry out, or
that has not ended, says nothing about the method: it is listed beside the table and counts nowhere.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from mobifarm.workloads.accelerators import in_words
from mobifarm.workloads.comparisons import Comparisons, comparisons
from mobifarm.workloads.footnotes import footnotes
from mobifarm.workloads.passport import MEASURED, MODELLED
from mobifarm.workloads.scores import Quality, failed_quality, quality
from mobifarm.workloads.statistics import bootstrap_mean_interval, mean, median, quantile, wilson_interval

UNEDITED: Final = "unedited model"
COMPUTER: Final = "computer"  # execution of the baselines
EDITS_FOR_AN_INTERVAL: Final = 3  # by resampling: fewer tell no spread
_FINISHED: Final = ("converged", "step_limit")
_RANDOM_SEED: Final = 0  # of the resamples: the same results give the same table


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial as stored.

    Attributes:
        state: ``done`` and ``failed`` have a result; pending, leased, abandoned and cancelled ones do not.
        payload: from the planner.
        stored: ``attempt_id``, ``device_id``, ``result`` and ``passport``; None where there is no result.
    """

    trial_id: str
    label: str
    state: str
    payload: Mapping[str, Any]
    stored: Mapping[str, Any] | None


class StoredAttempt(Protocol):
    """What is needed of an attempt; the store's rows have it."""

    @property
    def trial_id(self) -> str: ...
    @property
    def attempt_id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def device_id(self) -> str: ...
    @property
    def serial(self) -> str: ...
    @property
    def execution(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def granted_at(self) -> float: ...
    @property
    def ended_at(self) -> float | None: ...
    @property
    def reason(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``edits`` with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    edits: int


@dataclass(frozen=True, slots=True)
class QualityEstimates:
    """Means of the fields of :class:`mobifarm.workloads.scores.Quality`; None: no such prompts."""

    edit_success: Estimate | None
    rewrite_accuracy: Estimate | None
    paraphrase_success: Estimate | None
    neighbourhood_success: Estimate | None
    portability_accuracy: Estimate | None


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One line of the result table. Costs are over the edits that ran to their end; None: not measured.

    Kinds of phones are never mixed in a line: ``execution`` is the one of this, None for the unedited model.
    Energy is the mean over the edits that succeeded, above what the phone draws idle, or ``gross`` with it;
    ``modelled`` joules are no measurement and have fields of their own.
    """

    label: str
    execution: str | None
    edits: int
    converged: int
    step_limit: int
    failed: int
    quality: QualityEstimates
    edit_s_median: float | None = None
    edit_s_p90: float | None = None
    loss_evaluations_median: float | None = None
    token_layers_median: float | None = None
    peak_rss_bytes_max: int | None = None
    joules: Estimate | None = None
    gross_joules: Estimate | None = None
    modelled_joules: Estimate | None = None
    modelled_gross_joules: Estimate | None = None


@dataclass(frozen=True, slots=True)
class PhoneRow:
    """What one phone did; temperatures in degrees Celsius at its first and last sample, None: not read.

    ``accelerator``: all that its edits name, in words, see accelerators.in_words.
    """

    device_id: str
    serial: str
    model: str
    execution: str
    accelerator: str
    edits: int
    edit_s_median: float | None
    temperature_sensor: str | None
    temperature_first: float | None
    temperature_last: float | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """Which attempt ran where, and how it ended. ``number`` counts a trial's attempts from 1."""

    trial_id: str
    label: str
    number: int
    of: int
    attempt_id: str
    device_id: str
    serial: str
    execution: str
    state: str
    duration_s: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class EditRow:
    """One edit with its quality after it, for spreadsheets; None: not measured."""

    trial_id: str
    label: str
    method: str
    record_id: str
    repeat: int
    state: str
    status: str | None
    message: str
    quality_before: Quality | None
    quality: Quality | None
    edit_s: float | None
    evaluation_s: float | None
    steps: int | None
    loss_evaluations: int | None
    token_layers: int | None
    peak_rss_bytes: int | None
    attempt_id: str | None
    attempts: int
    device_id: str | None
    serial: str | None
    model: str | None
    execution: str | None
    settings_hash: str | None
    bundle_hash: str
    edits_applied: int | None
    kept: bool | None
    measurement_epoch: int | None
    block: int | None
    place: int | None
    arm: str | None
    joules: float | None = None
    uncertainty_joules: float | None = None
    gross_joules: float | None = None
    gross_uncertainty_joules: float | None = None
    modelled_joules: float | None = None
    modelled_uncertainty_joules: float | None = None
    modelled_gross_joules: float | None = None
    modelled_gross_uncertainty_joules: float | None = None
    energy_source: str | None = None
    energy_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """All tables of a job. ``missing`` counts trials without a result by state.

    ``unedited`` is the quantised model of the phones; that of the computer where no phone has a result.
    ``comparisons`` is there for a job with a design.
    """

    unedited: MethodRow | None
    methods: tuple[MethodRow, ...]
    phones: tuple[PhoneRow, ...]
    computers: tuple[PhoneRow, ...]
    attempts: tuple[AttemptRow, ...]
    edits: tuple[EditRow, ...]
    missing: Mapping[str, int]
    footnotes: tuple[str, ...]
    comparisons: Comparisons | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of all tables."""
        return dataclasses.asdict(self)


def summarise(trials: Sequence[TrialRecord], attempts: Iterable[StoredAttempt]) -> Summary:
    """Compute all tables.

    Args:
        trials: of one job, in the order of its plan.
        attempts: of the job, in the order in which they were granted.
    """
    attempt_rows = _attempt_rows(attempts)
    counts = Counter(row.trial_id for row in attempt_rows)
    edits = tuple(_edit_row(trial, counts[trial.trial_id]) for trial in trials)
    with_result = [row for row in edits if row.status is not None]
    groups = list(dict.fromkeys((row.method, row.execution or "") for row in with_result))
    missing = Counter(row.state for row in edits if row.status is None)
    compared = comparisons(edits)
    devices = _phone_rows([trial for trial in trials if trial.stored is not None])
    return Summary(
        unedited=_unedited_row(with_result),
        methods=tuple(
            method_row(*group, [row for row in with_result if (row.method, row.execution or "") == group])
            for group in groups
        ),
        phones=tuple(row for row in devices if row.execution != COMPUTER),
        computers=tuple(row for row in devices if row.execution == COMPUTER),
        attempts=attempt_rows,
        edits=edits,
        missing=dict(missing),
        comparisons=compared,
        footnotes=footnotes(
            executions={row.execution for row in devices},
            energy={
                provenance
                for row in edits
                for provenance, joules in (
                    (MEASURED, row.gross_joules),
                    (MODELLED, row.modelled_gross_joules),
                )
                if joules is not None
            },
            repeated=len({row.record_id for row in with_result}) < len(with_result),
            missing=missing,
            kept=Counter(row.serial or row.device_id or "" for row in edits if row.kept),
            incomplete_blocks=compared.incomplete if compared else 0,
            compared=compared is not None,
        ),
    )


def _edit_row(trial: TrialRecord, attempts: int) -> EditRow:
    payload, stored = trial.payload, trial.stored or {}
    result, passport = stored.get("result") or {}, stored.get("passport") or {}
    record, phone = payload["record"], passport.get("phone") or {}
    design = payload.get("design") or {}
    status = result.get("status") if trial.stored is not None else None
    finished = status in _FINISHED
    cost = (result.get("cost") or {}) if finished else {}
    scores = result.get("scores") or []
    return EditRow(
        trial_id=trial.trial_id,
        label=trial.label,
        method=payload["method_label"],
        record_id=record["record_id"],
        repeat=payload["repeat"],
        state=trial.state,
        status=status,
        message=result.get("message") or "",
        quality_before=quality(scores, "before") if finished else None,
        quality=None if status is None else quality(scores, "after") if finished else failed_quality(record),
        edit_s=cost.get("edit_s"),
        evaluation_s=cost.get("evaluation_s"),
        steps=cost.get("steps"),
        loss_evaluations=cost.get("loss_evaluations"),
        token_layers=cost.get("token_layers"),
        peak_rss_bytes=(result.get("cost") or {}).get("peak_rss_bytes"),
        attempt_id=stored.get("attempt_id"),
        attempts=attempts,
        device_id=stored.get("device_id"),
        serial=phone.get("serial"),
        model=phone.get("model"),
        execution=passport.get("execution"),
        settings_hash=passport.get("settings_hash"),
        bundle_hash=payload["bundle_hash"],
        edits_applied=passport.get("edits_applied"),
        kept=passport.get("kept"),
        measurement_epoch=passport.get("measurement_epoch"),
        block=design.get("block"),
        place=design.get("place"),
        arm=design.get("arm"),
        **_energy(passport.get("energy") or {}),
    )


_JOULES: Final = ("joules", "uncertainty_joules", "gross_joules", "gross_uncertainty_joules")


def _energy(energy: Mapping[str, Any]) -> dict[str, Any]:
    """The energy of one edit: measured and modelled joules never stand in the same field."""
    prefix = {MEASURED: "", MODELLED: "modelled_"}.get(energy.get("provenance") or "")
    figures = {} if prefix is None else {f"{prefix}{name}": energy.get(name) for name in _JOULES}
    return {**figures, "energy_source": energy.get("source"), "energy_reason": energy.get("reason")}


def method_row(label: str, execution: str, rows: Sequence[EditRow]) -> MethodRow:
    """The line of these edits, which have results, whether all of a method or those of one phone."""
    statuses = Counter(row.status for row in rows)
    finished = statuses["converged"] + statuses["step_limit"]
    costs = [row for row in rows if row.status in _FINISHED]
    peaks = [row.peak_rss_bytes for row in rows if row.peak_rss_bytes is not None]
    seconds = _known(row.edit_s for row in costs)
    return MethodRow(
        label=label,
        execution=execution,
        edits=len(rows),
        converged=statuses["converged"],
        step_limit=statuses["step_limit"],
        failed=len(rows) - finished,
        quality=_estimates([(row.record_id, row.quality) for row in rows if row.quality is not None]),
        edit_s_median=median(seconds),
        edit_s_p90=quantile(seconds, 0.9),
        loss_evaluations_median=median(_known(row.loss_evaluations for row in costs)),
        token_layers_median=median(_known(row.token_layers for row in costs)),
        peak_rss_bytes_max=max(peaks, default=None),
        **_energy_estimates([row for row in rows if row.quality is not None and row.quality.edit_success]),
    )


def _energy_estimates(successful: Sequence[EditRow]) -> dict[str, Estimate | None]:
    def of(name: str) -> Estimate | None:
        return mean_with_interval([(row.record_id, getattr(row, name)) for row in successful])

    return {name: of(name) for name in ("joules", "gross_joules", "modelled_joules", "modelled_gross_joules")}


def _unedited_row(rows: Sequence[EditRow]) -> MethodRow | None:
    """The scores before the edit; every record once, whatever was done to it afterwards."""
    scored = [row for row in rows if row.quality_before is not None]
    before: dict[str, Quality] = {}
    for row in [row for row in scored if row.execution != COMPUTER] or scored:
        if row.quality_before is not None:
            before.setdefault(row.record_id, row.quality_before)
    if not before:
        return None
    return MethodRow(UNEDITED, None, len(before), 0, 0, 0, _estimates(list(before.items())))


def _estimates(qualities: Sequence[tuple[str, Quality]]) -> QualityEstimates:
    def of(read: Callable[[Quality], float | None]) -> Estimate | None:
        return mean_with_interval([(record, read(value)) for record, value in qualities], shares=True)

    return QualityEstimates(
        edit_success=of(lambda value: value.edit_success),
        rewrite_accuracy=of(lambda value: value.rewrite_accuracy),
        paraphrase_success=of(lambda value: value.paraphrase_success),
        neighbourhood_success=of(lambda value: value.neighbourhood_success),
        portability_accuracy=of(lambda value: value.portability_accuracy),
    )


def mean_with_interval(
    values: Sequence[tuple[str, float | None]], *, shares: bool = False
) -> Estimate | None:
    """Mean of (record, value) pairs; values of one record are not independent. None where none is known.

    ``shares``: the values are shares of right answers, from 0 to 1, and not amounts.
    """
    known = [(record, value) for record, value in values if value is not None]
    numbers = [value for _, value in known]
    centre = mean(numbers)
    if centre is None:
        return None
    records = [record for record, _ in known]
    # Right or wrong per record, the same in all its repeats: resampling says nothing where all are right.
    # Where all are right or all wrong it does not matter how many repeats each record has.
    by_record = dict(zip(records, numbers, strict=True))
    agree = all(by_record[record] == value for record, value in known)
    alike = len(set(Counter(records).values())) == 1
    binary = set(numbers) <= {0.0, 1.0} and agree and alike
    # Nor does it say anything where there is no spread to draw from.
    if shares and (binary or len(set(numbers)) == 1 or len(by_record) < EDITS_FOR_AN_INTERVAL):
        interval = wilson_interval(min(centre, 1.0) * len(by_record), len(by_record))
    else:
        generator = np.random.default_rng(_RANDOM_SEED)
        interval = bootstrap_mean_interval(numbers, generator, clusters=records)
    return Estimate(centre, interval.low, interval.high, len(numbers))


def _phone_rows(trials: Sequence[TrialRecord]) -> tuple[PhoneRow, ...]:
    by_phone: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for trial in trials:
        assert trial.stored is not None
        serial = ((trial.stored.get("passport") or {}).get("phone") or {}).get("serial") or ""
        by_phone.setdefault((str(trial.stored["device_id"]), str(serial)), []).append(trial.stored)
    return tuple(_phone_row(key, stored) for key, stored in sorted(by_phone.items()))


def _phone_row(key: tuple[str, str], stored: Sequence[Mapping[str, Any]]) -> PhoneRow:
    passport = stored[0].get("passport") or {}
    seconds = [
        (one["result"].get("cost") or {}).get("edit_s")
        for one in stored
        if one["result"]["status"] in _FINISHED
    ]
    readings = [
        reading
        for one in stored
        for reading in (_temperature(one, "first"), _temperature(one, "last"))
        if reading is not None
    ]
    return PhoneRow(
        device_id=key[0],
        serial=key[1],
        model=(passport.get("phone") or {}).get("model") or "",
        execution=passport.get("execution") or "",
        accelerator="; ".join(dict.fromkeys(filter(None, map(_accelerator, stored)))),
        edits=len(stored),
        edit_s_median=median(_known(seconds)),
        temperature_sensor=readings[0][0] if readings else None,
        temperature_first=readings[0][1] if readings else None,
        temperature_last=readings[-1][1] if readings else None,
    )


def _accelerator(stored: Mapping[str, Any]) -> str:
    return in_words((stored.get("passport") or {}).get("accelerator") or {})


def _temperature(stored: Mapping[str, Any], moment: str) -> tuple[str, float] | None:
    """The battery's temperature, else the skin's, else that of the first sensor there is."""
    values = ((stored.get("passport") or {}).get("temperatures") or {}).get(moment) or {}
    order = sorted(values, key=lambda name: (name != "battery/temperature", "skin" not in name, name))
    return (order[0], float(values[order[0]]["value"])) if order else None


def _attempt_rows(attempts: Iterable[StoredAttempt]) -> tuple[AttemptRow, ...]:
    listed = list(attempts)
    totals = Counter(attempt.trial_id for attempt in listed)
    numbers: Counter[str] = Counter()
    rows = []
    for attempt in listed:
        numbers[attempt.trial_id] += 1
        ended = attempt.ended_at
        rows.append(
            AttemptRow(
                trial_id=attempt.trial_id,
                label=attempt.label,
                number=numbers[attempt.trial_id],
                of=totals[attempt.trial_id],
                attempt_id=attempt.attempt_id,
                device_id=attempt.device_id,
                serial=attempt.serial,
                execution=attempt.execution,
                state=attempt.state,
                duration_s=None if ended is None else ended - attempt.granted_at,
                reason=attempt.reason,
            )
        )
    return tuple(rows)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
