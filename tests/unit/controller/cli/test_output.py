from __future__ import annotations

import io
import json
from dataclasses import dataclass

import pytest
from rich.console import Console

from mobifarm.controller.cli import output


@dataclass(frozen=True)
class Row:
    name: str


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s ago"), (119, "119 s ago"), (180, "3 min ago"), (7200, "2 h ago"), (259_200, "3 days ago")],
)
def test_moments_are_told_in_words(monkeypatch: pytest.MonkeyPatch, seconds: int, words: str) -> None:
    monkeypatch.setattr(output.time, "time", lambda: 1_000_000.0)
    assert output.ago(1_000_000.0 - seconds) == words


def test_clock_that_went_back_is_no_negative_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.time, "time", lambda: 0.0)
    assert output.ago(5.0) == "0 s ago"


def test_text_from_a_phone_is_never_markup() -> None:
    screen = io.StringIO()
    rows = [("[red]not red[/red]", "[/]")]
    Console(file=screen, width=80).print(output.table("Phones", ("phone", "state"), rows))
    assert "[red]not red[/red]" in screen.getvalue()


def test_json_tells_a_terminal_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b]0;t\x07\x9b31m\x7f\ud800 é"
    output.print_json({hostile: [hostile]})
    printed = capsys.readouterr().out
    assert not set(printed) & {"\x1b", "\x07", "\x9b", "\x7f", "\ud800"}
    assert "é" in printed
    assert json.loads(printed) == {hostile: [hostile]}


def test_json_takes_dataclasses_at_any_depth(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"rows": [Row("a")], "row": Row("b")})
    assert json.loads(capsys.readouterr().out) == {"rows": [{"name": "a"}], "row": {"name": "b"}}
