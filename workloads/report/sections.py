"""The report's sections about the job, its phones and its numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from xml.etree.ElementTree import Element

from mobifarm.workloads.passport import MEASURED, MODELLED
from mobifarm.workloads.report.cells import (
    NONE,
    Cell,
    Column,
    column_of,
    counted,
    grouped,
    listing,
    table,
    whole,
)
from mobifarm.workloads.report.contents import (
    PHONE,
    Energy,
    JobRecord,
    PlaceRow,
    method_energies,
)
from mobifarm.workloads.report.figures import method_name
from mobifarm.workloads.report.markup import element
from mobifarm.workloads.summary import EDITS_FOR_AN_INTERVAL, MethodRow

_QUALITY_COLUMNS: Final = (
    Column("Edit success", "estimate", "Probability form, %"),
    Column("Paraphrase", "estimate", "Probability form, %"),
    Column("Neighbourhood", "estimate", "Probability form, %"),
    Column("Accuracy", "estimate", "Teacher-forced, %"),
    Column("Portability", "estimate", "Teacher-forced, %"),
)


def moment(at: float | None) -> str:
    """Unix seconds as UTC."""
    return NONE if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def heading(record: JobRecord, version: str) -> list[Element]:
    job, summary = record.job, record.summary
    executions = sorted({row.execution or "" for row in summary.methods})
    with_result = sum(row.edits for row in summary.methods)
    devices = len(summary.phones) + len(summary.computers)
    made: list[Element] = [
        element("h1", job.name),
        element(
            "p",
            f"Job {job.job_id} of {job.user}, submitted {moment(job.submitted_at)}, "
            + (f"ended {moment(job.finished_at)}" if job.finished_at else f"{job.state}: not ended yet")
            + f". MobiFarm {version}.",
            class_="byline",
        ),
    ]
    if not summary.methods:
        return [*made, element("p", "There are no results yet.", class_="warning")]
    words = f"{counted(with_result, 'edit')} of {counted(job.trials, 'trial')} with a result, "
    methods = len({row.label for row in summary.methods})
    words += f"by {counted(methods, 'method')} on {counted(devices, 'device')}. "
    best = [
        f"{method_name(row, summary.methods)} {100 * success.mean:.1f}\N{NO-BREAK SPACE}% "
        f"[{100 * success.low:.1f}, {100 * success.high:.1f}]"
        for row in summary.methods
        if (success := row.quality.edit_success) is not None
    ]
    made.append(
        element("p", words + (f"Edit success: {'; '.join(best)}." if best else ""), class_="abstract")
    )
    if any(execution != PHONE for execution in executions):
        made.append(
            element(
                "p",
                f"Executions: {', '.join(executions)}. Seconds and memory of anything but execution phone "
                "are those of a computer, and temperatures, clocks and batteries of virtual phones are "
                "modelled: this is not phone performance.",
                class_="warning",
            )
        )
    if job.ended < job.trials:
        made.append(
            element("p", f"Not ended: {job.trials - job.ended} trials are still to come.", class_="warning")
        )
    return made


def question(record: JobRecord) -> list[Element]:
    """What was asked: model, facts, methods; and how: design, seed, placement, gates."""
    spec, payloads = record.spec, [trial.payload for trial in record.trials]
    facts = len({payload["record"]["record_id"] for payload in payloads})
    methods = element("ul")
    for label, payload in {payload["method_label"]: payload for payload in payloads}.items():
        settings = ", ".join(
            f"{key} = {value}" for key, value in sorted((payload.get("settings") or {}).items())
        )
        method = payload.get("method") or label
        name = label if method == label else f"{label} ({method})"
        methods.append(element("li", element("strong", name), ": ", settings or "no settings"))
    pairs: list[tuple[str, Element | str]] = [
        ("model", str(spec.get("model", NONE))),
        ("facts", f"{facts} of {_words(spec.get('dataset') or {})}"),
        ("methods", methods),
    ]
    if spec.get("description"):
        pairs.insert(0, ("description", str(spec["description"])))
    return [element("h2", "Question"), listing(pairs)]


def design(record: JobRecord) -> list[Element]:
    spec, found = record.spec, record.summary.comparisons
    devices, gates = spec.get("devices") or {}, spec.get("gates")
    kinds = {
        None: "single: each fact once per method and repeat",
        "ab": "ab: two methods in blocks ABBA or BAAB, each block one fact on one phone",
        "aa": "aa: one method against itself, in pairs on one phone",
    }
    pairs = [
        ("design", kinds.get(spec.get("design"), str(spec.get("design")))),
        ("repeats", f"{spec.get('repeats', 1)} per fact"),
        ("seed", f"{spec.get('seed', 0)}; methods share the seeds of a fact and repeat"),
        ("devices", _words(devices) or "any"),
        ("gates", "the defaults" if not gates else _words(gates) + "; otherwise the defaults"),
        ("attempts", f"up to {spec.get('attempts', 3)} per trial, where phones or links fail"),
        (
            "edits",
            f"kept: {spec['keep']}"
            if spec.get("keep", "no") not in ("no", False)
            else "undone after scoring",
        ),
    ]
    if found is not None:
        complete = found.blocks - found.incomplete
        pairs.insert(1, ("blocks", f"{found.blocks}, of which {complete} are complete"))
    return [element("h2", "Design"), listing(pairs)]


def _words(mapping: Mapping[str, Any]) -> str:
    def one(value: object) -> str:
        if isinstance(value, Mapping):
            return _words(value)
        if isinstance(value, list):
            return ", ".join(str(each) for each in value)
        return (
            "not asked for"
            if value is None
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )

    return "; ".join(
        f"{str(name).replace('_', ' ')} {one(value)}" for name, value in mapping.items() if value != []
    )


def _quality(row: MethodRow) -> list[Cell]:
    quality = row.quality
    return [
        quality.edit_success,
        quality.paraphrase_success,
        quality.neighbourhood_success,
        quality.rewrite_accuracy,
        quality.portability_accuracy,
    ]


def results(record: JobRecord, found: Sequence[PlaceRow]) -> list[Element]:
    """Quality and cost by method, then by method and phone."""
    methods, unedited = record.summary.methods, record.summary.unedited
    if not methods:
        return []
    names = [method_name(row, methods) for row in methods]
    rows: list[list[Cell]] = [
        [name, str(row.edits), *_quality(row)] for name, row in zip(names, methods, strict=True)
    ]
    if unedited is not None:
        rows.insert(0, [unedited.label, str(unedited.edits), *_quality(unedited)])
    made = [
        element("h2", "Results"),
        table(
            [Column("Method"), Column("Edits", "number"), *_QUALITY_COLUMNS],
            rows,
            "Quality after the edit; a failed edit counts as wrong everywhere. The unedited model is scored "
            "once per record. Brackets: 95 % intervals, Wilson where each record is right or wrong, "
            "otherwise bootstrap over records. The greedy form is not measured in jobs.",
            reference=None if unedited is None else 0,
        ),
        _costs(names, methods),
    ]
    if len(found) > len(methods):
        places = [_device(place) for place in found]
        made.append(element("h3", "By method and phone"))
        made.append(
            table(
                [Column("Method"), Column("Device", "long"), Column("Edits", "number"), *_QUALITY_COLUMNS],
                [
                    [each.row.label, place, str(each.row.edits), *_quality(each.row)]
                    for place, each in zip(places, found, strict=True)
                ],
                "Quality by method and phone, with 95 % intervals.",
            )
        )
        made.append(_costs([each.row.label for each in found], [each.row for each in found], places))
    return [*made, *_energy(record, found)]


def _device(place: PlaceRow) -> str:
    name = " · ".join(part for part in (place.model, place.serial or place.device_id) if part)
    epoch = place.measurement_epoch
    return name if epoch in (None, 1) else f"{name} · epoch {epoch}"


def _costs(
    names: Sequence[str],
    rows: Sequence[MethodRow],
    places: Sequence[str] = (),
) -> Element:
    columns = [
        Column("Method"),
        *([Column("Device", "long")] if places else []),
        Column("Execution"),
        Column("converged", "number", "Ended"),
        Column("step limit", "number", "Ended"),
        Column("failed", "number", "Ended"),
        Column("median", "number", "Seconds per edit"),
        Column("p90", "number", "Seconds per edit"),
        Column("Loss evaluations", "number", "Medians"),
        Column("Token × layers", "number", "Medians"),
        Column("Peak memory, MiB", "number"),
    ]
    seconds = column_of([value for row in rows for value in (row.edit_s_median, row.edit_s_p90)])
    cells: list[list[Cell]] = []
    for number, row in enumerate(rows):
        cells.append(
            [
                names[number],
                *([places[number]] if places else []),
                row.execution or NONE,
                *(str(count) for count in (row.converged, row.step_limit, row.failed)),
                seconds[2 * number],
                seconds[2 * number + 1],
                whole(row.loss_evaluations_median),
                whole(row.token_layers_median),
                None if row.peak_rss_bytes_max is None else grouped(row.peak_rss_bytes_max / 2**20),
            ]
        )
    words = "without scoring, over edits that ran to their end. Peak memory: the largest of the agent."
    what = "Cost by method and phone of the edit alone" if places else "Cost of the edit alone"
    return table(columns, cells, f"{what}, {words}")


def _energy(record: JobRecord, found: Sequence[PlaceRow]) -> list[Element]:
    """Joules of phones and joules of a model, each in a table of its own."""
    made = [element("h3", "Energy per successful edit")]
    by_method = method_energies(record)
    several = len(found) > len(record.summary.methods)
    for origin in (MEASURED, MODELLED):
        lines = [
            (row.label, "all", row.execution, energy)
            for row in record.summary.methods
            for energy in by_method.get((row.label, row.execution or ""), ())
            if energy.provenance == origin and several
        ]
        lines += [
            (each.row.label, _device(each), each.row.execution, energy)
            for each in found
            for energy in each.energy
            if energy.provenance == origin
        ]
        if lines:
            made.append(table(_ENERGY_COLUMNS, _joules(lines), _ENERGY_WORDS[origin]))
    if not any(by_method.values()):
        words = "No successful edit has any; the reasons stand under “Measured, modelled, missing”."
        made.append(element("p", words, class_="note"))
    return made


_ENERGY_COLUMNS: Final = (
    Column("Method"),
    Column("Device", "long"),
    Column("Execution"),
    Column("Edits", "number"),
    Column("mean", "number", "Above idle, J"),
    Column("95 % interval", "text", "Above idle, J"),
    Column("mean", "number", "Gross, J"),
    Column("95 % interval", "text", "Gross, J"),
    Column("± of one edit, J", "number"),
)
_MEAN: Final = (
    "mean over the edits that succeeded, above what the phone draws idle, and gross with it; ± is the median "
    "standard uncertainty of one edit."
)
_ENERGY_WORDS: Final[Mapping[str, str]] = {
    MEASURED: f"Measured: {_MEAN}",
    MODELLED: f"Modelled, from a model of a phone's power, which is no measurement: {_MEAN}",
}


def _joules(lines: Sequence[tuple[str, str, str | None, Energy]]) -> list[list[Cell]]:
    """The rows of a table, all joules with the same decimals; an interval wants three edits."""
    values: list[float | None] = []
    for *_, energy in lines:
        for estimate in (energy.joules, energy.gross_joules):
            wide = estimate is not None and estimate.edits >= EDITS_FOR_AN_INTERVAL
            values += [
                None if estimate is None else estimate.mean,
                estimate.low if estimate is not None and wide else None,
                estimate.high if estimate is not None and wide else None,
            ]
        values.append(energy.uncertainty_joules)
    told = iter(column_of(values))
    rows: list[list[Cell]] = []
    for label, device, execution, energy in lines:
        cells: list[Cell] = []
        for _ in range(2):
            mean, low, high = next(told), next(told), next(told)
            cells += [mean, None if low is None else f"[{low}, {high}]"]
        rows.append([label, device, execution or NONE, str(energy.edits), *cells, next(told)])
    return rows
