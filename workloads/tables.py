"""A summary as tables for the terminal, and the columns that its edits are exported in."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import TYPE_CHECKING, Literal, get_args, get_type_hints

from mobifarm.workloads.comparisons import Comparisons
from mobifarm.workloads.designs import Comparison
from mobifarm.workloads.fitted_table import FittedTable
from mobifarm.workloads.scores import Quality
from mobifarm.workloads.summary import (
    COMPUTER,
    EDITS_FOR_AN_INTERVAL,
    AttemptRow,
    EditRow,
    Estimate,
    MethodRow,
    PhoneRow,
    Summary,
)

if TYPE_CHECKING:
    from rich.console import Console

UNKNOWN = "–"
AttemptChoice = Literal["all", "retried", "none"]


def print_summary(summary: Summary, console: Console, *, attempts: AttemptChoice = "retried") -> None:
    """Print every table and the footnotes.

    ``retried`` attempts are those of edits that needed several, or that were given up.
    """
    from rich.text import Text

    if summary.methods:
        console.print(render_methods(summary))
        for title, devices in (("Phones", summary.phones), ("Computer", summary.computers)):
            if devices:
                console.print(render_devices(devices, title))
    else:
        waiting = any(edit.state in ("pending", "leased") for edit in summary.edits)
        console.print(Text("There are no results yet." if waiting else "There are no results."))
    if summary.comparisons:
        console.print(render_comparisons(summary.comparisons))
    # With one attempt per trial only these say which edits are in no table, and why.
    given_up = {edit.trial_id for edit in summary.edits if edit.state == "abandoned"}
    chosen = [
        row
        for row in summary.attempts
        if attempts == "all" or (attempts == "retried" and (row.of > 1 or row.trial_id in given_up))
    ]
    if chosen:
        title = "Attempts"
        if attempts != "all":
            title += " of the edits that needed more than one" + (" or were given up" if given_up else "")
        console.print(render_attempts(chosen, title))
    for note in summary.footnotes:
        console.print(Text(note, style="dim"), soft_wrap=False)


def render_methods(summary: Summary) -> FittedTable:
    """Quality and cost, one column per method beside that of the unedited model."""
    rows = [*([summary.unedited] if summary.unedited else []), *summary.methods]
    cells = [_quality_cells(row) + (_cost_cells(row) if row is not summary.unedited else ()) for row in rows]
    return FittedTable(
        "Results",
        ("", *(row.label for row in rows)),
        [
            (name, *(column[i] if i < len(column) else "" for column in cells))
            for i, name in enumerate(_MEASURES)
            # Energy is rarely known; a row of it without any figure says nothing.
            if name not in _ENERGIES or any(column[i] != UNKNOWN for column in cells if i < len(column))
        ],
        right=range(1, len(rows) + 1),
        in_parts=True,
    )


def render_devices(rows: Sequence[PhoneRow], title: str = "Phones") -> FittedTable:
    """What every phone, or the computer, did."""
    return FittedTable(
        title,
        ("device", "model", "serial", "execution", "accelerator", "edits", "s / edit", "temperature °C"),
        [
            (
                row.device_id,
                row.model or UNKNOWN,
                row.serial or UNKNOWN,
                row.execution or UNKNOWN,
                row.accelerator or UNKNOWN,
                str(row.edits),
                _number(row.edit_s_median, "{:.2f}"),
                _temperature(row),
            )
            for row in rows
        ],
        sentences=("accelerator",),
        last=("serial", "model"),
    )


def render_comparisons(found: Comparisons) -> FittedTable:
    """B against A by measure and phone, with the phone's noise floor and what may be said."""
    title = f"A/A runs of {found.a}" if found.b is None else f"B = {found.b} against A = {found.a}"
    return FittedTable(
        f"{title}: {found.blocks - found.incomplete} of {found.blocks} blocks",
        ("measure", "phone", "blocks", "B against A", "noise floor", "verdict"),
        [
            (
                row.measure,
                row.comparison.phone,
                str(row.comparison.blocks),
                _effect(row.comparison),
                _percent(row.comparison.floor, row.comparison.relative, "±"),
                row.comparison.verdict.value,
            )
            for row in found.rows
        ],
        sentences=("phone",),
        last=("blocks",),
        right=(2, 3, 4),
    )


def _effect(comparison: Comparison) -> str:
    if comparison.effect is None or comparison.low is None or comparison.high is None:
        return UNKNOWN
    bounds = f"{100 * comparison.low:+.1f} to {100 * comparison.high:+.1f}"
    return f"{_percent(comparison.effect, comparison.relative)} [{bounds}]"


def _percent(value: float | None, relative: bool, sign: str = "") -> str:
    if value is None:
        return UNKNOWN
    number = f"{sign}{100 * value:.1f}" if sign else f"{100 * value:+.1f}"
    return f"{number} %" if relative else f"{number} points"


