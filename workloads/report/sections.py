"""The report's sections about the job, its phones and its numbers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from xml.etree.ElementTree import Element

from mobifarm.workloads.passport import MEASURED, MODELLED
from mobifarm.workloads.report.cells import NONE, THIN, Cell, Column, column_of, grouped, listing, table
from mobifarm.workloads.report.contents import (
    PHONE,
    Energy,
    JobRecord,
    PlaceRow,
    claims,
    failures,
    method_energies,
    passport,
)
from mobifarm.workloads.report.figures import method_name
from mobifarm.workloads.report.markup import element
from mobifarm.workloads.summary import MethodRow

ROWS_AT_MOST: Final = 400  # of the table of all edits; the export has the rest
_QUALITY_COLUMNS: Final = (
    Column("Edit success", "estimate", "% in the probability form, 95 % interval"),
    Column("Paraphrase", "estimate", "% in the probability form, 95 % interval"),
    Column("Neighbourhood", "estimate", "% in the probability form, 95 % interval"),
    Column("Accuracy", "estimate", "% teacher-forced, 95 % interval"),
    Column("Portability", "estimate", "% teacher-forced, 95 % interval"),
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
    words = f"{_number(with_result, 'edit')} of {_number(job.trials, 'trial')} with a result, "
    words += f"by {_number(len(summary.methods), 'method')} on {_number(devices, 'device')}. "
    best = [
        f"{method_name(row, summary.methods)}: {100 * success.mean:.1f} % "
        f"[{100 * success.low:.1f}, {100 * success.high:.1f}]"
        for row in summary.methods
        if (success := row.quality.edit_success) is not None
    ]
    made.append(element("p", words + (f"Edit success {'; '.join(best)}." if best else ""), class_="abstract"))
    if any(execution != PHONE for execution in executions):
        made.append(
            element(
                "p",
                f"Executions: {', '.join(executions)}. Seconds and memory of anything but execution phone are "
                "those of a computer, and temperatures, clocks and batteries of virtual phones are modelled: "
                "this is not phone performance.",
                class_="warning",
            )
        )
    if job.ended < job.trials:
        made.append(
            element("p", f"Not ended: {job.trials - job.ended} trials are still to come.", class_="warning")
        )
    return made


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def question(record: JobRecord) -> list[Element]:
    """What was asked: model, facts, methods; and how: design, seed, placement, gates."""
    spec, payloads = record.spec, [trial.payload for trial in record.trials]
    facts = len({payload["record"]["record_id"] for payload in payloads})
    methods = element("ul")
    for label, payload in {payload["method_label"]: payload for payload in payloads}.items():
        settings = ", ".join(f"{key} = {value}" for key, value in sorted(payload["settings"].items()))
        name = payload["method"] if payload["method"] == label else f"{label} ({payload['method']})"
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
        ("edits", f"kept: {spec['keep']}" if spec.get("keep", "no") not in ("no", False) else "undone after scoring"),
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
        return "not asked for" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return "; ".join(f"{str(name).replace('_', ' ')} {one(value)}" for name, value in mapping.items() if value != [])


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
            "once per record. Intervals: Wilson where each record is right or wrong, otherwise bootstrap over "
            "records. The greedy form is not measured in jobs.",
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
                [Column("Method"), Column("Device"), Column("Edits", "number"), *_QUALITY_COLUMNS],
                [
                    [label, place, str(each.row.edits), *_quality(each.row)]
                    for label, place, each in zip(labels, places, found, strict=True)
                ],
                "Quality by method and phone, and by measurement epoch where a phone had several.",
            )
        )
        rows_of = [each.row for each in found]
        made.append(
            _costs(labels, [row.execution for row in rows_of], rows_of, [each.energy for each in found], places)
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
        *([Column("Device")] if places else []),
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
    # Joules of a phone and joules of a model have a column each, wherever there are any.
    origins = sorted({each.provenance for found in energies for each in found})
    columns += [Column(f"J per success, {origin}", "number") for origin in origins]
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
                _whole(row.loss_evaluations_median),
                _whole(row.token_layers_median),
                None if row.peak_rss_bytes_max is None else grouped(row.peak_rss_bytes_max / 2**20),
                *(_joules(energies[number], origin) for origin in origins),
            ]
        )
    words = (
        "Cost of the edit alone, without scoring, over edits that ran to their end. Peak memory: the largest of "
        "the agent."
    )
    return table(columns, cells, words)


def _whole(value: float | None) -> str | None:
    return None if value is None else grouped(value)


def _joules(found: Sequence[Energy], origin: str) -> str | None:
    for each in found:
        if each.provenance == origin and each.joules_per_success is not None:
            error = "" if each.uncertainty_joules is None else f" ± {each.uncertainty_joules:.2g}"
            return f"{each.joules_per_success:.3g}{error}"
    return None


def _energy_words(energies: Mapping[tuple[str, str], tuple[Energy, ...]]) -> Element:
    origins = {each.provenance for found in energies.values() for each in found}
    if not origins:
        words = "Energy per successful edit: not measured; the reasons stand under “Measured, modelled, missing”."
    else:
        words = (
            "Energy per successful edit: joules of all edits that have them over the successes among these; ± is "
            "the sum of their uncertainties."
        )
        if MODELLED in origins:
            words += " Modelled joules come from a model of a phone and must not be compared with measured ones."
        if MEASURED not in origins:
            words += " No energy was measured."
    return element("p", words, class_="note")


def comparison(record: JobRecord) -> list[Element]:
    """What the job's own design says, beside the phones' noise floors."""
    found = record.summary.comparisons
    if found is None:
        return []

    def percent(value: float | None, relative: bool, form: str = "+.1f") -> str | None:
        return None if value is None else f"{format(100 * value, form)}{THIN}{'%' if relative else 'pp'}"

    rows: list[list[Cell]] = []
    for each in found.rows:
        one = each.comparison
        bounds = (
            None
            if one.low is None or one.high is None
            else f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
        )
        rows.append(
            [
                each.measure,
                one.phone,
                str(one.blocks),
                percent(one.effect, one.relative),
                bounds,
                percent(one.floor, one.relative, ".1f"),
                one.verdict.value,
            ]
        )
    title = f"A/A runs of {found.a}" if found.b is None else f"B = {found.b} against A = {found.a}"
    return [
        element("h2", "Comparison and noise floors"),
        table(
            [
                Column("Measure"),
                Column("Phone"),
                Column("Blocks", "number"),
                Column("B against A", "number"),
                Column("95 % interval"),
                Column("Noise floor ±", "number"),
                Column("Verdict"),
            ],
            rows,
            f"{title}, {found.blocks - found.incomplete} of {found.blocks} blocks complete. Ratios in %, "
            "differences of shares in percentage points (pp). Below the noise floor, or with an interval around "
            "zero, nothing is concluded.",
        ),
    ]


def phones(record: JobRecord) -> list[Element]:
    """The passports, a row per device and epoch; readings are those of its first and last edit."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for stored in _in_time(record):
        held = passport(stored)
        serial = (held.get("phone") or {}).get("serial") or ""
        key = (str(stored.get("device_id") or ""), serial, held.get("measurement_epoch"))
        groups.setdefault(key, []).append(held)
    if not groups:
        return []
    rows: list[list[Cell]] = []
    conditions: list[list[Cell]] = []
    for (device, serial, epoch), held in sorted(groups.items(), key=lambda item: str(item[0])):
        phone, accelerator = held[0].get("phone") or {}, _accelerator(held)
        name = " ".join(part for part in (phone.get("manufacturer"), phone.get("model")) if part)
        rows.append(
            [
                serial or device,
                name or NONE,
                phone.get("soc") or NONE,
                phone.get("android_release") or NONE,
                phone.get("build_fingerprint") or NONE,
                NONE if epoch is None else str(epoch),
                str(held[0].get("execution") or NONE),
                accelerator,
                ", ".join(_distinct(each.get("agent_version") for each in held)) or NONE,
            ]
        )
        conditions.append(
            [
                serial or device,
                *_temperature(held),
                _charging(held),
                _level(held, 0, "first"),
                _level(held, -1, "last"),
                _origin(held),
            ]
        )
    return [
        element("h2", "Phones"),
        table(
            [
                Column("Serial number"),
                Column("Model"),
                Column("SoC"),
                Column("Android"),
                Column("Build"),
                Column("Epoch", "number"),
                Column("Execution"),
                Column("Accelerator, with proof"),
                Column("Agent"),
            ],
            rows,
            "Passports. A new build of a phone begins a new measurement epoch.",
        ),
        table(
            [
                Column("Serial number"),
                Column("Sensor"),
                Column("before", "number", "Temperature, °C"),
                Column("after", "number", "Temperature, °C"),
                Column("highest", "number", "Temperature, °C"),
                Column("Charging"),
                Column("before", "number", "Battery, %"),
                Column("after", "number", "Battery, %"),
                Column("Origin"),
            ],
            conditions,
            "Conditions: before the first edit and after the last one of the job.",
        ),
    ]


