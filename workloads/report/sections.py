"""The report's sections about the job, its phones and its numbers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from mobifarm.workloads.summary import Estimate, MethodRow

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
    words += f"by {counted(len(summary.methods), 'method')} on {counted(devices, 'device')}. "
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
    energies = method_energies(record)
    by_method = [energies.get((row.label, row.execution or ""), ()) for row in methods]
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
        _costs(names, [row.execution for row in methods], methods, by_method),
    ]
    if len(found) > len(methods):
        places = [f"{_device(place)}" for place in found]
        labels = [place.row.label for place in found]
        made.append(element("h3", "By method and phone"))
        made.append(
            table(
                [Column("Method"), Column("Device", "long"), Column("Edits", "number"), *_QUALITY_COLUMNS],
                [
                    [label, place, str(each.row.edits), *_quality(each.row)]
                    for label, place, each in zip(labels, places, found, strict=True)
                ],
                "Quality by method and phone, with 95 % intervals.",
            )
        )
        rows_of = [each.row for each in found]
        made.append(
            _costs(
                labels, [row.execution for row in rows_of], rows_of, [each.energy for each in found], places
            )
        )
    return [*made, _energy_words(energies)]


def _device(place: PlaceRow) -> str:
    name = " · ".join(part for part in (place.model, place.serial or place.device_id) if part)
    epoch = place.measurement_epoch
    return name if epoch in (None, 1) else f"{name} · epoch {epoch}"


def _costs(
    names: Sequence[str],
    executions: Sequence[str | None],
    rows: Sequence[MethodRow],
    energies: Sequence[tuple[Energy, ...]],
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
    # Joules of a phone and joules of a model have columns of their own, wherever there are any.
    joules = [
        (heading, origin, read)
        for origin in (MEASURED, MODELLED)
        for heading, read in _JOULES
        if any(each.provenance == origin and read(each) for found in energies for each in found)
    ]
    columns += [Column(heading, "number", f"J per success, {origin}") for heading, origin, _ in joules]
    seconds = column_of([value for row in rows for value in (row.edit_s_median, row.edit_s_p90)])
    cells: list[list[Cell]] = []
    for number, row in enumerate(rows):
        cells.append(
            [
                names[number],
                *([places[number]] if places else []),
                executions[number] or NONE,
                *(str(count) for count in (row.converged, row.step_limit, row.failed)),
                seconds[2 * number],
                seconds[2 * number + 1],
                whole(row.loss_evaluations_median),
                whole(row.token_layers_median),
                None if row.peak_rss_bytes_max is None else grouped(row.peak_rss_bytes_max / 2**20),
                *(_joules(energies[number], origin, read) for _, origin, read in joules),
            ]
        )
    words = "without scoring, over edits that ran to their end. Peak memory: the largest of the agent."
    what = "Cost by method and phone of the edit alone" if places else "Cost of the edit alone"
    return table(columns, cells, f"{what}, {words}")


_JOULES: Final[tuple[tuple[str, Callable[[Energy], str | None]], ...]] = (
    ("above idle", lambda energy: _interval(energy.joules)),
    ("gross", lambda energy: _interval(energy.gross_joules)),
    ("± one edit", lambda energy: _digits(energy.uncertainty_joules)),
)


def _interval(estimate: Estimate | None) -> str | None:
    if estimate is None:
        return None
    return f"{estimate.mean:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def _digits(value: float | None) -> str | None:
    return None if value is None else f"{value:.2g}"


def _joules(found: Sequence[Energy], origin: str, read: Callable[[Energy], str | None]) -> str | None:
    return next((read(each) for each in found if each.provenance == origin), None)


def _energy_words(energies: Mapping[tuple[str, str], tuple[Energy, ...]]) -> Element:
    origins = {each.provenance for found in energies.values() for each in found}
    if not origins:
        words = (
            "Energy per successful edit: not measured; the reasons stand under “Measured, modelled, missing”."
        )
    else:
        words = (
            "Energy per successful edit: mean over the edits that succeeded, with its 95 % interval, above "
            "what the phone draws idle, and gross with it; ± is the median standard uncertainty of one edit."
        )
        if MODELLED in origins:
            words += (
                " Modelled joules come from a model of a phone and must not be compared with measured ones."
            )
        if MEASURED not in origins:
            words += " No energy was measured."
    return element("p", words, class_="note")
