"""The plots of a job: which rows, which values, and the words below them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final
from xml.etree.ElementTree import Element

from mobifarm.workloads.passport import MEASURED
from mobifarm.workloads.report import charts
from mobifarm.workloads.report.contents import JobRecord, PlaceRow, passport
from mobifarm.workloads.report.markup import element
from mobifarm.workloads.summary import EditRow, MethodRow, QualityEstimates

MEASURES: Final[tuple[tuple[str, Callable[[QualityEstimates], Any]], ...]] = (
    ("edit success", lambda quality: quality.edit_success),
    ("paraphrase success", lambda quality: quality.paraphrase_success),
    ("neighbourhood success", lambda quality: quality.neighbourhood_success),
    ("teacher-forced accuracy", lambda quality: quality.rewrite_accuracy),
    ("portability", lambda quality: quality.portability_accuracy),
)
_REFERENCE_COLOUR: Final = 7
_DOTS: Final = f"evenly chosen ones where there are more than {charts.DOTS}"
_SMALLEST_PROBABILITY: Final = 1e-12


def method_name(row: MethodRow, all_rows: Sequence[MethodRow]) -> str:
    """The label, with the execution where the job has several."""
    if row.execution is None or len({each.execution for each in all_rows}) == 1:
        return row.label
    return f"{row.label} · {row.execution}"


def figure(chart: Element, number: int, words: str) -> Element:
    return element("figure", chart, element("figcaption", element("strong", f"Figure {number}. "), words))


def figures(record: JobRecord, found: Sequence[PlaceRow]) -> list[Element]:
    """All plots that the job's results allow, numbered from 1."""
    if not record.summary.methods:
        return []
    drawn = [_success(record)]
    drawn += _seconds(record)
    drawn += _evaluations(record)
    drawn += _probabilities(record)
    drawn += _temperatures(record)
    return [figure(chart, number, words) for number, (chart, words) in enumerate(drawn, 1)]


Drawn = tuple[Element, str]


def _colours(record: JobRecord) -> dict[tuple[str, str], int]:
    return {(row.label, row.execution or ""): place for place, row in enumerate(record.summary.methods)}


def _success(record: JobRecord) -> Drawn:
    methods, unedited = record.summary.methods, record.summary.unedited
    groups = {}
    for name, read in MEASURES:
        rows = [
            charts.Row(method_name(row, methods), place, read(row.quality))
            for place, row in enumerate(methods)
        ]
        if unedited is not None and read(unedited.quality) is not None:
            rows.insert(0, charts.Row(unedited.label, _REFERENCE_COLOUR, read(unedited.quality), hollow=True))
        if any(row.estimate is not None for row in rows):
            groups[name] = rows
    words = (
        "Shares with their 95 % confidence intervals. Hollow: before the edit. Success compares the mean "
        "log-probability per token of two answers; accuracy and portability are teacher-forced."
    )
    return charts.intervals(groups, "% of edits or prompts", "Success by method"), words


def _by_place(
    record: JobRecord, execution: str | None, read: Callable[[EditRow], float | None]
) -> list[charts.Row]:
    """A row per method and phone, of the edits that ran to their end."""
    colours = _colours(record)
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in record.summary.edits:
        value = read(row)
        if value is not None and row.status in ("converged", "step_limit"):
            if execution is not None and row.execution != execution:
                continue
            device = row.serial or row.device_id or ""
            groups.setdefault((row.method, row.execution or "", device), []).append(value)
    return [
        charts.Row(f"{method} · {device}", colours.get((method, kind), 0), None, values)
        for (method, kind, device), values in sorted(groups.items(), key=lambda item: colours[item[0][:2]])
    ]


def _seconds(record: JobRecord) -> list[Drawn]:
    """One plot per execution: seconds of a phone never share an axis with those of a computer."""
    drawn = []
    for execution in dict.fromkeys(row.execution for row in record.summary.methods):
        rows = _by_place(record, execution or "", lambda row: row.edit_s)
        if rows:
            whose = "" if execution == "phone" else f" Execution {execution}: not phone performance."
            words = (
                "Seconds per edit by method and device, over edits that ran to their end: every edit "
                f"({_DOTS}), the quartiles, and the median (also on the right).{whose}"
            )
            title = f"seconds per edit, execution {execution}"
            drawn.append((charts.distributions(rows, title, f"Distribution of {title}"), words))
    return drawn


