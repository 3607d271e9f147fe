"""Who is let in at the farm's door, and why others are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mobifarm.controller.errors import UserError
from mobifarm.controller.farm.door import NO_BUNDLE, STILL_JOINED, Door, door_tls
from mobifarm.controller.farm.versions import mismatch, versions
from mobifarm.workloads.models.catalogue import MANIFEST, bundle_files, bundle_named

VERSIONS = {"mobifarm": "1.0", "python": "3.11.7", "ray": "2.60.0", "protocol": "abc"}


def make(joined: tuple[str, ...] = (), dismiss: Callable[[str], None] = print) -> Door:
    return Door(
        "secret",
        own_name="head",
        versions=VERSIONS,
        ray_address="10.0.0.1:7651",
        ray_token="for-ray",
        is_joined=lambda name: name in joined,
        dismiss=dismiss,
    )


async def ask(door: Door, name: Any = "hub", token: str = "secret", **other: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=door.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        return await client.post(
            "/join",
            json={"name": name, "versions": {**VERSIONS, **other}},
            headers={"authorization": f"Bearer {token}"},
        )


async def test_a_machine_with_the_token_and_the_same_versions_is_admitted() -> None:
    door = make()
    answer = await ask(door)
    assert answer.status_code == 200
    assert (answer.json()["ray_address"], answer.json()["ray_token"]) == ("10.0.0.1:7651", "for-ray")
    assert door.admissions["hub"].join_id == answer.json()["join_id"]
    again = await ask(door)
    assert door.admissions["hub"].join_id == again.json()["join_id"] != answer.json()["join_id"]


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"token": "guess"}, 401, "token"),
        ({"ray": "2.0.0"}, 409, "Ray is 2.0.0 here and 2.60.0 on the farm"),
        ({"mobifarm": "2.0"}, 409, "MobiFarm is 2.0 here and 1.0 on the farm"),
        ({"python": "3.12.0"}, 409, "Python is 3.12.0"),
        ({"protocol": "xyz"}, 409, "protocol is xyz"),
        ({"name": "head"}, 409, "--name"),
        ({"name": "busy"}, STILL_JOINED, "belongs to the farm already"),
        ({"name": "a/b"}, 400, "no name for a host"),
        ({"name": 7}, 400, "no name for a host"),
    ],
)
async def test_others_are_refused_with_the_reason_and_get_nothing(
    asked: dict[str, str], status: int, message: str
) -> None:
    door = make(joined=("busy",))
    answer = await ask(door, **asked)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "for-ray" not in answer.text
    assert not door.admissions


async def test_only_the_host_that_was_admitted_last_can_leave() -> None:
    dismissed: list[str] = []
    door = make(dismiss=dismissed.append)
    earlier = (await ask(door)).json()["join_id"]
    join_id = (await ask(door)).json()["join_id"]

    async def leave(body: Any, token: str = "secret") -> int:
        transport = httpx.ASGITransport(app=door.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            headers = {"authorization": f"Bearer {token}"}
            return (await client.request("DELETE", "/join", json=body, headers=headers)).status_code

    assert await leave({"name": "hub", "join_id": join_id}, "guess") == 401
    assert await leave({"name": "hub"}) == 400
    assert await leave({"name": "hub", "join_id": earlier}) == 200
    assert "hub" in door.admissions
    assert await leave({"name": "hub", "join_id": join_id}) == 200
    assert await leave({"name": "hub", "join_id": join_id}) == 200
    assert dismissed == ["hub"]
    assert not door.admissions


def test_this_machine_matches_itself() -> None:
    assert mismatch(versions(), versions()) is None


def test_the_door_speaks_tls_as_soon_as_ray_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    assert door_tls() == {}
    monkeypatch.setenv("RAY_USE_TLS", "1")
    monkeypatch.setenv("RAY_TLS_SERVER_CERT", str(tmp_path / "none.pem"))
    with pytest.raises(UserError, match="RAY_TLS_SERVER_CERT"):
        door_tls()
    for name in ("SERVER_CERT", "SERVER_KEY", "CA_CERT"):
        (tmp_path / name).touch()
        monkeypatch.setenv(f"RAY_TLS_{name}", str(tmp_path / name))
    assert door_tls()["ssl_ca_certs"] == str(tmp_path / "CA_CERT")


async def test_files_of_a_bundle_and_nothing_else_are_sent_in_parts(tiny_bundle_path: Path) -> None:
    bundle_hash = bundle_named(str(tiny_bundle_path)).hash
    name = next(iter(bundle_files(tiny_bundle_path, bundle_hash)))
    data = (tiny_bundle_path / name).read_bytes()
    (tiny_bundle_path / "diary").write_text("not of the bundle")

    async def get(
        path: str, token: str = "secret", model: str = str(tiny_bundle_path), **headers: str
    ) -> Any:
        transport = httpx.ASGITransport(app=make().app())
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            headers["authorization"] = f"Bearer {token}"
            return await client.get(f"/bundles/{path}", params={"model": model}, headers=headers)

    try:
        assert (await get(f"{bundle_hash}/{name}")).content == data
        part = await get(f"{bundle_hash}/{name}", range="bytes=3-")
        assert (part.status_code, part.content) == (206, data[3:])
        assert (await get(f"{bundle_hash}/{name}", range=f"bytes={len(data)}-")).status_code == 416
        assert (await get(f"{bundle_hash}/{MANIFEST}")).status_code == 200
        assert (await get(f"{bundle_hash}/{name}", token="guess")).status_code == 401
        for refused in (
            await get(f"{bundle_hash}/diary"),
            await get(f"{bundle_hash}/..%2fdiary"),
            await get(f"{'0' * 64}/{name}"),
            await get(f"{bundle_hash}/{name}", model="/etc"),
        ):
            assert refused.status_code == NO_BUNDLE
    finally:
        (tiny_bundle_path / "diary").unlink()
