"""What a probe found. Everything that comes from a phone is cut and made fit for a terminal here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from mobifarm.controller.transport.interface import ShellResult
from mobifarm.workloads.plain_text import printable

Status = Literal["ok", "failed", "unknown"]
EVIDENCE_LIMIT: Final = 400
TEXT_LIMIT: Final = 200
ITEMS_LIMIT: Final = 64


@dataclass(frozen=True, slots=True)
class Finding:
    """``value`` is JSON; ``stable``: another look at the same phone gives the same (it is no measurement)."""

    probe: str
    status: Status
    value: Any
    evidence: str
    meaning: str
    stable: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a parser makes of a command's output."""

    status: Status
    value: Any
    meaning: str


@dataclass(frozen=True, slots=True)
class ShellProbe:
    """One question to a phone's shell. ``script`` may use $S, a folder before /sys ("" on a phone)."""

    name: str
    script: str
    parse: Callable[[ShellResult], Verdict]
    deadline_s: float = 10.0
    stable: bool = True


def finding(probe: str, verdict: Verdict, evidence: str, *, stable: bool = True) -> Finding:
    return Finding(probe, verdict.status, bounded(verdict.value), cut(evidence), cut(verdict.meaning), stable)


def cut(text: str) -> str:
    text = printable(text.strip())
    return text if len(text) <= EVIDENCE_LIMIT else text[: EVIDENCE_LIMIT - 1] + "…"


def bounded(value: Any) -> Any:
    """The value with short printable texts and few items: a phone may say anything of any length."""
    match value:
        case str():
            return printable(value.strip())[:TEXT_LIMIT]
        case Mapping():
            items = sorted(value.items())[:ITEMS_LIMIT]
            return {printable(str(name))[:TEXT_LIMIT]: bounded(item) for name, item in items}
        case list() | tuple():
            return [bounded(item) for item in value[:ITEMS_LIMIT]]
        case _:
            return value