def render_attempts(rows: Sequence[AttemptRow], title: str = "Attempts") -> FittedTable:
    """Which attempt ran where and how it ended."""
    return FittedTable(
        title,
        ("edit", "attempt", "device", "serial", "outcome", "seconds", "reason"),
        [
            (
                row.label,
                f"{row.number} of {row.of}",
                row.device_id,
                row.serial,
                row.state,
                _number(row.duration_s, "{:.1f}"),
                row.reason,
            )
            for row in rows
        ],
        sentences=("reason",),
        spare=("serial",),
        last=("seconds",),
    )


CSV_COLUMNS: tuple[str, ...] = (
    "trial_id",
    "label",
    "method",
    "record_id",
    "repeat",
    "state",
    "status",
    "message",
    *(f"{name}_{moment}" for moment in ("before", "after") for name in Quality.__dataclass_fields__),
    "edit_s",
    "evaluation_s",
    "steps",
    "loss_evaluations",
    "token_layers",
    "peak_rss_bytes",
    "attempt_id",
    "attempts",
    "device_id",
    "serial",
    "model",
    "execution",
    "settings_hash",
    "bundle_hash",
    "edits_applied",
    "kept",
    "measurement_epoch",
    "block",
    "place",
    "arm",
    "joules",
    "uncertainty_joules",
    "gross_joules",
    "gross_uncertainty_joules",
    "modelled_joules",
    "modelled_uncertainty_joules",
    "modelled_gross_joules",
    "modelled_gross_uncertainty_joules",
    "energy_source",
    "energy_reason",
)


def edit_value(row: EditRow, column: str) -> str | float | None:
    """What a row has in one of the columns above; None is not measured."""
    name, _, moment = column.rpartition("_")
    if name in Quality.__dataclass_fields__:
        found = row.quality_before if moment == "before" else row.quality
        value: str | float | None = None if found is None else getattr(found, name)
        return value
    value = getattr(row, column)
    return value


def edit_type(column: str) -> type:
    """What the values of such a column are where they were measured: str, int, float or bool."""
    if column.rpartition("_")[0] in Quality.__dataclass_fields__:
        return float
    hint = get_type_hints(EditRow)[column]
    (kind,) = (one for one in get_args(hint) or (hint,) if one is not NoneType)
    found: type = kind
    return found


_ENERGIES: tuple[str, ...] = (
    "energy, J per successful edit",
    "energy, gross J per successful edit",
    "energy (modelled), J per successful edit",
    "energy (modelled), gross J per successful edit",
)
_MEASURES: tuple[str, ...] = (
    "edits",
    "edit success %",
    "teacher-forced accuracy %",
    "paraphrase success %",
    "neighbourhood success %",
    "portability %",
    "execution",
    "ended: converged",
    "ended: step limit",
    "ended: failed",
    "seconds per edit, median",
    "seconds per edit, p90",
    "loss evaluations, median",
    "token_layers, median",
    "agent's peak memory",
    *_ENERGIES,
)


def _quality_cells(row: MethodRow) -> tuple[str, ...]:
    return (
        str(row.edits),
        _share(row.quality.edit_success),
        _share(row.quality.rewrite_accuracy),
        _share(row.quality.paraphrase_success),
        _share(row.quality.neighbourhood_success),
        _share(row.quality.portability_accuracy),
    )


def _cost_cells(row: MethodRow) -> tuple[str, ...]:
    return (
        row.execution or UNKNOWN,
        str(row.converged),
        str(row.step_limit),
        str(row.failed),
        _number(row.edit_s_median, "{:.2f}"),
        _number(row.edit_s_p90, "{:.2f}"),
        _number(row.loss_evaluations_median, "{:,.0f}"),
        _number(row.token_layers_median, "{:,.0f}"),
        UNKNOWN if row.peak_rss_bytes_max is None else f"{row.peak_rss_bytes_max / 2**20:.0f} MiB",
        _joules(row.joules),
        _joules(row.gross_joules),
        _joules(row.modelled_joules),
        _joules(row.modelled_gross_joules),
    )


def _joules(estimate: Estimate | None) -> str:
    if estimate is None:
        return UNKNOWN
    wide = estimate.edits >= EDITS_FOR_AN_INTERVAL
    return f"{estimate.mean:.2f}" + (f" [{estimate.low:.2f}–{estimate.high:.2f}]" if wide else "")


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return UNKNOWN
    return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.0f}–{100 * estimate.high:.0f}]"


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else form.format(value)


def _temperature(row: PhoneRow) -> str:
    if row.temperature_first is None or row.temperature_last is None:
        return "not read"
    modelled = "" if row.execution in ("phone", COMPUTER) else " modelled"
    return f"{row.temperature_first:.1f} → {row.temperature_last:.1f}{modelled}"
