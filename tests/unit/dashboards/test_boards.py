from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from mobifarm.controller.metrics.families import ALL_FAMILIES
from mobifarm.dashboards.boards import BOARDS, FOLDER
from mobifarm.dashboards.panels import Board

# Grafana's names of units: https://github.com/grafana/grafana, packages/grafana-data, valueFormats
UNITS = {"short", "s", "bytes", "watt", "celsius", "hertz", "percentunit"}
KNOWN = {family.name for family in ALL_FAMILIES} | {
    f"{family.name}_{part}"
    for family in ALL_FAMILIES
    if family.kind in ("histogram", "summary")
    for part in ("sum", "count", "bucket")
}

every_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


@pytest.mark.parametrize("name", BOARDS)
def test_the_shipped_json_is_what_the_code_makes(name: str) -> None:
    shipped = (FOLDER / f"{name}.json").read_text()
    assert shipped == BOARDS[name].to_json(), "run python -m mobifarm.dashboards.boards"


def test_nothing_else_is_shipped() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in BOARDS}


def test_grafana_can_tell_the_boards_apart() -> None:
    assert len({board.uid for board in BOARDS.values()}) == len(BOARDS)


@every_board
def test_every_panel_has_its_own_number_and_the_chosen_prometheus(board: Board) -> None:
    document: dict[str, Any] = json.loads(board.to_json())
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert document["templating"]["list"][0]["name"] == "datasource"
    for panel in document["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"


@every_board
def test_units_are_grafanas(board: Board) -> None:
    assert {panel.unit for panel in board.panels()} <= UNITS


RULES = [
    rule
    for name in ("recording-rules.yml", "alert-rules.yml")
    for group in yaml.safe_load((FOLDER.parent / "prometheus" / name).read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


def unknown(expression: str) -> set[str]:
    """Series of ours in the expression that nobody makes; what rules record has colons in its name."""
    return set(re.findall(r"(?:\w+:)?mobifarm_[a-z_]+(?::\w+)?", expression)) - KNOWN - RECORDED


@every_board
def test_queries_ask_for_series_that_there_are(board: Board) -> None:
    for panel in board.panels():
        for query in panel.queries:
            assert unknown(query.expression) == set()


def test_rules_ask_for_series_that_there_are() -> None:
    assert unknown("mobifarm_nothing + x:mobifarm_edits:y") == {"mobifarm_nothing", "x:mobifarm_edits:y"}
    for rule in RULES:
        assert unknown(rule["expr"]) == set()


@every_board
def test_power_is_never_added_over_where_it_comes_from(board: Board) -> None:
    for panel in board.panels():
        for query in panel.queries:
            if "power" in query.expression or "energy" in query.expression:
                assert "provenance" in query.legend
                assert "sum(" not in query.expression
