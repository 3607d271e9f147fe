"""The report's sections about what the numbers stand on: noise floors, origins, failures, edits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from xml.etree.ElementTree import Element

from mobifarm.workloads.report.cells import NONE, THIN, Cell, Column, column_of, counted, table, whole
from mobifarm.workloads.report.contents import JobRecord, claims, failures
from mobifarm.workloads.report.markup import element, prose

ROWS_AT_MOST: Final = 400  # of the table of all edits; the export has the rest


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
            None if one.low is None or one.high is None else f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
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
            "differences of shares in percentage points (pp). Below the noise floor, or with an interval "
            "around zero, nothing is concluded.",
        ),
    ]


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
            [
                Column("Quantity"),
                Column("Status"),
                Column("Edits", "number"),
                Column("Source or reason", "long"),
            ],
            rows,
            "Where each number comes from, from the passports of the results.",
        ),
    ]


def failed(record: JobRecord) -> list[Element]:
    """Failures and retries, the farm's apart from the method's."""
    found = failures(record)
    retried = len({row.trial_id for row in record.summary.attempts if row.of > 1})
    farms, methods = (sum(each.whose == whose for each in found) for whose in ("the farm's", "the method's"))
    words = (
        f"{counted(len(record.summary.attempts), 'attempt')} at {counted(len(record.trials), 'trial')}; "
        f"{counted(retried, 'trial')} tried more than once. Attempts that phones, links or hosts broke: "
        f"{farms}; they are tried again and count against no method. Edits that "
        f"stopped at their step limit or failed: {methods}; they are results."
    )
    made = [element("h2", "Failures and retries"), element("p", words)]
    if found:
        rows: list[list[Cell]] = [
            [
                each.label,
                each.attempt,
                each.serial or each.device_id,
                each.outcome,
                each.whose,
                each.reason or NONE,
            ]
            for each in found[:ROWS_AT_MOST]
        ]
        columns = [
            Column("Edit", "long"),
            *(Column(name) for name in ("Attempt", "Device", "Outcome", "Whose")),
            Column("Reason", "long"),
        ]
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
                whole(row.loss_evaluations),
            ]
        )
    columns = [
        Column("Edit", "long"),
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
            element("summary", f"{counted(number, 'edit')}, one a line"),
            table(columns, rows, _cut(number)),
        ),
        element(
            "p",
            *prose(f"`mobifarm results {record.job.job_id} --format parquet -o FILE` exports them all."),
            class_="note",
        ),
    ]
