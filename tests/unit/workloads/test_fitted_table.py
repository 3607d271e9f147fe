from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from mobifarm.workloads.fitted_table import FittedTable

COLUMNS = ("device", "host", "state", "since", "what it needs")
PHONE = "tcp:127.0.0.1:44927"
SENTENCE = "the phone asks whether to allow USB debugging; unlock the phone and tap Allow"
ROWS = (
    (PHONE, "shelf", "awaiting_authorisation", "3 s ago", SENTENCE),
    ("usb:1-2", "shelf", "ready", "", "–"),
)


def printed(width: int, rows: Any = ROWS, **more: Any) -> list[str]:
    screen = io.StringIO()
    options = {"sentences": ["what it needs"], "spare": ["host"], "last": ["since"], **more}
    Console(file=screen, width=width).print(FittedTable("Devices", COLUMNS, rows, **options))
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_where_everything_fits_the_table_has_lines_and_every_column() -> None:
    lines = printed(160)
    assert [name in lines[2] for name in COLUMNS] == [True] * len(COLUMNS)
    assert f"│ {PHONE} │ shelf │ awaiting_authorisation │ 3 s ago │ {SENTENCE} │" in lines


def test_a_column_that_says_little_makes_room_for_the_sentence() -> None:
    lines = printed(100)
    assert "shelf" not in "\n".join(lines)
    assert lines[4].startswith(f"│ {PHONE} │ awaiting_authorisation │ 3 s ago │ the phone asks")


def test_on_a_narrow_terminal_each_sentence_stands_below_its_row() -> None:
    assert printed(66) == [
        "Devices",
        "device               host   state                   since",
        "    what it needs",
        f"{PHONE}  shelf  awaiting_authorisation  3 s ago",
        "    the phone asks whether to allow USB debugging; unlock the",
        "    phone and tap Allow",
        "usb:1-2              shelf  ready",
    ]


@pytest.mark.parametrize("width", [43, 50, 80, 200])
def test_ids_and_states_are_never_folded(width: int) -> None:
    (row,) = [line for line in printed(width) if PHONE in line]
    assert "awaiting_authorisation" in row


def test_a_column_of_sentences_that_no_row_has_goes_first() -> None:
    rows = [(PHONE, "shelf", "ready", "3 s ago", "–")]
    assert "│ shelf │ ready │ 3 s ago │" in "\n".join(printed(60, rows))
    assert printed(40, rows)[1:] == ["device               state  since", f"{PHONE}  ready  3 s ago"]


def test_what_fits_nowhere_goes_on_in_the_next_line_whole() -> None:
    lines = printed(25)
    assert PHONE in lines
    assert "awaiting_authorisation" in lines


def test_columns_that_do_not_fit_stand_in_a_table_of_their_own() -> None:
    lines = printed(40, [("edits", *["12.5 [10–15]"] * 4)], in_parts=True)
    assert sum("edits" in line for line in lines) == 3
    assert sum(line.count("12.5 [10–15]") for line in lines) == 4
    assert (
        len([line for line in printed(100, [("edits", *["1"] * 4)], in_parts=True) if "edits" in line]) == 1
    )


@pytest.mark.parametrize("width", [60, 200])
def test_text_of_a_phone_is_neither_markup_nor_obeyed(width: int) -> None:
    rows = [("[red]a\x1b[2J", "b\nc", "ready", "", "[/] bad")]
    text = "\n".join(printed(width, rows))
    assert "[red]a" in text
    assert "[/] bad" in text
    assert "\x1b" not in text
