"""Numbers on the live page in words: rounded right, and never a model's figure as if it were measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def test_a_duration_never_has_sixty_minutes_beside_its_hours(page: Page) -> None:
    words = {
        89: "89 s",
        90: "2 min",
        5399: "90 min",
        5400: "1 h 30 min",
        7169: "1 h 59 min",
        7170: "2 h 0 min",
        7199: "2 h 0 min",
        7230: "2 h 1 min",
        172_799: "48 h 0 min",
        172_800: "2 days",
    }
    script = "seconds => import('/page/format.js').then(({duration}) => seconds.map(duration))"
    assert dict(zip(words, page.evaluate(script, list(words)), strict=True)) == words


@pytest.mark.parametrize(
    ("energy", "words"),
    [
        ({"joules": 31.24, "provenance": "modelled"}, "31.2 J, modelled"),
        ({"joules": 31.24, "provenance": "measured"}, "31.2 J, measured"),
        ({"joules": None, "reason": "no rail can be read"}, "not measured: no rail can be read"),
    ],
)
def test_a_passports_joules_say_where_they_come_from(
    farm: Any, page: Page, energy: dict[str, Any], words: str
) -> None:
    passport = {"sensors": [], "measurement_epoch": 1, "execution": "virtual", "energy": energy}
    answer = json.dumps({"at": 1.0, "trial_id": "job-1/0", "passport": passport})
    page.route("**/passport", lambda route: route.fulfill(body=answer, content_type="application/json"))
    page.evaluate("address => { location.hash = `#/phone/${address}` }", farm.first_phone()[0].address)
    fact = page.locator(".facts div").filter(has=page.locator("dt", has_text="energy"))
    expect(fact.locator("dd")).to_have_text(words)
