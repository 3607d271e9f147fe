"""A real browser on the live page of a real farm with virtual phones; one farm for all tests here.

With ``MOBIFARM_SCREENSHOTS=FOLDER`` the farm edits SmolLM2 on three phones, and the README's pictures are
written there; otherwise a tiny random model on one, and the pictures go to ``test-artefacts/``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from mobifarm.controller.client import FarmClient
from mobifarm.controller.core.step import replay
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.farm.snapshot import snapshot
from mobifarm.controller.paths import farm_paths
from mobifarm.simulator.control import PhoneControl, PhoneRecord
from mobifarm.simulator.virtual_phones import VirtualPhones

SCREENSHOTS = os.environ.get("MOBIFARM_SCREENSHOTS")
DEADLINE_S = 600.0 if SCREENSHOTS else 120.0
DEADLINE_MS = 1000 * DEADLINE_S
PROFILES = ("pixel-8", "galaxy-s24", "oneplus-12") if SCREENSHOTS else ("pixel-8",)

Columns = Mapping[str, Sequence[Any]]

# What the browser itself logs when a test has the farm refuse something, or stops it.
PROVOKED = re.compile("the server responded with a status of 40|net::ERR_")


@dataclass(frozen=True)
class Farm:
    """A running farm and its command line."""

    home: Path
    process: subprocess.Popen[str]
    phones: VirtualPhones

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "mobifarm.controller.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env={**os.environ, "MOBIFARM_HOME": str(self.home)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self, *arguments: str, stdout: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mobifarm.controller.cli", *arguments]
        return subprocess.Popen(
            command, stdout=stdout, env={**os.environ, "MOBIFARM_HOME": str(self.home), "COLUMNS": "150"}
        )

    def client(self) -> FarmClient:
        return FarmClient(farm_paths(self.home))

    def address(self, role: str = "operator") -> str:
        """An address that opens the page once."""
        with self.client() as client:
            return f"{client.url}/#key={client.post('/api/v1/page/keys', {'role': role})['key']}"

    def submit(self, spec: Path) -> str:
        return str(json.loads(self.run("run", str(spec), "--no-wait", "--json"))["job_id"])

    def cancel(self, job_id: str) -> None:
        with self.client() as client:
            client.post(f"/api/v1/jobs/{job_id}/cancel")

    def first_phone(self) -> tuple[PhoneRecord, PhoneControl]:
        return self.phones.phones[0], self.phones.control(0)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A farm that answers; its phones connect by themselves."""
    home = tmp_path_factory.mktemp("farm")
    arguments = ["up", "--home", str(home), "--no-usb", "--lost-grace", "60"]
    with ExitStack() as stack:
        log = stack.enter_context((home / "up.log").open("w"))
        process = subprocess.Popen(
            [sys.executable, "-m", "mobifarm.controller.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        phones = stack.enter_context(VirtualPhones(len(PROFILES), profiles=PROFILES, home=home / "virtual"))
        made = Farm(home, process, phones)
        stack.callback(made.stop)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready"), (home / "up.log").read_text()
        yield made


@pytest.fixture(autouse=True)
def _patience() -> None:
    expect.set_options(timeout=DEADLINE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Gone with the module: while Playwright runs, no other test can have an event loop."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Debian's chromium: scripts/setup_browser.sh installs it")
    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses to run for root, who runs the tests in most containers.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()


@pytest.fixture
def new_context(browser: Browser, farm: Farm) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browsers that know nothing of each other, speak to the farm only, and must not complain."""
    with farm.client() as client:
        own = client.url
    asked: list[str] = []
    complaints: list[str] = []
    with ExitStack() as stack:

        def make(**options: Any) -> BrowserContext:
            context = browser.new_context(viewport={"width": 1360, "height": 900}, **options)
            stack.callback(context.close)
            context.set_default_timeout(DEADLINE_MS)
            context.on("request", lambda request: asked.append(request.url))
            context.on("console", note)
            context.on("weberror", lambda error: complaints.append(str(error.error)))
            return context

        def note(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and not PROVOKED.search(message.text):
                complaints.append(message.text)

        yield make
    assert [url for url in asked if not url.startswith(own)] == []
    assert complaints == []


@pytest.fixture
def page(new_context: Callable[..., BrowserContext], farm: Farm) -> Page:
    """The live page, opened as an operator by the address that the farm prints."""
    opened = new_context().new_page()
    opened.goto(farm.address())
    opened.wait_for_selector("h1")
    return opened


@pytest.fixture
def still(page: Page) -> Callable[..., None]:
    """Shows the live page a farm that stands still: events that led to it, and what is set of it."""

    def show(
        events: Sequence[Any],
        *,
        devices: Columns | None = None,
        jobs: Columns | None = None,
        past: Mapping[str, Columns] | None = None,
        **others: Any,
    ) -> None:
        state, now = replay(events), page.evaluate("Date.now() / 1000")
        first = snapshot(state, LiveView(), [], now, with_past=True)
        tick = {"number": 7, **snapshot(state, LiveView(), [], now, with_past=False)}
        for picture in (first, tick):
            picture["devices"].update(devices or {})
            picture["jobs"].update(jobs or {})
            picture.update(others)
        first["past"] = past or {}
        page.route(
            "**/api/v1/live/snapshot",
            lambda route: route.fulfill(body=json.dumps(first), content_type="application/json"),
        )
        stream = f"event: tick\ndata: {json.dumps(tick)}\n\n"
        page.route(
            "**/api/v1/live/stream",
            lambda route: route.fulfill(body=stream, content_type="text/event-stream"),
        )
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-drawn", "7")

    return show


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("smollm2_bundle_path" if SCREENSHOTS else "tiny_bundle_path"))


@pytest.fixture
def spec(tmp_path: Path, model: str) -> Callable[..., Path]:
    """Writes an evaluation spec over the first personal facts."""

    def write(limit: int, settings: dict[str, Any]) -> Path:
        path = tmp_path / "spec.yaml"
        document = {
            "name": "personal facts",
            "model": model,
            "dataset": {"builtin": "personal-facts", "limit": limit},
            "methods": [{"name": "forward", "settings": settings}],
        }
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.fixture
def edits(farm: Farm) -> tuple[int, dict[str, Any]]:
    """How many edits a job has that comes to its end, and their settings."""
    return (9, {}) if SCREENSHOTS else (3 * len(farm.phones.phones), {"step_limit": 60})


@pytest.fixture
def shoot() -> Callable[[Page, str], None]:
    folder = Path(SCREENSHOTS) if SCREENSHOTS else Path(__file__).parents[2] / "test-artefacts"
    folder.mkdir(parents=True, exist_ok=True)

    def shoot(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png", animations="disabled")

    return shoot
