"""Whether the results of two jobs may be subtracted, why not, and what comes out where they may. Pure.

Edits are paired: the same record, repeat and seed under the same label. Two families of measures are judged
apart. *Quality and work* (success, loss evaluations) follows from the model, the method, the agent and the
kind of processor; *time and memory* also depends on the phone and its condition. Within a family all must be
the same but one *treatment* (the method with its settings, the agent's version, or the model bundle), to
which the difference is then put down. With no treatment the jobs repeat each other, and the difference is
what a repetition makes of nothing. What was not measured is not known to be the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median
from typing import Final

import numpy as np

from mobifarm.workloads.compared_edits import Edit
from mobifarm.workloads.statistics import bootstrap_mean_interval
from mobifarm.workloads.summary import COMPUTER

TEMPERATURE_TOLERANCE_CELSIUS: Final = 3.0
CHARGE_TOLERANCE: Final = 0.2
# Of five records, all differ in one direction by chance in 2 of 32 cases, which is more than 5 %.
RECORDS_NEEDED: Final = 6
_RANDOM_SEED: Final = 0
_NAMED_AT_MOST: Final = 3


class Family(StrEnum):
    """Measures that are judged together."""

    WORK = "quality and work"
    TIME = "time and memory"


class Verdict(StrEnum):
    """What may be done with two jobs in one family."""

    REPEAT = "may be subtracted: they repeat each other"
    TREATMENT = "may be subtracted"
    NO = "may not be subtracted"


@dataclass(frozen=True, slots=True)
class Difference:
    """B less A over the pairs in one measure: a difference of shares, or where ``relative`` B/A less 1."""

    label: str
    measure: str
    relative: bool
    pairs: int
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None

    @property
    def conclusion(self) -> str:
        if self.low is None or self.high is None:
            return f"fewer than {RECORDS_NEEDED} records"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "inconclusive"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one family. ``treatments`` and ``mismatches`` are sentences."""

    family: Family
    verdict: Verdict
    treatments: tuple[str, ...]
    mismatches: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Comparability:
    """What may be said of job B against job A. ``pairs`` of edits have a result in both."""

    a: str
    b: str
    pairs: int
    judgements: tuple[Judgement, ...]


def compare_jobs(a: str, edits_a: Sequence[Edit], b: str, edits_b: Sequence[Edit]) -> Comparability:
    """Judge job ``b`` against job ``a`` by their edits that have a result; their order says nothing."""
    edits_a, edits_b = _one_label(edits_a, edits_b)
    by_key = {edit.key: edit for edit in edits_b}
    pairs = [(edit, by_key[edit.key]) for edit in sorted(edits_a, key=_order) if edit.key in by_key]
    sides = (list(edits_a), list(edits_b))
    work, treatments = _work_mismatches(sides, pairs), _treatments(sides, pairs)
    time = [*work, *_time_mismatches(sides)]
    return Comparability(
        a,
        b,
        len(pairs),
        (
            _judge(Family.WORK, treatments, work, pairs, _WORK_MEASURES),
            _judge(Family.TIME, treatments, time, _of_one_phone(pairs), _TIME_MEASURES),
        ),
    )


def _order(edit: Edit) -> tuple[str, str, int, str]:
    return (edit.label, edit.record_id, edit.repeat, edit.design or "")


def _one_label(a: Sequence[Edit], b: Sequence[Edit]) -> tuple[Sequence[Edit], Sequence[Edit]]:
    """Where each job has one method, it is paired whatever it is called."""
    labels = {edit.label for edit in a}, {edit.label for edit in b}
    if labels[0] == labels[1] or len(labels[0]) != 1 or len(labels[1]) != 1:
        return a, b
    name = f"{next(iter(labels[0]))} → {next(iter(labels[1]))}"
    swapped = [[replace(edit, label=name) for edit in side] for side in (a, b)]
    return swapped[0], swapped[1]


Sides = tuple[list[Edit], list[Edit]]
Pairs = Sequence[tuple[Edit, Edit]]


def _treatments(sides: Sides, pairs: Pairs) -> list[str]:
    found = [
        _differing("the model bundle", sides, lambda edit: _short(edit.bundle_hash), known=True),
        _differing("the agent's version", sides, lambda edit: edit.agent_version, known=True),
    ]
    changed = sorted({(x.label, x.method, y.method) for x, y in pairs if x.method != y.method})
    if changed:
        named = "; ".join(f"{before} and {after}" for _, before, after in changed)
        found.append(f"the method differs: {named}")
    else:
        labels = sorted({x.label for x, y in pairs if x.settings_hash != y.settings_hash})
        found.append(f"the settings of {_listed(labels)} differ" if labels else None)
    return [each for each in found if each]