def _evaluations(record: JobRecord) -> list[Drawn]:
    rows = _by_place(record, None, lambda row: row.loss_evaluations)
    if not rows:
        return []
    words = (
        "Loss evaluations per edit by method and device: forward passes over all rewriting prompts; a "
        "backward pass counts as two. They do not depend on the device's speed."
    )
    return [
        (charts.distributions(rows, "loss evaluations per edit", "Distribution of loss evaluations"), words)
    ]


def _probabilities(record: JobRecord) -> list[Drawn]:
    """Per-token probability of both answers after the edited prompt, before against after."""
    methods = record.summary.methods
    trials = {trial.trial_id: trial for trial in record.trials}
    panels: dict[str, list[tuple[charts.Row, list[tuple[float, float]]]]] = {}
    for title, answer in (("new answer", "wanted"), ("other answer", "other")):
        rows = []
        for place, method in enumerate(methods):
            points = [
                point
                for row in record.summary.edits
                if (row.method, row.execution) == (method.label, method.execution)
                for point in _points(trials[row.trial_id].stored or {}, answer)
            ]
            if points:
                rows.append((charts.Row(method_name(method, methods), place), points))
        if rows:
            panels[title] = rows
    if not panels:
        return []
    words = (
        "Probability per token (geometric mean) of the answers after the edited prompt, before and after "
        f"the edit, a dot per edit ({_DOTS}). On the dashed line nothing changed."
    )
    return [(charts.scatter(panels, "Probabilities before and after the edit"), words)]


def _points(stored: Any, answer: str) -> list[tuple[float, float]]:
    points = []
    for score in (stored.get("result") or {}).get("scores") or []:
        if score["kind"] == "efficacy":
            before, after = (_probability(score.get(f"{answer}_{when}")) for when in ("before", "after"))
            if before is not None and after is not None:
                points.append((before, after))
    return points


def _probability(answer: Any) -> float | None:
    if answer is None or answer["log_probability"] is None or not answer["tokens"]:
        return None
    return max(_SMALLEST_PROBABILITY, min(1.0, math.exp(answer["log_probability"] / answer["tokens"])))


def _temperatures(record: JobRecord) -> list[Drawn]:
    """One plot per origin: measured temperatures never share an axis with modelled ones."""
    attempts = {attempt.attempt_id: attempt for attempt in record.attempts}
    begin = min((attempt.granted_at for attempt in record.attempts), default=0.0)
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for stored in record.stored:
        attempt = attempts.get(str(stored.get("attempt_id")))
        held = passport(stored)
        said = held.get("temperatures") or {}
        readings = {moment: said.get(moment) or {} for moment in ("first", "last")}
        if attempt is None or attempt.ended_at is None or held.get("execution") == "computer":
            continue
        sensor = next(iter(sorted(readings["first"], key=_sensor_order)), None)
        if sensor is None:
            continue
        device = str((held.get("phone") or {}).get("serial") or stored.get("device_id"))
        line = found.setdefault((str(said.get("provenance") or MEASURED), sensor), {}).setdefault(device, [])
        for moment, at in (("first", attempt.granted_at), ("last", attempt.ended_at)):
            if sensor in readings[moment]:
                line.append(((at - begin) / 60, float(readings[moment][sensor]["value"])))
    drawn = []
    for (origin, sensor), devices in sorted(found.items()):
        rows = [
            charts.Line(name, place, sorted(points)) for place, (name, points) in enumerate(devices.items())
        ]
        title = f"{sensor}, °C ({origin})"
        words = (
            f"Temperature of each phone at the start and end of its edits, sensor {sensor}: {origin}, "
            "minutes since the job's first lease."
        )
        drawn.append((charts.lines(rows, "minutes", title, f"Temperature over the job: {title}"), words))
    return drawn


def _sensor_order(name: str) -> tuple[bool, bool, str]:
    return (name != "battery/temperature", "skin" not in name, name)