def _in_time(record: JobRecord) -> list[Mapping[str, Any]]:
    begun = {attempt.attempt_id: attempt.granted_at for attempt in record.attempts}
    return sorted(record.stored, key=lambda stored: begun.get(str(stored.get("attempt_id")), 0.0))


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _accelerator(held: Sequence[Mapping[str, Any]]) -> str:
    """Every accelerator that its edits name, with the nodes of the profiling trace or why there is none."""
    said: dict[str, None] = {}
    for each in held:
        found = each.get("accelerator") or {}
        nodes = found.get("nodes_by_provider")
        where = ", ".join(f"{number} nodes on {name}" for name, number in sorted((nodes or {}).items()))
        name = found.get("name") or "not named"
        said[f"{name} ({'trace: ' + where if where else 'no proof: ' + str(found.get('reason') or NONE)})"] = None
    more = f"; and {len(said) - 2} more" if len(said) > 2 else ""
    return "; ".join(list(said)[:2]) + more


def _temperature(held: Sequence[Mapping[str, Any]]) -> list[Cell]:
    readings = [
        ((each.get("temperatures") or {}).get(when) or {}) for each in held for when in ("first", "last")
    ]
    names = sorted(
        {name for reading in readings for name in reading},
        key=lambda name: (name != "battery/temperature", "skin" not in name, name),
    )
    if not names:
        reason = next(iter(_distinct((each.get("temperatures") or {}).get("reason") for each in held)), "")
        return [f"not measured: {reason or 'no reason given'}", None, None, None]
    values = [float(reading[names[0]]["value"]) for reading in readings if names[0] in reading]
    return [names[0], *(f"{value:.1f}" for value in (values[0], values[-1], max(values)))]