def _work_mismatches(sides: Sides, pairs: Pairs) -> list[str]:
    if not sides[0] or not sides[1]:
        return ["one of the jobs has no results"]
    found: list[str | None] = []
    keys = [{edit.key for edit in side} for side in sides]
    alone = [len(keys[0] - keys[1]), len(keys[1] - keys[0])]
    if alone != [0, 0]:
        found.append(
            f"they did not make the same edits (method, record, repeat): {len(pairs)} are in both, "
            f"{alone[0]} only in A, {alone[1]} only in B"
        )
    found.append(_paired("the text of the records differs", pairs, lambda edit: edit.record_hash))
    found.append(_paired("the seeds differ", pairs, lambda edit: edit.seed))
    found.append(_paired("other edits were kept on the phone", pairs, lambda edit: edit.edits_applied))
    found.append(_differing("the execution", sides, lambda edit: edit.execution))
    found.append(_differing("the phones' kind of processor", sides, lambda edit: edit.processor))
    found.append(_differing("the accelerator", sides, lambda edit: edit.accelerator or _not_told(edit)))
    everything = [*sides[0], *sides[1]]
    for what, values in (
        ("the model bundle", [edit.bundle_hash for edit in everything]),
        ("the settings", [edit.settings_hash for edit in everything]),
        ("the agent's version", [edit.agent_version for edit in everything]),
    ):
        unknown = values.count(None)
        found.append(f"{what} of {unknown} edits is not known" if unknown else None)
    return [each for each in found if each]


def _not_told(edit: Edit) -> str | None:
    """A baseline, and an edit that failed before it ran, name no accelerator."""
    return (
        None if edit.execution == COMPUTER or edit.status not in ("converged", "step_limit") else "not told"
    )


def _time_mismatches(sides: Sides) -> list[str]:
    found = [
        _differing("the phones (serial number, build, epoch)", sides, _phone_words),
        _differing("the machine of a virtual phone or baseline", sides, _machine),
    ]
    phones = sorted({edit.phone for edit in sides[0]} & {edit.phone for edit in sides[1]}, key=str)
    for phone in phones:
        of_phone = [[edit for edit in side if edit.phone == phone] for side in sides]
        if any(edit.execution == COMPUTER for side in of_phone for edit in side):
            continue  # has no battery, and its temperature is not what makes it slow
        found += _condition_mismatches(phone[0] or "the phone", of_phone)
    return [each for each in found if each]


def _machine(edit: Edit) -> str | None:
    return None if edit.execution == "phone" else edit.host


def _phone_words(edit: Edit) -> str:
    serial, build, epoch = edit.phone
    return f"{serial or 'unknown'} ({build or 'unknown build'}, epoch {epoch})"


def _condition_mismatches(name: str, sides: Sequence[Sequence[Edit]]) -> list[str | None]:
    """At the start of the edits on one phone: medians of temperature and charge, and whether it charged."""
    found: list[str | None] = []
    sensors = [{edit.sensor for edit in side} for side in sides]
    temperatures = [_medians(side, lambda edit: edit.temperature) for side in sides]
    if temperatures[0] is None or temperatures[1] is None:
        found.append(f"{name}: the temperature was not measured in both")
    elif sensors[0] != sensors[1]:
        found.append(f"{name}: the temperature is of different sensors")
    elif abs(temperatures[0] - temperatures[1]) > TEMPERATURE_TOLERANCE_CELSIUS:
        found.append(
            f"{name}: it was {temperatures[0]:.1f} °C in A and {temperatures[1]:.1f} °C in B at the start of "
            f"an edit (medians; up to {TEMPERATURE_TOLERANCE_CELSIUS:g} K apart is taken as the same)"
        )
    charging = [{edit.charging for edit in side} for side in sides]
    if any(None in states for states in charging):
        found.append(f"{name}: whether it was charging was not measured in both")
    elif charging[0] != charging[1]:
        words = [
            _listed(sorted("charging" if state else "not charging" for state in each)) for each in charging
        ]
        found.append(f"{name}: it was {words[0]} in A and {words[1]} in B")
    charges = [_medians(side, lambda edit: edit.charge) for side in sides]
    if charges[0] is not None and charges[1] is not None and abs(charges[0] - charges[1]) > CHARGE_TOLERANCE:
        found.append(
            f"{name}: its battery held {charges[0]:.0%} in A and {charges[1]:.0%} in B (medians; up to "
            f"{100 * CHARGE_TOLERANCE:g} points apart is taken as the same)"
        )
    return found


def _medians(edits: Sequence[Edit], read: Callable[[Edit], float | None]) -> float | None:
    """The median; None where it is not known of every edit."""
    values = [read(edit) for edit in edits]
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


