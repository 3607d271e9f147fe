from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from mobifarm.controller.api import app as app_module
from mobifarm.controller.api.access import Caller, Role
from mobifarm.controller.api.app import create_app
from mobifarm.controller.api.services import Services
from mobifarm.controller.core.events import (
    DeviceAdded,
    DeviceForgotten,
    DeviceLost,
    DeviceReady,
    Identity,
    JobSubmitted,
    TrialPlan,
)
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import replay, step
from mobifarm.controller.errors import DeviceError, HostError, UserError
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.store.sqlite import SqliteStore


class ScriptedRequests:
    """Stands for the farm's front door: answers, or raises what the test wants."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.submitted: list[Any] = []
        self.asked: list[Any] = []

    async def submit(self, spec: Any, records: Any, user: str) -> dict[str, Any]:
        if self.error:
            raise self.error
        self.submitted.append((spec, records, user))
        return {"job_id": "job-1", "trials": len(records)}

    async def cancel(self, job_id: str) -> dict[str, Any]:
        return {"job_id": job_id, "state": "cancelled"}

    async def list_edits(self, device_id: str) -> dict[str, Any]:
        return {"bundles": [], "device_id": device_id}

    async def export_edits(self, device_id: str, bundle_hash: str) -> dict[str, Any]:
        return {"exported": f"{device_id} {bundle_hash}"}

    async def import_edits(self, device_id: str, exported: str) -> dict[str, Any]:
        return {"imported": [exported]}

    async def undo_edits(
        self, device_id: str, bundle_hash: str, edit_ids: list[str] | None
    ) -> dict[str, Any]:
        return {"asked": [device_id, bundle_hash, edit_ids]}

    async def quarantine_device(self, device_id: str, reason: str) -> dict[str, Any]:
        self.asked.append(["quarantine", device_id, reason])
        return {"device_id": device_id, "state": "quarantined"}

    async def drain_device(self, device_id: str, reason: str) -> dict[str, Any]:
        self.asked.append(["drain", device_id, reason])
        return {"device_id": device_id, "state": "drained"}

    async def undrain_device(self, device_id: str) -> dict[str, Any]:
        self.asked.append(["undrain", device_id])
        return {"device_id": device_id, "state": "ready"}

    async def examine_device(self, device_id: str) -> dict[str, Any]:
        self.asked.append(["doctor", device_id])
        return {"findings": []}

    async def forget_device(self, device_id: str, keep_edits: bool) -> dict[str, Any]:
        self.asked.append(["forget", device_id, keep_edits])
        return {"device_id": device_id, "removed": (), "left": (), "freed_bytes": 0}

    async def add_device(self, address: str, source: str, host: str = "") -> dict[str, Any]:
        return {"device_id": f"{host}/{address}" if host else address}


class ScriptedFarm:
    def __init__(self) -> None:
        self.live = LiveView()
        self.state = FarmState()


@pytest.fixture
def requests() -> ScriptedRequests:
    return ScriptedRequests()


@pytest.fixture
def farm() -> ScriptedFarm:
    return ScriptedFarm()


@pytest.fixture
def client(requests: ScriptedRequests, farm: ScriptedFarm, tmp_path: Path) -> httpx.AsyncClient:
    people = {
        "Bearer secret": Caller("operator", Role.OPERATOR, local=True),
        "Bearer reads": Caller("vera", Role.VIEWER),
        "Bearer submits": Caller("sam", Role.SUBMITTER),
        "Bearer runs": Caller("olga", Role.OPERATOR),
    }

    async def metrics() -> bytes:
        return b"mobifarm_device_up 1\n"

    services = Services(
        farm,  # type: ignore[arg-type]
        requests,  # type: ignore[arg-type]
        partial(StoreReader, tmp_path / "farm.sqlite"),
        people.get,
        metrics=metrics,
    )
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=create_app(services)),
        base_url="http://farm",
        headers={"authorization": "Bearer secret"},
    )


async def test_prometheus_needs_no_token(client: httpx.AsyncClient) -> None:
    client.headers.pop("authorization")
    answer = await client.get("/metrics")
    assert answer.text == "mobifarm_device_up 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


JOB = {"spec": {"name": "n"}, "records": [{}], "user": "me"}


@pytest.mark.parametrize("header", [None, "Bearer wrong", "secret", "Bearer "])
async def test_every_guarded_route_wants_the_token(
    client: httpx.AsyncClient, requests: ScriptedRequests, header: str | None
) -> None:
    client.headers.pop("authorization")
    headers = {"authorization": header} if header else {}
    for method, path in (
        ("GET", "/api/v1/live"),
        ("GET", "/api/v1/jobs/j/report"),
        ("GET", "/api/v1/jobs/j/comparability/k"),
        ("POST", "/api/v1/jobs"),
        ("POST", "/api/v1/jobs/j/cancel"),
        ("POST", "/api/v1/devices"),
        ("DELETE", "/api/v1/devices/a"),
        ("POST", "/api/v1/devices/a/release"),
        ("POST", "/api/v1/devices/a/quarantine"),
        ("POST", "/api/v1/devices/a/drain"),
        ("POST", "/api/v1/devices/a/undrain"),
        ("POST", "/api/v1/devices/a/doctor"),
        ("GET", "/api/v1/devices/a/edits"),
        ("GET", "/api/v1/devices/a/edits/export"),
        ("POST", "/api/v1/devices/a/edits/import"),
        ("POST", "/api/v1/devices/a/edits/undo"),
    ):
        answer = await client.request(method, path, json=JOB, headers=headers)
        assert answer.status_code == 401, path
    assert not requests.submitted


async def test_health_needs_no_token(client: httpx.AsyncClient) -> None:
    client.headers.pop("authorization")
    assert (await client.get("/api/v1/health")).json()["status"] == "ok"


async def test_job_is_handed_on(client: httpx.AsyncClient, requests: ScriptedRequests) -> None:
    answer = await client.post("/api/v1/jobs", json=JOB)
    assert answer.json() == {"job_id": "job-1", "trials": 1}
    assert requests.submitted == [({"name": "n"}, [{}], "me")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("change it"), 400), (DeviceError("away"), 502), (HostError("not there"), 503)],
)
async def test_errors_are_one_sentence(
    client: httpx.AsyncClient, requests: ScriptedRequests, error: Exception, status: int
) -> None:
    requests.error = error
    answer = await client.post("/api/v1/jobs", json=JOB)
    assert (answer.status_code, answer.json()) == (status, {"error": str(error)})


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"spec": {}}',
        b'{"spec": 1, "records": [], "user": "me"}',
        b'{"spec": {}, "records": [], "x": 1}',
    ],
)
async def test_bad_bodies_are_refused(
    client: httpx.AsyncClient, requests: ScriptedRequests, body: bytes
) -> None:
    answer = await client.post("/api/v1/jobs", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert not requests.submitted


async def test_a_phones_address_may_hold_colons(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/devices", json={"address": "tcp:127.0.0.1:1"})
    assert answer.json() == {"device_id": "tcp:127.0.0.1:1"}


async def test_kept_edits_are_asked_for(client: httpx.AsyncClient) -> None:
    edits = "/api/v1/devices/tcp:1:2/edits"
    assert (await client.get(edits)).json() == {"bundles": [], "device_id": "tcp:1:2"}
    assert (await client.get(f"{edits}/export?bundle=ab")).json() == {"exported": "tcp:1:2 ab"}
    assert (await client.post(f"{edits}/import", json={"exported": "eA=="})).json() == {"imported": ["eA=="]}
    for choice, asked in (({"edit_ids": ["r1"]}, ["r1"]), ({"all": True}, None)):
        answer = await client.post(f"{edits}/undo", json={"bundle_hash": "ab", **choice})
        assert answer.json() == {"asked": ["tcp:1:2", "ab", asked]}


@pytest.mark.parametrize(
    "choice", [{}, {"edit_ids": []}, {"edit_ids": [1]}, {"all": True, "edit_ids": []}, {"all": 1}]
)
async def test_what_is_to_be_undone_must_be_said(client: httpx.AsyncClient, choice: dict[str, Any]) -> None:
    answer = await client.post("/api/v1/devices/a/edits/undo", json={"bundle_hash": "ab", **choice})
    assert answer.status_code == 400
    assert any(name in answer.json()["error"] for name in ("edit_ids", "all: "))


def submitted(job_id: str, user: str) -> JobSubmitted:
    payload = {"method_label": "forward", "repeat": 0, "record": {"record_id": "r"}, "bundle_hash": "ab"}
    trial = TrialPlan(f"{job_id}/t1", "t1", payload, "forward")
    return JobSubmitted(1.0, job_id, "name", user, {"name": "n"}, (trial,), DeviceSelector(), 0, 3)


@pytest.mark.parametrize(
    ("method", "path", "least"),
    [
        ("GET", "/api/v1/live", "viewer"),
        ("GET", "/api/v1/whoami", "viewer"),
        ("GET", "/api/v1/devices", "viewer"),
        ("GET", "/api/v1/devices/a/edits", "viewer"),
        ("POST", "/api/v1/jobs", "submitter"),
        ("POST", "/api/v1/jobs/j/cancel", "submitter"),
        ("POST", "/api/v1/devices", "operator"),
        ("POST", "/api/v1/devices/a/edits/undo", "operator"),
    ],
)
async def test_a_role_may_do_so_much(client: httpx.AsyncClient, method: str, path: str, least: str) -> None:
    body: dict[str, Any] = {"address": "computer"} if path.endswith("devices") else JOB
    if path.endswith("undo"):
        body = {"bundle_hash": "ab", "all": True}
    for token, role in (("reads", Role.VIEWER), ("submits", Role.SUBMITTER), ("runs", Role.OPERATOR)):
        answer = await client.request(
            method,
            path,
            json=body if method == "POST" else None,
            headers={"authorization": f"Bearer {token}"},
        )
        assert answer.status_code == (200 if role.allows(Role(least)) else 403), (token, answer.text)
        if answer.status_code == 403:
            assert f"--role {least}" in answer.json()["error"]


async def test_only_the_farms_own_token_says_whose_job_it_is(
    client: httpx.AsyncClient, requests: ScriptedRequests
) -> None:
    for token in ("secret", "submits", "runs"):
        await client.post("/api/v1/jobs", json=JOB, headers={"authorization": f"Bearer {token}"})
    assert [user for _, _, user in requests.submitted] == ["me", "sam", "olga"]


async def test_a_submitter_cancels_its_own_jobs_alone(client: httpx.AsyncClient, farm: ScriptedFarm) -> None:
    farm.state = replay([submitted("mine", "sam"), submitted("theirs", "vera")])
    statuses = [
        (
            await client.post(f"/api/v1/jobs/{job}/cancel", headers={"authorization": f"Bearer {token}"})
        ).status_code
        for job, token in (("mine", "submits"), ("theirs", "submits"), ("theirs", "runs"))
    ]
    assert statuses == [200, 403, 200]


async def test_what_is_stored_can_be_read(client: httpx.AsyncClient, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "farm.sqlite")
    store.append([submitted("job-1", "sam"), submitted("job-2", "vera")]).result()
    try:
        assert [job["user"] for job in (await client.get("/api/v1/jobs")).json()] == ["sam", "vera"]
        assert (await client.get("/api/v1/jobs/job-2")).json()["trials"] == 1
        assert (await client.get("/api/v1/jobs/job-1/spec")).json() == {"name": "n"}
        assert [trial["label"] for trial in (await client.get("/api/v1/jobs/job-1/trials")).json()] == ["t1"]
        assert (await client.get("/api/v1/jobs/job-1/attempts")).json() == []
        assert (await client.get("/api/v1/jobs/job-1/results.csv")).text.startswith("trial_id,")
        report = await client.get("/api/v1/jobs/job-1/report?compare=job-2")
        assert report.headers["content-type"] == "text/html; charset=utf-8"
        assert report.headers["content-security-policy"].startswith("default-src 'none'; ")
        assert report.headers["content-security-policy"].endswith("; frame-ancestors 'none'")
        assert "one of the jobs has no results" in report.text
        judged = (await client.get("/api/v1/jobs/job-1/comparability/job-2")).json()
        assert [each["verdict"] for each in judged["judgements"]] == ["may not be subtracted"] * 2
        itself = await client.get("/api/v1/jobs/job-1/report?compare=job-1")
        assert (itself.status_code, "another job" in itself.json()["error"]) == (400, True)
        missing = await client.get("/api/v1/jobs/none")
        assert (missing.status_code, "mobifarm jobs" in missing.json()["error"]) == (400, True)
    finally:
        store.close()


async def test_the_log_is_told_from_any_number_on(
    client: httpx.AsyncClient, farm: ScriptedFarm, tmp_path: Path
) -> None:
    events = [submitted("job-1", "sam"), submitted("job-2", "vera"), submitted("job-3", "vera")]
    farm.state = replay(events)
    store = SqliteStore(tmp_path / "farm.sqlite")
    store.append(events).result()
    farm.next_change = lambda: None  # type: ignore[attr-defined]
    try:
        text = (await client.get("/api/v1/events?follow=false&after=1")).text
        assert [line for line in text.splitlines() if line.startswith("id")] == ["id: 2", "id: 3"]
        text = (await client.get("/api/v1/events?follow=false&job=job-3")).text
        assert text.startswith("id: 3\nevent: job_submitted\ndata: {")
    finally:
        store.close()


async def test_a_phone_of_another_host_is_found(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/devices/bench-2%2Fusb:1-2/edits")
    assert answer.json()["device_id"] == "bench-2/usb:1-2"
    assert (await client.get("/api/v1/devices/bench-2%2Fusb:1-2")).status_code == 400


async def test_everything_is_described(client: httpx.AsyncClient) -> None:
    client.headers.pop("authorization")
    document = (await client.get("/api/v1/openapi.json")).json()
    documented = (Path(__file__).parents[4] / "docs" / "api.md").read_text()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), path
            assert operation.get("description"), f"{method} {path} has no docstring"
            line = f"{method.upper()} {path}".replace(":path", "")
            assert line in documented, f"docs/api.md lacks {line}"
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


async def test_unknown_paths_and_methods_are_one_sentence(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/nothing")
    assert (answer.status_code, "openapi.json" in answer.json()["error"]) == (404, True)
    answer = await client.put("/api/v1/jobs", json={})
    assert (answer.status_code, "PUT" in answer.json()["error"]) == (405, True)


async def test_a_body_beyond_the_limit_is_refused(
    client: httpx.AsyncClient, requests: ScriptedRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "BODY_LIMIT_BYTES", 10)
    answer = await client.post("/api/v1/jobs", json=JOB)
    assert (answer.status_code, "split the data set" in answer.json()["error"]) == (413, True)
    assert not requests.submitted


@pytest.mark.parametrize(
    ("what", "body", "asked"),
    [
        ("quarantine", {"reason": "smells"}, ["quarantine", "tcp:1:2", "smells"]),
        ("drain", {"reason": ""}, ["drain", "tcp:1:2", ""]),
        ("undrain", None, ["undrain", "tcp:1:2"]),
        ("doctor", None, ["doctor", "tcp:1:2"]),
    ],
)
async def test_a_phone_is_cared_for(
    client: httpx.AsyncClient,
    requests: ScriptedRequests,
    what: str,
    body: dict[str, str] | None,
    asked: list[str],
) -> None:
    answer = await client.post(f"/api/v1/devices/tcp:1:2/{what}", json=body)
    assert answer.status_code == 200, answer.text
    assert requests.asked == [asked]


@pytest.mark.parametrize(("query", "keeps"), [("", False), ("?keep_edits=true", True)])
async def test_forgetting_keeps_edits_only_where_asked(
    client: httpx.AsyncClient, requests: ScriptedRequests, query: str, keeps: bool
) -> None:
    answer = await client.delete(f"/api/v1/devices/tcp:1:2{query}")
    assert answer.json()["freed_bytes"] == 0
    assert requests.asked == [["forget", "tcp:1:2", keeps]]


@pytest.mark.parametrize("what", ["quarantine", "drain"])
async def test_a_reason_is_a_text(client: httpx.AsyncClient, what: str) -> None:
    assert (await client.post(f"/api/v1/devices/a/{what}", json={"reason": 3})).status_code == 400


def ready(place: str, serial: str) -> tuple[DeviceAdded, DeviceReady]:
    identity = Identity(place, serial, "fingerprint")
    return (
        DeviceAdded(1.0, place, place, "test"),
        DeviceReady(2.0, place, "host", identity, {}, "virtual", (), "1", 0),
    )


async def test_a_phone_is_named_by_its_serial_number_where_no_other_has_it(
    client: httpx.AsyncClient, requests: ScriptedRequests, farm: ScriptedFarm
) -> None:
    forgotten = DeviceForgotten(3.0, "usb:1-4")
    places = (("usb:1-1", "A"), ("usb:1-2", "B"), ("usb:1-3", "B"), ("usb:1-4", "A"))
    farm.state = replay([*(event for place in places for event in ready(*place)), forgotten])
    assert (await client.get("/api/v1/devices/A")).json()["device_id"] == "usb:1-1"
    await client.post("/api/v1/devices/A/drain", json={"reason": "new cable"})
    await client.post("/api/v1/devices/usb:1-2/drain", json={"reason": "new cable"})
    assert requests.asked == [["drain", "usb:1-1", "new cable"], ["drain", "usb:1-2", "new cable"]]
    several = await client.post("/api/v1/devices/B/drain", json={"reason": "new cable"})
    assert several.status_code == 400
    assert "usb:1-2 or usb:1-3" in several.json()["error"]
    step(farm.state, DeviceLost(4.0, "usb:1-3", "it was unplugged"))  # the one that is there is meant
    assert (await client.get("/api/v1/devices/B")).json()["device_id"] == "usb:1-2"
    step(farm.state, DeviceLost(5.0, "usb:1-2", "it was unplugged"))
    assert "usb:1-2 or usb:1-3" in (await client.get("/api/v1/devices/B")).json()["error"]
    assert (await client.get("/api/v1/devices/C")).status_code == 400
    client.headers["authorization"] = "Bearer wrong"
    assert (await client.post("/api/v1/devices/B/drain", json={"reason": ""})).status_code == 401