def _charging(held: Sequence[Mapping[str, Any]]) -> str:
    states, reasons = [], []
    for each in held:
        found = each.get("charge_state") or {}
        value = ((found.get("first") or {}).get("battery/charging") or {}).get("value")
        states.append(None if value is None else "yes" if value == 1.0 else "no")
        reasons.append(found.get("reason"))
    said = _distinct(states)
    if not said:
        return f"not measured: {next(iter(_distinct(reasons)), 'no such sensor')}"
    return said[0] if len(said) == 1 else "changing"


def _level(held: Sequence[Mapping[str, Any]], place: int, when: str) -> str | None:
    readings = ((held[place].get("charge_state") or {}).get(when) or {}).get("battery/capacity") or {}
    value = readings.get("value")
    return None if value is None else f"{100 * float(value):.0f}"


def _origin(held: Sequence[Mapping[str, Any]]) -> str:
    parts = [(each.get(part) or {}).get("provenance") for each in held for part in ("temperatures", "charge_state")]
    return ", ".join(_distinct(parts)) or NONE


def measured(record: JobRecord) -> list[Element]:
    rows: list[list[Cell]] = [
        [
            claim.quantity,
            claim.status,
            str(claim.edits) if claim.edits == claim.of else f"{claim.edits} of {claim.of}",
            claim.detail or NONE,
        ]
        for claim in claims(record)
    ]
    return [
        element("h2", "Measured, modelled, missing"),
        table(
            [Column("Quantity"), Column("Status"), Column("Edits", "number"), Column("Source or reason")],
            rows,
            "Where each number comes from, from the passports of the results.",
        ),
    ]


