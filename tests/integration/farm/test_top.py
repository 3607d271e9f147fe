"""``mobifarm top`` against a farm that hangs: stopped, but its connections stay open."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from mobifarm.controller.cli import top
from mobifarm.controller.client import FarmClient
from mobifarm.controller.core.events import DeviceAdded
from mobifarm.controller.core.step import replay
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.farm.snapshot import snapshot
from mobifarm.controller.paths import farm_paths


def drawn(shown: RenderableType) -> str:
    file = io.StringIO()
    Console(width=200, file=file, force_terminal=False).print(shown)
    return file.getvalue()


def picture_of(name: str) -> dict[str, Any]:
    return snapshot(replay([DeviceAdded(1.0, name, name, "tcp", "")]), LiveView(), [], 2.0, with_past=False)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[FarmClient]:
    """Speaks to what sends one tick to each who watches, and then nothing until the test's end."""
    ended, watchers = threading.Event(), iter(range(100))

    class Farm(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            tick = json.dumps(picture_of(f"phone-{next(watchers)}"))
            self.wfile.write(f"event: tick\ndata: {tick}\n\n".encode())
            ended.wait()

        def log_message(self, *_: object) -> None:
            """Nothing: the test's output is the test's."""

    paths = farm_paths(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Farm) as server:
        paths.running.write_text(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}))
        paths.api_token.write_text("secret")
        threading.Thread(target=server.serve_forever).start()
        try:
            with FarmClient(paths) as client:
                yield client
        finally:
            ended.set()
            server.shutdown()


@pytest.mark.timeout(50)  # less than other streams may be silent for
def test_a_farm_that_hangs_is_told_and_asked_again(
    hanging: FarmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(top, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None))
    shown = top.follow(hanging, picture_of("phone-before"))
    first = drawn(next(shown))
    assert "phone-0" in first
    assert "does not answer" not in first
    now[0] = 107.0
    hung = next(shown)
    assert drawn(hung).startswith("the farm does not answer: this is how it was 7 s ago")
    assert "phone-0" in drawn(hung)
    now[0] = 130.0
    assert "30 s ago" in drawn(hung)  # what stands still tells its age anew each time it is drawn
    again = drawn(next(shown))
    assert "phone-1" in again
    assert "does not answer" not in again
