"""The live page in windows of many widths: nothing scrolls sideways, and no text for a person is cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from mobifarm.controller.core.events import DeviceAdded

pytestmark = pytest.mark.browser

WIDTHS = (320, 390, 800, 880, 1100)
WORDS = "the battery reached 46.5 degrees Celsius twice within one edit, so that its speed says nothing"
ACTION = (
    "take it out of its case, let it cool for half an hour, then run `mobifarm devices release usb:1-1.4.2`"
)
LABEL = (
    "forward, record counterfact-18231-with-a-long-name, repeat 12: The mother tongue of Danielle Darrieux is"
)

# Texts of a tile that are cut through a line, and tiles whose last row stands below their edge.
CUT = """() => [...document.querySelectorAll('.tile')].flatMap((tile) => {
  const words = [...tile.querySelectorAll('.tile-body > p')];
  const cut = words.filter((text) => {
    const style = getComputedStyle(text);
    const lines = parseInt(style.webkitLineClamp) || 1;
    return text.clientHeight + 1 < Math.min(text.scrollHeight, lines * parseFloat(style.lineHeight));
  }).map((text) => text.textContent);
  const last = tile.querySelector('.vitals').getBoundingClientRect().bottom;
  return last > tile.getBoundingClientRect().bottom ? [...cut, `${tile.dataset.state}: its numbers`] : cut;
})"""


def phones(*states: tuple[str, dict[str, Any]]) -> tuple[list[DeviceAdded], dict[str, list[Any]]]:
    """Places, and the columns that make of each a phone in that state."""
    places = [f"usb:1-1.4.{number}" for number in range(len(states))]
    columns = {
        name: [{"state": state, **row}.get(name, unknown) for state, row in states]
        for name, unknown in (
            ("state", ""),
            ("model", "Pixel 8"),
            ("reason", ""),
            ("action", ""),
            ("label", None),
            ("phase", None),
            ("step", None),
            ("target_probability", None),
            ("transfer", None),
            ("transfer_share", None),
            ("heard_at", None),
            ("power_watts", None),
            ("temperature_celsius", None),
        )
    }
    return [DeviceAdded(1.0, place, place, "usb", "") for place in places], columns


EDIT = {"label": LABEL, "phase": "optimising", "step": 1234, "target_probability": 0.25}
HEARD = {"heard_at": 60.0, "power_watts": 2.5, "temperature_celsius": 31.0}
EVERY_TILE = phones(
    ("quarantined", {"reason": WORDS, "action": ACTION, **HEARD}),
    ("leased", EDIT | HEARD),
    ("lost", {"reason": WORDS, "action": ACTION, **EDIT}),
    ("ready", {"transfer": f"the model {'0123456789abcdef' * 4}", "transfer_share": 0.5}),
    ("quarantined", {"model": "long" * 30, "reason": "word" * 40, "action": "word" * 40}),
)


PAST = {
    place.device_id: {"at": [58.0, 59.0], "power_watts": [2.0, 3.0], "temperature_celsius": [30.0, 30.5]}
    for place in EVERY_TILE[0][:2]
}


def job_columns(**names: str) -> dict[str, list[Any]]:
    counts = {"trials": 6, "pending": 2, "leased": 1, "done": 3, "failed": 0, "abandoned": 0, "cancelled": 0}
    return {
        "job_id": list(names),
        "name": list(names.values()),
        **{name: [value] * len(names) for name, value in counts.items()},
        **{"user": ["operator"] * len(names), "state": ["running"] * len(names)},
        **{"submitted_at": [1.0] * len(names), "finished_at": [None] * len(names)},
        **{
            "remaining_s": [None] * len(names),
            "remaining_words": ["unknown: no edit has ended"] * len(names),
        },
    }


def resize(page: Page, width: int, height: int = 900) -> None:
    page.set_viewport_size({"width": width, "height": height})


def sideways(page: Page, words: str) -> int:
    """By how many pixels the page is wider than its window while it says this of its connection."""
    script = """(words) => {
      document.getElementById('connection').textContent = words;
      return document.documentElement.scrollWidth - innerWidth;
    }"""
    return int(page.evaluate(script, words))


@pytest.mark.parametrize("width", [320, 390, 1100, 1360])
def test_a_tile_cuts_no_line_of_its_text(
    page: Page, still: Callable[..., None], shoot: Callable[[Page, str], None], width: int
) -> None:
    events, columns = EVERY_TILE
    resize(page, width, height=2600)  # all tiles in sight: others have no contents
    still(events, devices=columns, past=PAST)
    expect(page.locator(".tile .vitals")).to_have_count(len(events))
    expect(page.locator(".spark-words:not(:empty)")).to_have_count(len(PAST))
    shoot(page, f"tiles-{width}")
    assert page.evaluate(CUT) == []


@pytest.mark.parametrize("words", ["live", "the farm does not answer"])
def test_long_names_do_not_widen_the_page(page: Page, still: Callable[..., None], words: str) -> None:
    events, columns = EVERY_TILE
    still(events, devices=columns, jobs=job_columns(first="personal facts " * 20, second="one-word" * 40))
    found = {}
    for view in ("Phones", "Jobs"):
        page.get_by_role("navigation").get_by_role("link", name=view).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(view)
        for width in WIDTHS:
            resize(page, width)
            found[view, width] = sideways(page, words)
    assert found == dict.fromkeys(found, 0)


def test_no_view_scrolls_sideways(
    farm: Any, page: Page, spec: Callable[..., Path], shoot: Callable[[Page, str], None]
) -> None:
    job_id = farm.submit(spec(2, {"step_limit": 20}))
    address = farm.first_phone()[0].address
    found = {}
    for path, name, there in (
        ("", "farm", page.locator(".vitals").first),
        ("jobs", "jobs", page.locator(".job-row").first),
        (f"job/{job_id}", "job", page.locator(".view-head .badge", has_text="done")),
        (f"job/{job_id}/results", "results", page.locator("svg.intervals circle").first),
        (f"phone/{address}", "phone", page.get_by_role("table", name="Sensors")),
    ):
        page.evaluate("path => { location.hash = `#/${path}` }", path)
        expect(there).to_be_visible()
        for width in WIDTHS:
            resize(page, width)
            found[name, width] = sideways(page, "live")
            shoot(page, f"{name}-{width}")
    assert found == dict.fromkeys(found, 0)
    # On the phone's page still: a text may break its line, but not at each word.
    resize(page, 390)
    # A chart has its old width until it is drawn again, after the window has become narrow.
    page.locator(".plot .u-wrap").evaluate_all("charts => charts.forEach(one => one.style.width = '1052px')")
    assert sideways(page, "live") == 0
    page.get_by_role("table", name="Sensors").scroll_into_view_if_needed()
    shoot(page, "sensors-390")
    heights = "rows => Math.max(...rows.map(row => row.getBoundingClientRect().height))"
    assert page.get_by_role("table", name="Sensors").locator("tbody tr").evaluate_all(heights) < 100


def test_a_phones_own_page_shows_all_that_there_is_to_do(page: Page, still: Callable[..., None]) -> None:
    events, columns = EVERY_TILE
    still(events, devices=columns)
    page.locator(".tile-name").first.click()
    resize(page, 320)
    action = page.locator(".phone > .tile-action")
    expect(action).to_have_text(ACTION)
    assert action.evaluate("element => element.scrollHeight - element.clientHeight") <= 1