def _differing(
    what: str, sides: Sides, read: Callable[[Edit], str | None], *, known: bool = False
) -> str | None:
    """A sentence where the two jobs do not have the same set of values; None is left out of both.

    Args:
        known: nothing is said where one of the jobs knows no value at all.
    """
    a, b = ({value for edit in side if (value := read(edit)) is not None} for side in sides)
    if a == b or (known and not (a and b)):
        return None
    verb = "differ" if what.startswith("the phones (") else "differs"
    return f"{what} {verb}: {_listed(sorted(a))} in A, {_listed(sorted(b))} in B"


def _paired(what: str, pairs: Pairs, read: Callable[[Edit], object]) -> str | None:
    number = sum(read(x) != read(y) for x, y in pairs)
    return f"{what} in {number} of {len(pairs)} pairs" if number else None


def _listed(values: Sequence[str]) -> str:
    if not values:
        return "none"
    more = f" and {len(values) - _NAMED_AT_MOST} more" if len(values) > _NAMED_AT_MOST else ""
    return ", ".join(values[:_NAMED_AT_MOST]) + more


def _short(text: str | None) -> str | None:
    return None if text is None else text[:12]


def _of_one_phone(pairs: Pairs) -> Pairs:
    return [(x, y) for x, y in pairs if x.phone == y.phone]


def _quality(name: str) -> Callable[[Edit], float | None]:
    return lambda edit: None if edit.quality is None else getattr(edit.quality, name)


# Measure → its value, and whether it is compared as a ratio.
Measures = Mapping[str, tuple[Callable[[Edit], float | None], bool]]
_WORK_MEASURES: Final[Measures] = {
    **{
        name.replace("_", " "): (_quality(name), False)
        for name in ("edit_success", "paraphrase_success", "neighbourhood_success")
    },
    "teacher-forced accuracy": (_quality("rewrite_accuracy"), False),
    "portability": (_quality("portability_accuracy"), False),
    "loss evaluations": (lambda edit: edit.loss_evaluations, True),
    "token_layers": (lambda edit: edit.token_layers, True),
}
_TIME_MEASURES: Final[Measures] = {
    "seconds per edit": (lambda edit: edit.edit_s, True),
    "agent's peak memory": (lambda edit: edit.peak_rss_bytes, True),
}


def _judge(
    family: Family, treatments: Sequence[str], mismatches: Sequence[str], pairs: Pairs, measures: Measures
) -> Judgement:
    problems = list(mismatches)
    if len(treatments) > 1:
        problems.insert(
            0, "more than one thing was changed, so a difference could be put down to neither: "
            + "; ".join(treatments)
        )  # fmt: skip
    if not pairs and not problems:
        problems.append("no edit was made on the same phone in both")
    if problems:
        return Judgement(family, Verdict.NO, tuple(treatments), tuple(problems), ())
    verdict = Verdict.TREATMENT if treatments else Verdict.REPEAT
    labels = dict.fromkeys(edit.label for edit, _ in pairs)
    differences = tuple(
        found
        for label in labels
        for measure, (read, relative) in measures.items()
        if (found := _difference(label, measure, [p for p in pairs if p[0].label == label], read, relative))
    )
    return Judgement(family, verdict, tuple(treatments), (), differences)


def _difference(
    label: str, measure: str, pairs: Pairs, read: Callable[[Edit], float | None], relative: bool
) -> Difference | None:
    """Over the pairs in which both have the measure; None where there is none."""
    values: list[tuple[float, float]] = []
    records: list[str] = []
    for x, y in pairs:
        a, b = read(x), read(y)
        if a is not None and b is not None and (not relative or (a > 0 and b > 0)):
            values.append((float(a), float(b)))
            records.append(x.record_id)
    if not values:
        return None
    scale: Callable[[float], float] = math.log if relative else float
    back: Callable[[float], float] = math.expm1 if relative else float
    differences = [scale(b) - scale(a) for a, b in values]
    bounds: tuple[float | None, float | None] = (None, None)
    if len(set(records)) >= RECORDS_NEEDED:
        interval = bootstrap_mean_interval(differences, np.random.default_rng(_RANDOM_SEED), clusters=records)
        bounds = back(interval.low), back(interval.high)
    mean_a, mean_b = (math.fsum(scale(value[side]) for value in values) / len(values) for side in (0, 1))
    if relative:
        mean_a, mean_b = math.exp(mean_a), math.exp(mean_b)
    difference = back(math.fsum(differences) / len(values))
    return Difference(label, measure, relative, len(values), mean_a, mean_b, difference, *bounds)
