"""The comparisons of a job with a design: which blocks are complete, and what they say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from mobifarm.workloads.designs import Block, Comparison, DesignKind, compare, full_block
from mobifarm.workloads.scores import Quality

_RANDOM_SEED: Final = 0


class DesignedEdit(Protocol):
    """What is needed of an edit; the rows of a summary have it."""

    @property
    def block(self) -> int | None: ...
    @property
    def place(self) -> int | None: ...
    @property
    def arm(self) -> str | None: ...
    @property
    def method(self) -> str: ...
    @property
    def status(self) -> str | None: ...
    @property
    def device_id(self) -> str | None: ...
    @property
    def serial(self) -> str | None: ...
    @property
    def measurement_epoch(self) -> int | None: ...
    @property
    def quality(self) -> Quality | None: ...
    @property
    def edit_s(self) -> float | None: ...
    @property
    def loss_evaluations(self) -> int | None: ...
    @property
    def token_layers(self) -> int | None: ...
    @property
    def peak_rss_bytes(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One line of the comparison: a measure, and B against A in it on one phone or on all."""

    measure: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Comparisons:
    """What a design says. ``incomplete`` counts blocks that lack a result or changed their phone."""

    kind: DesignKind
    a: str
    b: str | None
    blocks: int
    incomplete: int
    rows: tuple[ComparisonRow, ...]


# Measure → its value, and whether it is compared as a ratio.
_MEASURES: Final[Mapping[str, tuple[Callable[[DesignedEdit], float | None], bool]]] = {
    "seconds per edit": (lambda edit: edit.edit_s, True),
    "loss evaluations": (lambda edit: edit.loss_evaluations, True),
    "token_layers": (lambda edit: edit.token_layers, True),
    "agent's peak memory": (lambda edit: edit.peak_rss_bytes, True),
    "edit success": (lambda edit: edit.quality.edit_success if edit.quality else None, False),
    "paraphrase success": (lambda edit: edit.quality.paraphrase_success if edit.quality else None, False),
    "neighbourhood success": (
        lambda edit: edit.quality.neighbourhood_success if edit.quality else None,
        False,
    ),
}


def comparisons(edits: Sequence[DesignedEdit]) -> Comparisons | None:
    """Compare the arms of a job's design; None where it has none."""
    designed = [edit for edit in edits if edit.block is not None]
    if not designed:
        return None
    titles = {edit.arm: edit.method for edit in designed}
    kind: DesignKind = "ab" if "B" in titles else "aa"
    by_block: dict[int, list[DesignedEdit]] = {}
    for edit in designed:
        assert edit.block is not None
        by_block.setdefault(edit.block, []).append(edit)
    complete = [block for block in by_block.values() if _is_complete(block, kind)]
    rows = [
        ComparisonRow(measure, found)
        for measure, (value, relative) in _MEASURES.items()
        for found in compare(
            _blocks(complete, value, relative),
            relative=relative,
            generator=np.random.default_rng(_RANDOM_SEED),
        )
    ]
    return Comparisons(
        kind, titles["A"], titles.get("B"), len(by_block), len(by_block) - len(complete), tuple(rows)
    )


def _is_complete(block: Sequence[DesignedEdit], kind: DesignKind) -> bool:
    """Whether every edit of it has a result and all are of one phone in one measurement epoch."""
    phones = {(edit.device_id, edit.serial, edit.measurement_epoch) for edit in block}
    return len(block) == full_block(kind) and len(phones) == 1 and all(edit.status for edit in block)


def _blocks(
    complete: Sequence[Sequence[DesignedEdit]],
    value: Callable[[DesignedEdit], float | None],
    relative: bool,
) -> list[Block]:
    """The blocks in which every edit has this measure: a failed edit took no time that would compare."""
    blocks = []
    for edits in complete:
        in_order = sorted(edits, key=lambda edit: edit.place or 0)
        values = [value(edit) for edit in in_order]
        known = [found for found in values if found is not None and (found > 0 or not relative)]
        if len(known) == len(values):
            first = in_order[0]
            arms = tuple("B" if edit.arm == "B" else "A" for edit in in_order)
            phone = f"{first.serial or first.device_id} ({first.device_id})"
            blocks.append(Block(phone, arms, tuple(float(found) for found in known)))  # type: ignore[arg-type]
    return blocks
