"""What a reader must know to read the tables: what is measured, what is modelled, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Set


def footnotes(
    *,
    executions: Set[str],
    energy: Set[str],
    repeated: bool,
    missing: Mapping[str, int],
    kept: Mapping[str, int],
    compared: bool,
    incomplete_blocks: int,
) -> tuple[str, ...]:
    """The notes that apply.

    Args:
        executions: kinds of devices that gave results.
        energy: ``measured``, ``modelled``, both or none, of the edits whose energy is known.
        repeated: whether some fact was edited more than once.
        missing: trials without a result by state.
        kept: edits that phones have kept, by the phone's serial number.
        compared: whether the job has a design.
        incomplete_blocks: of its blocks, how many are in no comparison.
    """
    notes = [
        "Measured on the quantised model before and after each edit"
        + (", by the computer on the one in fp32" if "computer" in executions else "")
        + ". Brackets: 95 % confidence (Wilson for "
        "yes or no per fact, otherwise bootstrap over facts). Failed edits count as wrong in every mean.",
        "Success: the answer has a higher mean log-probability per token than the other one. Accuracy and "
        "portability: share of the answer's tokens that come first, teacher-forced, which overstates free "
        "generation.",
        "Seconds, loss evaluations and token_layers: medians of the edit alone, without scoring before and "
        "after, over edits that ran to their end. Peak memory: the largest of the agent.",
    ]
    if "virtual" in executions:
        notes.append(
            "Execution virtual: a process on this computer. Its seconds and memory are the computer's, not "
            "phone performance; its temperatures, clocks and battery are modelled."
        )
    if "computer" in executions:
        notes.append(
            "Execution computer: torch in fp32 on this computer, on the weights that the bundle was built "
            "from. Compare its quality with the method `unedited`, which is measured there too; its seconds "
            "and memory are the computer's and compare with those of no phone."
        )
    if "qemu_arm64" in executions:
        notes.append("Execution qemu_arm64: an emulated processor; its seconds are not phone performance.")
    notes.append(_energy(energy))
    if repeated:
        notes.append("Edits of one fact are not independent: the intervals resample facts, not edits.")
    if kept:
        phones = ", ".join(f"{number} by {serial}" for serial, number in sorted(kept.items()))
        notes.append(
            f"Edits were kept: {phones}. Each was scored with all that its phone kept until then "
            "(edits_applied in --csv); each phone keeps its own, and `mobifarm edits list PHONE` shows them."
        )
    if compared:
        notes.append(
            "Comparison: of blocks ABBA or BAAB on one phone (A/A pairs where there is no B), each phone by "
            "itself and then their mean. The noise floor is what the mean of as many differences between "
            "two edits of one method stays below in 95 % of cases; below it, or with an interval around "
            "zero, nothing is concluded."
        )
    if incomplete_blocks:
        notes.append(
            f"{incomplete_blocks} blocks are in no comparison: an edit of theirs has no result yet, or was "
            "made on another phone."
        )
    if missing:
        listed = ", ".join(f"{number} {state}" for state, number in sorted(missing.items()))
        notes.append(
            f"Without a result and in no row: {listed}. Abandoned means that phones or links failed too "
            "often, which is not the method's fault."
        )
    return tuple(notes)


def _energy(provenances: Set[str]) -> str:
    if not provenances:
        return "Energy: not measured; `mobifarm results JOB --json` says why for each edit."
    told = (
        "Energy: from the cache to the write-back, mean over the edits that succeeded, above what the phone "
        "draws idle (gross: with it). Each edit has its uncertainty in --csv and its budget in --json."
    )
    if "modelled" in provenances:
        told += " Modelled joules come from a virtual phone's power model: they are no measurement."
    return told
