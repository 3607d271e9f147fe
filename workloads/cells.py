"""Methods against phones: what each method costs and achieves on each phone, with 95 % intervals. Pure.

As in the tables: a failed edit is an unsuccessful edit; costs are over the edits that ran to their end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mobifarm.workloads.passport import provenance_of
from mobifarm.workloads.summary import EditRow, Estimate, mean_with_interval

FINISHED: Final = ("converged", "step_limit")


@dataclass(frozen=True, slots=True)
class Cell:
    """Edits of one method on one phone; on all phones of a kind where ``device_id`` is None.

    Estimates are means; None: not measured. ``joules`` are those of successful edits, ``joules_provenance``
    is ``measured`` or ``modelled``, and ``joules_reason`` says why there are none.
    """

    method: str
    execution: str
    device_id: str | None
    serial: str | None
    model: str | None
    edits: int
    failed: int
    success: Estimate | None
    loss_evaluations: Estimate | None
    seconds: Estimate | None
    joules: Estimate | None
    joules_provenance: str | None
    joules_reason: str


def cells(edits: Iterable[EditRow], passports: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """Every method on every phone, each method's phones after its whole.

    Args:
        edits: of one job; those without a result are left out.
        passports: by attempt.
    """
    rows = [row for row in edits if row.status is not None]
    kinds = dict.fromkeys((row.method, row.execution or "") for row in rows)
    found: list[Cell] = []
    for method, execution in kinds:
        of_kind = [row for row in rows if (row.method, row.execution or "") == (method, execution)]
        phones = dict.fromkeys(row.device_id for row in of_kind)
        found.append(_cell(of_kind, passports, whole=True))
        if len(phones) > 1:
            found += (
                _cell([row for row in of_kind if row.device_id == phone], passports, whole=False)
                for phone in phones
            )
        else:
            found[-1] = _cell(of_kind, passports, whole=False)
    return found


def _cell(rows: Sequence[EditRow], passports: Mapping[str, Mapping[str, Any]], *, whole: bool) -> Cell:
    first, execution = rows[0], rows[0].execution or ""
    ended = [row for row in rows if row.status in FINISHED]

    def of(value: Callable[[EditRow], float | None], chosen: Sequence[EditRow] = ended) -> Estimate | None:
        return mean_with_interval([(row.record_id, value(row)) for row in chosen])

    successes = [(row.record_id, row.quality.edit_success if row.quality else None) for row in rows]
    successful = [row for row in ended if row.quality and row.quality.edit_success]
    energies = {
        row.attempt_id: passports.get(row.attempt_id or "", {}).get("energy") or {} for row in successful
    }
    joules = of(lambda row: energies[row.attempt_id].get("joules"), successful)
    reasons = dict.fromkeys(str(energy.get("reason") or "") for energy in energies.values())
    return Cell(
        method=first.method,
        execution=execution,
        device_id=None if whole else first.device_id,
        serial=None if whole else first.serial,
        model=None if whole else first.model,
        edits=len(rows),
        failed=sum(row.status == "failed" for row in rows),
        success=mean_with_interval(successes, shares=True),
        loss_evaluations=of(lambda row: row.loss_evaluations),
        seconds=of(lambda row: row.edit_s),
        joules=joules,
        joules_provenance=None if joules is None else provenance_of(execution),
        joules_reason="" if joules else "; ".join(filter(None, reasons)) or "no edit succeeded",
    )
