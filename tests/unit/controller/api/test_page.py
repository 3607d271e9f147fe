"""The live page's routes, without a browser; tests/browser has one."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mobifarm.controller.api.access import Caller, Role
from mobifarm.controller.api.app import create_app
from mobifarm.controller.api.page import tick
from mobifarm.controller.api.services import Services
from mobifarm.controller.core.events import DeviceAdded, DeviceDrained
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import replay
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.host.reports import Reading
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.store.sqlite import SqliteStore

PHONE = "tcp:127.0.0.1:5555"
SAME = {"sec-fetch-site": "same-origin"}


class StandingFarm:
    """A farm with one place and what was heard of it."""

    def __init__(self) -> None:
        self.live = LiveView()
        self.state: FarmState = replay([DeviceAdded(1.0, PHONE, PHONE, "tcp", "")])


class Drains:
    async def drain_device(self, device_id: str, reason: str) -> dict[str, Any]:
        return {"device_id": device_id, "state": "drained"}


async def no_metrics() -> bytes:
    return b""


@pytest.fixture
def services(tmp_path: Path) -> Services:
    people = {
        "Bearer secret": Caller("operator", Role.OPERATOR, local=True),
        "Bearer reads": Caller("vera", Role.VIEWER),
    }
    SqliteStore(tmp_path / "farm.sqlite").close()
    return Services(
        StandingFarm(),  # type: ignore[arg-type]
        Drains(),  # type: ignore[arg-type]
        lambda: StoreReader(tmp_path / "farm.sqlite"),
        people.get,
        metrics=no_metrics,
        clock=lambda: 50.0,
    )


@pytest.fixture
def client(services: Services) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=create_app(services))
    return httpx.AsyncClient(transport=transport, base_url="http://farm:80", headers=SAME)


async def sign_in(client: httpx.AsyncClient, token: str = "secret") -> httpx.Response:
    return await client.post("/api/v1/page/session", json={"token": token})


async def test_the_files_are_for_everybody_and_load_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    for path in (
        "/",
        "/page/app.js",
        "/page/style.css",
        "/page/vendor/uplot/uPlot.iife.min.js",
        "/favicon.ico",
    ):
        answer = await client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/page/../app.py", "/page/nothing.js", "/page/"):
        assert (await client.get(path)).status_code == 404


async def test_a_key_becomes_a_session(client: httpx.AsyncClient) -> None:
    bearer = {"authorization": "Bearer secret"}
    made = (await client.post("/api/v1/page/keys", json={"role": "viewer"}, headers=bearer)).json()
    answer = await client.post("/api/v1/page/session", json={"key": made["key"]})
    assert answer.json() == {"name": "operator", "role": "viewer"}
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert (await client.get("/api/v1/whoami")).json()["role"] == "viewer"
    assert (await client.post(f"/api/v1/devices/{PHONE}/drain", json={"reason": ""})).status_code == 403
    again = await client.post("/api/v1/page/session", json={"key": made["key"]})
    assert again.status_code == 401
    assert "mobifarm page" in again.json()["error"]


async def test_keys_are_made_for_no_higher_role_and_not_by_sessions(client: httpx.AsyncClient) -> None:
    reads = {"authorization": "Bearer reads"}
    asked = await client.post("/api/v1/page/keys", json={"role": "operator"}, headers=reads)
    assert asked.status_code == 403
    assert (await client.post("/api/v1/page/keys", json={})).status_code == 401
    await sign_in(client)
    assert (await client.post("/api/v1/page/keys", json={})).status_code == 403


async def test_a_session_works_for_the_page_alone(client: httpx.AsyncClient) -> None:
    assert (await sign_in(client, "wrong")).status_code == 401
    assert (await sign_in(client)).status_code == 200
    drain = f"/api/v1/devices/{PHONE}/drain"
    assert (await client.post(drain, json={"reason": ""})).status_code == 200
    for headers in ({"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"}):
        assert (await client.post(drain, json={"reason": ""}, headers=headers)).status_code == 401
    other = await client.post(
        "/api/v1/page/session", json={"token": "secret"}, headers={"sec-fetch-site": "cross-site"}
    )
    assert other.status_code == 403
    assert (await client.delete("/api/v1/page/session")).status_code == 204
    assert (await client.get("/api/v1/whoami")).status_code == 401


@pytest.mark.parametrize("body", [{}, {"key": "a", "token": "b"}, {"key": ""}, {"other": "a"}])
async def test_one_of_key_and_token_is_wanted(client: httpx.AsyncClient, body: dict[str, str]) -> None:
    assert (await client.post("/api/v1/page/session", json=body)).status_code == 400


async def test_news_history_and_passport(client: httpx.AsyncClient, services: Services) -> None:
    await sign_in(client)
    for second in range(3):
        services.farm.live.note(Reading(float(second), PHONE, {"thermal/skin": 30.0 + second}))
    shown = (await client.get("/api/v1/live/snapshot")).json()
    assert shown["devices"]["device_id"] == [PHONE]
    assert shown["past"][PHONE]["temperature_celsius"] == [30.0, 31.0, 32.0]
    later = (await client.get(f"/api/v1/devices/{PHONE}/history?after=0.5")).json()
    assert later["at"] == [1.0, 2.0]
    assert (await client.get("/api/v1/devices/usb:1-1/history")).json()["at"] == []
    assert (await client.get(f"/api/v1/devices/{PHONE}/passport")).json()["passport"] is None


def test_a_tick_is_one_event_on_one_line(services: Services) -> None:
    text = tick(services, 3)
    head, data = text.split("data: ")
    assert head == "id: 3\nevent: tick\n"
    assert data.endswith("\n\n")
    assert data.count("\n") == 2
    assert json.loads(data)["number"] == 3


def test_no_text_of_the_farm_ends_a_ticks_line(services: Services) -> None:
    reason = "hot\u2028and\u2029swollen\x85, says Zoë\x0b\x1c"
    services.farm.state = replay(
        [DeviceAdded(1.0, PHONE, PHONE, "tcp", ""), DeviceDrained(2.0, PHONE, reason)]
    )
    lines = tick(services, 3).splitlines()  # at every character that any reader takes for a line's end
    assert [line.partition(": ")[0] for line in lines] == ["id", "event", "data", ""]
    assert json.loads(lines[2].removeprefix("data: "))["devices"]["reason"][0].endswith(reason)


@pytest.mark.parametrize("path", ["/api/v1/live/stream", "/api/v1/events"])
async def test_streams_end_with_the_token(
    services: Services, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("mobifarm.controller.api.farm.HEARTBEAT_S", 0.01)
    services.farm.next_change = asyncio.Event  # type: ignore[method-assign]
    known = [Caller("vera", Role.VIEWER)]
    revocable = replace(services, authenticate=lambda header: known[0] if known else None)
    app = create_app(revocable)
    sent: list[bytes] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if b"event: tick" in sent[-1] or b"still here" in sent[-1]:
            known.clear()

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer reads")],
        "server": ("farm", 80),
        "scheme": "http",
    }
    async with asyncio.timeout(30):
        await app(scope, receive, send)
    assert sum(b"event: tick" in part or b"still here" in part for part in sent) == 1
