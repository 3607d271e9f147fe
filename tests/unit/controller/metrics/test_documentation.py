from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobifarm.controller.metrics.families import documentation

PAGE = Path(__file__).parents[4] / "docs" / "monitoring.md"
RULES = yaml.safe_load((files("mobifarm.dashboards") / "prometheus" / "alert-rules.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]


def test_the_page_has_the_metrics_as_they_are() -> None:
    assert documentation() in PAGE.read_text(), "python -m mobifarm.controller.metrics.families prints it"


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_the_page_has_the_alerts_as_they_are(rule: Any) -> None:
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{rule['alert']}`")]
    assert rule["expr"] in row
    assert rule["annotations"]["action"] in row
    assert f"| {rule.get('for', 'at once')} |" in row
