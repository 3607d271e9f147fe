"""What a person sees and does on the live page, in a real browser."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from mobifarm.controller.core.events import DeviceAdded, DeviceReady, Identity
from mobifarm.simulator.virtual_phones import VirtualPhones

pytestmark = pytest.mark.browser

# Never done by itself: the edit runs for as long as the test needs it to.
SLOW = {"stop_probability": 0.9999, "step_limit": 100_000}
HOSTILE = "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'</script>"

NewContext = Callable[..., BrowserContext]
Spec = Callable[..., Path]
Shoot = Callable[[Page, str], None]


def tile(page: Page, device_id: str) -> Any:
    return page.locator(f'.tile[data-device="{device_id}"]')


def wait_for_state(page: Page, device_id: str, *states: str) -> None:
    expect(tile(page, device_id)).to_have_attribute("data-state", re.compile("|".join(states)))


@pytest.fixture
def working(farm: Any, spec: Spec, page: Page) -> Any:
    """A job whose edits go on until the test ends; cancelled then."""
    job_id = farm.submit(spec(2 * len(farm.phones.phones), SLOW))
    record, _ = farm.first_phone()
    wait_for_state(page, record.address, "leased")
    yield job_id
    farm.cancel(job_id)


def test_a_running_edit_moves_on_every_view(farm: Any, page: Page, working: str) -> None:
    address = farm.first_phone()[0].address
    step = tile(page, address).locator(".tile-step")
    expect(step).to_contain_text("editing: step")
    before = step_number(step.inner_text())
    expect(step).not_to_contain_text(f"step {before}")
    page.wait_for_function(
        "([element, before]) => Number(element.textContent.match(/step (\\d+)/)?.[1]) > before",
        arg=[step.element_handle(), before],
    )
    expect(tile(page, address).locator(".phase-bar")).to_have_attribute(
        "aria-valuetext", re.compile("editing")
    )
    expect(tile(page, address)).to_contain_text("power, modelled")
    expect(tile(page, address).locator(".spark")).to_have_attribute("aria-label", re.compile("over the last"))
    page.get_by_role("link", name="Pixel 8").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Pixel 8")
    expect(page.locator(".plot canvas").first).to_be_visible()
    expect(page.locator(".tile-step")).to_contain_text("step")
    page.get_by_text("The newest readings as a table").click()
    expect(page.locator("details table").first).to_contain_text("W")

    page.get_by_role("link", name=working).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("personal facts")
    expect(page.locator(".left")).to_contain_text("unknown: no edit of it has ended yet")
    expect(page.get_by_role("region", name="Why it waits")).to_contain_text("a trial of this job")
    expect(page.locator("main")).to_contain_text("Running now")


def step_number(text: str) -> int:
    found = re.search(r"step (\d+)", text)
    assert found, text
    return int(found[1])


def test_a_job_comes_to_its_results(
    farm: Any, page: Page, spec: Spec, edits: tuple[int, dict[str, Any]], shoot: Shoot
) -> None:
    job_id = farm.submit(spec(*edits))
    expect(page.locator(".job-words")).to_contain_text(re.compile("about .* left"))
    theme = page.locator("#theme")
    shoot(page, "farm")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    theme.click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    shoot(page, "farm-dark")
    theme.click()
    page.get_by_role("link", name="Jobs").click()
    page.locator(f'a[href="#/job/{job_id}"]').click()
    expect(page.get_by_role("table", name="Edits")).to_contain_text("done")
    shoot(page, "job")
    expect(page.locator(".view-head .badge")).to_have_text("done")
    page.get_by_role("link", name="Results").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Results of personal facts")
    drawings = page.locator("svg.intervals")
    expect(drawings).to_have_count(4)
    expect(drawings.first.locator("circle").first).to_be_visible()
    expect(page.locator("main")).to_contain_text("Joules per successful edit")
    expect(page.get_by_role("table")).to_contain_text("loss evaluations")
    shoot(page, "results")
    page.goto(page.url.split("#")[0] + f"#/phone/{farm.first_phone()[0].address}")
    expect(page.get_by_role("table", name="Sensors")).to_contain_text("battery/temperature")
    expect(page.locator("main")).to_contain_text("Passport of its newest result")
    shoot(page, "phone")


def test_an_unplugged_phone_shows_within_two_seconds_of_the_event_and_comes_back(
    farm: Any, page: Page, working: str
) -> None:
    record, control = farm.first_phone()
    control.unplug()
    try:
        wait_for_state(page, record.address, "lost")
        shown_at = float(tile(page, record.address).get_attribute("data-shown-at") or 0)
        with farm.client() as client:
            lost_at = client.get(f"/api/v1/devices/{record.address}")["changed_at"]
        assert shown_at - lost_at <= 2.0
        expect(tile(page, record.address)).to_contain_text("unplugged")
        expect(tile(page, record.address)).to_contain_text("waits for it")
        expect(page.locator("#announcer")).to_contain_text("Pixel 8 is now lost")
        expect(tile(page, record.address).locator("dd").nth(1)).to_have_text(
            "–"
        )  # no old power as if it were new
    finally:
        control.plug()
    wait_for_state(page, record.address, "leased")


def test_a_phone_that_is_plugged_in_appears_and_its_text_stays_text(
    farm: Any, page: Page, tmp_path: Path
) -> None:
    profile = json.loads((files("mobifarm.simulator") / "profiles" / "galaxy-s24.json").read_text())
    profile["properties"]["ro.product.model"] = HOSTILE
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps(profile))
    with VirtualPhones(1, profiles=[str(path)], home=farm.home / "virtual") as phones:
        address = phones.phones[0].address
        wait_for_state(page, address, "ready")
        expect(tile(page, address).locator(".tile-name")).to_have_text(HOSTILE)
        tile(page, address).locator(".tile-name").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
        assert page.locator("main img, main script").count() == 0
        assert page.title() == "Phone · MobiFarm"
        page.get_by_role("button", name="Identify").click()
        expect(page.locator(".note")).to_contain_text("It blinked")
        page.get_by_role("button", name="Drain").click()
        expect(page.locator(".note").last).to_contain_text("Drained")
        expect(page.locator(".view-head .badge")).to_have_text("drained")
        page.get_by_role("button", name="Give it work again").click()
        expect(page.locator(".view-head .badge")).to_have_text("ready")
        page.get_by_role("link", name="Phones").click()
    wait_for_state(page, address, "lost")
    with farm.client() as client:
        client.delete(f"/api/v1/devices/{address}", timeout_s=60)
    expect(tile(page, address)).to_have_count(0)


def test_an_operator_cancels_a_job(farm: Any, page: Page, spec: Spec) -> None:
    job_id = farm.submit(spec(2, SLOW))
    page.locator(f'a[href="#/job/{job_id}"]').click()
    page.get_by_role("button", name="Cancel the job").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".note")).to_contain_text("Cancelled")
    expect(page.locator(".view-head .badge")).to_have_text("cancelled")


def test_an_address_opens_once_and_a_viewer_only_looks(farm: Any, new_context: NewContext) -> None:
    address = farm.address()
    first = new_context()
    page = first.new_page()
    answer = page.goto(address)
    assert answer is not None
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    expect(page.locator("#who")).to_have_text("operator")
    assert "key" not in page.url
    (cookie,) = first.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")

    second = new_context().new_page()
    second.goto(address)
    expect(second.get_by_role("heading", level=1)).to_have_text("Sign in")
    expect(second.locator("main")).to_contain_text("used already")
    token = farm.run("tokens", "create", "vera", "--role", "viewer").splitlines()[0]
    second.get_by_label("Token").fill(token)
    second.get_by_role("button", name="Sign in").click()
    expect(second.locator("#who")).to_have_text("vera · viewer")
    second.get_by_role("link", name="Pixel 8").first.click()
    expect(second.get_by_role("button", name="Drain")).to_be_disabled()
    path = f"/api/v1/devices/{farm.first_phone()[0].address}/drain"
    post = "path => import('/page/api.js').then(({post}) => post(path, {reason: ''}))"
    assert second.evaluate(f"path => ({post})(path).catch(error => error.status)", path) == 403
    farm.run("tokens", "revoke", "vera")
    assert second.evaluate("fetch('/api/v1/whoami').then(answer => answer.status)") == 401


def test_a_page_of_another_port_cannot_use_the_session(farm: Any, page: Page) -> None:
    path = f"{page.url.split('#')[0]}api/v1/devices/{farm.first_phone()[0].address}/drain"
    expect(page.locator("#who")).to_have_text("operator")
    for headers in ({"origin": "http://127.0.0.1:9"}, {"sec-fetch-site": "same-site"}, {}):
        assert page.request.post(path, data={"reason": ""}, headers=headers).status == 401, headers


def test_the_keyboard_reaches_everything(farm: Any, page: Page) -> None:
    expect(tile(page, farm.first_phone()[0].address)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    reached = page.evaluate(
        "document.activeElement.closest('main') !== null && document.activeElement.tagName"
    )
    assert reached == "A"
    page.locator(".tile-name").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Pixel 8")
    expect(page.locator("#main")).to_be_focused()
    assert page.locator("nav[aria-label], main, header").count() == 3


def test_of_a_thousand_phones_only_those_in_sight_are_drawn(page: Page, still: Callable[..., None]) -> None:
    identity = Identity("tcp:127.0.0.1:1", "serial", "fingerprint")
    events: list[Any] = []
    for number in range(1000):
        device_id = f"usb:{number // 100}-{number % 100}"
        events.append(DeviceAdded(1.0, device_id, device_id, "usb", ""))
        events.append(ready(device_id, number, identity))
    still(events)
    tiles, drawn = page.locator(".tile"), page.locator(".tile-body:not(:empty)")
    expect(tiles).to_have_count(1000)
    expect(tiles.first.locator(".vitals")).to_be_visible()
    assert 0 < drawn.count() < 60
    tiles.last.scroll_into_view_if_needed()
    expect(tiles.last.locator(".vitals")).to_be_visible()
    expect(tiles.first.locator(".vitals")).to_have_count(0)
    assert drawn.count() < 60
    page.get_by_role("searchbox").fill("phone 77")
    expect(page.locator(".tile:visible")).to_have_count(11)  # 77 and 770 to 779


def test_where_there_are_several_hosts_a_notice_names_its_own(page: Page, still: Callable[..., None]) -> None:
    notice = {"at": 1.0, "source": "usb", "reason": "this machine shows no USB bus", "action": ""}
    hosts = [
        {"host": name, "own": name == "desk", "state": "up", "connected": 0, "phones": 0, "reason": ""}
        for name in ("desk", "shelf")
    ]
    notices = [{**notice, "host": host["host"]} for host in hosts]
    words = [f"{host['host']}: usb this machine shows no USB bus" for host in hosts]
    still([], hosts=hosts, notices=notices)
    expect(page.locator(".attention li")).to_have_text(words)
    still([], hosts=hosts[:1], notices=notices[:1])
    expect(page.locator(".attention li")).to_have_text(["usb this machine shows no USB bus"])


def ready(device_id: str, number: int, identity: Identity) -> DeviceReady:
    return DeviceReady(
        at=2.0,
        device_id=device_id,
        host="host",
        identity=identity,
        properties={"ro.product.model": f"Phone {number}"},
        execution="phone",
        agent_version="1",
        held_attempts=(),
        fencing_token=0,
    )


def test_a_hidden_page_lets_its_stream_go(page: Page) -> None:
    expect(page.locator("#connection")).to_have_text("live")
    hide = (
        "hidden => { Object.defineProperty(document, 'visibilityState', {value: hidden, configurable: true});"
    )
    hide += "document.dispatchEvent(new Event('visibilitychange')); }"
    with page.expect_event("requestfailed", lambda request: "live/stream" in request.url):
        page.evaluate(hide, "hidden")
    with page.expect_request("**/api/v1/live/stream"):
        page.evaluate(hide, "visible")


def read_all(terminal: int, wanted: bytes, found: threading.Event) -> None:
    """Read until nobody writes any more; tells when ``wanted`` was there."""
    seen = b""
    with suppress(OSError):  # what Linux says at a terminal's end
        while part := os.read(terminal, 65536):
            seen = seen[-len(wanted) :] + part
            if wanted in seen:
                found.set()


def test_top_shows_the_same_and_ends_with_ctrl_c(farm: Any, page: Page) -> None:
    wait_for_state(page, farm.first_phone()[0].address, "ready")
    shown = json.loads(farm.run("top", "--json"))
    assert farm.first_phone()[0].address in shown["devices"]["device_id"]
    assert "Pixel 8" in farm.run("top", "--once")
    terminal, its_end = pty.openpty()
    with farm.start("top", stdout=its_end) as process:
        os.close(its_end)
        shown_there = threading.Event()
        # To the end: a terminal that nobody reads soon holds up the program that writes to it.
        reading = threading.Thread(target=read_all, args=(terminal, b"Pixel 8", shown_there))
        reading.start()
        shown = shown_there.wait(120)
        # Killed where it showed nothing: the block's end waits for it without a limit.
        process.send_signal(signal.SIGINT if shown else signal.SIGKILL)
        assert process.wait(60) == 0
        reading.join()
        os.close(terminal)


def test_an_open_page_does_not_hold_up_the_farms_end(farm: Any, page: Page) -> None:
    """The last test here: nothing answers after it, nor in a file whose name comes after this one's."""
    expect(page.locator("#connection")).to_have_text("live")
    farm.process.send_signal(signal.SIGTERM)
    assert farm.process.wait(60) == 0
    expect(page.locator("#connection")).to_have_text("the farm does not answer")