def failed(record: JobRecord) -> list[Element]:
    """Failures and retries, the farm's apart from the method's."""
    found = failures(record)
    retried = len({row.trial_id for row in record.summary.attempts if row.of > 1})
    counts = {whose: sum(each.whose == whose for each in found) for whose in ("the farm's", "the method's")}
    words = (
        f"{_number(len(record.summary.attempts), 'attempt')} at {_number(len(record.trials), 'trial')}; "
        f"{_number(retried, 'trial')} tried more than once. Attempts that phones, links or hosts broke: "
        f"{counts['the farm' + chr(39) + 's']}; they are tried again and count against no method. Edits that "
        f"stopped at their step limit or failed: {counts['the method' + chr(39) + 's']}; they are results."
    )
    made = [element("h2", "Failures and retries"), element("p", words)]
    if found:
        rows: list[list[Cell]] = [
            [each.label, each.attempt, each.serial or each.device_id, each.outcome, each.whose, each.reason or NONE]
            for each in found[:ROWS_AT_MOST]
        ]
        columns = [Column(name) for name in ("Edit", "Attempt", "Device", "Outcome", "Whose", "Reason")]
        made.append(table(columns, rows, _cut(len(found))))
    return made


def _cut(number: int) -> str:
    return "" if number <= ROWS_AT_MOST else f"The first {ROWS_AT_MOST} of {number}."


def edits(record: JobRecord) -> list[Element]:
    """Every edit in one line, folded."""
    rows: list[list[Cell]] = []
    shown = record.summary.edits[:ROWS_AT_MOST]
    if not any(row.status for row in shown):
        return []
    seconds = column_of([row.edit_s for row in shown])
    read: Sequence[Callable[[Any], float | None]] = (
        lambda quality: quality.edit_success,
        lambda quality: quality.paraphrase_success,
        lambda quality: quality.neighbourhood_success,
    )
    for row, taken in zip(shown, seconds, strict=True):
        quality = [None if row.quality is None else each(row.quality) for each in read]
        rows.append(
            [
                row.label,
                row.method,
                row.serial or row.device_id or NONE,
                row.status or row.state,
                *(None if value is None else f"{100 * value:.0f}" for value in quality),
                taken,
                _whole(row.loss_evaluations),
            ]
        )
    columns = [
        Column("Edit"),
        Column("Method"),
        Column("Device"),
        Column("Ended"),
        Column("edit", "number", "Success, %"),
        Column("paraphrase", "number", "Success, %"),
        Column("neighbours", "number", "Success, %"),
        Column("Seconds", "number"),
        Column("Evaluations", "number"),
    ]
    number = len(record.summary.edits)
    return [
        element("h2", "All edits"),
        element(
            "details",
            element("summary", f"{_number(number, 'edit')}, one a line"),
            table(columns, rows, _cut(number)),
        ),
        element(
            "p",
            f"`mobifarm results {record.job.job_id} --format csv` or `parquet` exports them with their passports.",
            class_="note",
        ),
    ]
