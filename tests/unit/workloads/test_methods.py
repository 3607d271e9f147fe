"""What the documents say about the methods' settings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_type_hints

import pytest

from mobifarm.agent.editor.settings import ForwardSettings, MobiEditSettings
from mobifarm.workloads.baselines.settings import FinetuneSettings, RomeSettings

DOCUMENT = Path(__file__).parents[3] / "docs" / "method-settings.md"


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("`forward`", ForwardSettings),
        ("`mobiedit`", MobiEditSettings),
        ("`rome`, `rome_cached`, `rome_cached_early`", RomeSettings),
        ("`finetune`", FinetuneSettings),
    ],
)
def test_every_setting_is_documented_with_its_default_and_bounds(heading: str, kind: type) -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    hints = get_type_hints(kind)
    expected = []
    for field in dataclasses.fields(kind):
        if hints[field.name] in (int, float):
            form = "g" if hints[field.name] is float else "d"
            low, high = field.metadata["minimum"], field.metadata["maximum"]
            values = (format(field.default, form), f"{low:{form}} to {high:{form}}")
        else:
            values = (f"`{field.default}`", ", ".join(f"`{c}`" for c in hints[field.name].__args__))
        expected.append((f"`{field.name}`", *values))
    rows = re.findall(r"^\| (`\w+`) \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", section, re.MULTILINE)
    assert rows == expected
