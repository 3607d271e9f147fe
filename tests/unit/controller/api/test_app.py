from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from mobifarm.controller.api.app import create_app
from mobifarm.controller.errors import DeviceError, HostError, UserError
from mobifarm.controller.farm.live import LiveView


class ScriptedRequests:
    """Stands for the farm's front door: answers, or raises what the test wants."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.submitted: list[Any] = []

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

    async def add_device(self, address: str, source: str) -> dict[str, Any]:
        return {"device_id": address}


class ScriptedFarm:
    live = LiveView()


@pytest.fixture
def requests() -> ScriptedRequests:
    return ScriptedRequests()


@pytest.fixture
def client(requests: ScriptedRequests, tmp_path: Path) -> httpx.AsyncClient:
    app = create_app(ScriptedFarm(), requests, "secret")  # type: ignore[arg-type]
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://farm",
        headers={"authorization": "Bearer secret"},
    )


JOB = {"spec": {"name": "n"}, "records": [{}], "user": "me"}


@pytest.mark.parametrize("header", [None, "Bearer wrong", "secret", "Bearer "])
async def test_every_guarded_route_wants_the_token(
    client: httpx.AsyncClient, requests: ScriptedRequests, header: str | None
) -> None:
    client.headers.pop("authorization")
    headers = {"authorization": header} if header else {}
    for method, path in (
        ("GET", "/api/v1/live"),
        ("POST", "/api/v1/jobs"),
        ("POST", "/api/v1/jobs/j/cancel"),
        ("POST", "/api/v1/devices"),
        ("DELETE", "/api/v1/devices/a"),
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
    "body", [b"not json", b"[]", b'{"spec": {}}', b'{"spec": 1, "records": [], "user": "me"}']
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
    assert "edit_ids" in answer.json()["error"]
