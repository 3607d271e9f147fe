"""How commands speak: tables for people, JSON for programs, both on stdout."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from mobifarm.workloads.fitted_table import FittedTable
from mobifarm.workloads.plain_text import printable

PIPE_COLUMNS = 140
# Control characters that JSON lets pass, and halves of a character, which no output in UTF-8 can hold.
_LATER_CONTROLS = re.compile("[\x7f-\x9f\ud800-\udfff]")


# The one console on stderr: what is said while a progress bar is shown must pass through the bar's own.
progress_console = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print dataclasses, mappings and sequences as indented JSON."""
    typer.echo(json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON that a terminal does not obey: JSON escapes C0 controls by itself, DEL and C1 here."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False)
    return _LATER_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def console() -> Console:
    # Into a file or a pipe, tables are as wide as they need to be unless the user says otherwise.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    return Console(highlight=False, width=width)


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    sentences: Sequence[str] = (),
    spare: Sequence[str] = (),
    last: Sequence[str] = (),
) -> FittedTable:
    """A table of plain text; which columns are folded or give way on a narrow terminal: see FittedTable."""
    cells = [[str(cell) for cell in row] for row in rows]
    return FittedTable(title, columns, cells, sentences=sentences, spare=spare, last=last)


def notice_lines(notices: Sequence[Mapping[str, Any]], hosts: int) -> list[Text]:
    """Where phones cannot be seen, a line each; with the host that it is about where there are several."""
    lines = []
    for notice in notices:
        where = f"{notice['host']}: " if hosts > 1 else ""
        words = "; ".join(filter(None, (notice["reason"], notice["action"])))
        lines.append(Text(printable(f"{where}{notice['source']}: {words}")))
    return lines


def ago(at: float) -> str:
    """A moment of the past in words, from unix seconds."""
    seconds = max(0.0, time.time() - at)
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"
