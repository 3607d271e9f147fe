"""The live page: its files, how a browser signs in, and the news that it shows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from mobifarm.controller.api.access import Role
from mobifarm.controller.api.bodies import JsonObject, PageKey, SignIn, WantedKey, WhoAmI
from mobifarm.controller.api.feed import Feed
from mobifarm.controller.api.services import Farmhouse, PageSessions, Refused, Services, Viewer, caller_of
from mobifarm.controller.api.sessions import comes_from_the_page, cookie_name
from mobifarm.controller.farm.snapshot import history, snapshot

router = APIRouter(tags=["live page"])

FOLDER: Final = str(files("mobifarm.dashboards") / "page")

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # an upgraded farm's page is taken at once; unchanged files are not sent
}


class _PageFiles(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page at ``/`` and its files below ``/page``, to everybody: they tell nothing of the farm."""
    app.mount("/page", _PageFiles(directory=FOLDER))

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(f"{FOLDER}/index.html", headers=HEADERS)

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> FileResponse:
        return FileResponse(f"{FOLDER}/favicon.svg", headers=HEADERS)


@router.post("/api/v1/page/keys")
async def make_key(body: WantedKey, request: Request, sessions: PageSessions, caller: Viewer) -> PageKey:
    """A key that opens the page once within an hour, as the caller or as a lower role."""
    role = Role(body.role) if body.role else caller.role
    if not caller.role.allows(role):
        raise Refused(403, f"a {caller.role} cannot open the page as {role}")
    authorization = request.headers.get("authorization", "")
    if not authorization:
        raise Refused(403, "a browser's session makes no keys: `mobifarm page` does")
    return PageKey(key=sessions.make_key(authorization, role), role=role)


@router.post("/api/v1/page/session")
async def sign_in(body: SignIn, request: Request, sessions: PageSessions) -> JSONResponse:
    """Exchange a key of the page, or a token, for a session's cookie."""
    if not comes_from_the_page(request.method, request.headers, request.url.scheme):
        raise Refused(403, "only the farm's own page signs in this way")
    if body.key:
        opened = sessions.open_with_key(body.key)
        why_not = "this address of the page was used already or is too old: `mobifarm page` prints a new one"
    else:
        opened = sessions.open_with_token(body.token or "")
        why_not = "nobody has this token: `mobifarm tokens create NAME --role viewer` makes one"
    if opened is None:
        raise Refused(401, why_not)
    session, caller = opened
    response = JSONResponse(WhoAmI(name=caller.name, role=caller.role.value).model_dump())
    response.set_cookie(
        cookie_name(request.scope["server"][1]),
        session,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return response


@router.delete("/api/v1/page/session", status_code=204)
async def sign_out(request: Request, sessions: PageSessions, _: Viewer) -> Response:
    """End the browser's session."""
    name = cookie_name(request.scope["server"][1])
    sessions.close(request.cookies.get(name, ""))
    response = Response(status_code=204)
    response.delete_cookie(name, path="/", httponly=True, samesite="strict")
    return response


@router.get("/api/v1/live/snapshot", response_model=dict[str, Any])
async def live_snapshot(farm: Farmhouse, _: Viewer) -> JSONResponse:
    """The farm now: phones and jobs in columns, hosts, notices, and the last minute of each phone."""
    return JSONResponse(_snapshot(farm, with_past=True))


@router.get("/api/v1/live/stream", response_class=StreamingResponse)
async def live_stream(request: Request, farm: Farmhouse, _: Viewer) -> StreamingResponse:
    """The same without the past, twice a second, as server-sent events ``tick``.

    It ends where the session or the token does.
    """
    feed: Feed = request.app.state.feed
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(
        _ticks(feed, lambda: caller_of(request, farm) is not None),
        media_type="text/event-stream",
        headers=headers,
    )


@router.get("/api/v1/devices/{device_id:path}/history")
async def device_history(device_id: str, farm: Farmhouse, _: Viewer, after: float = 0.0) -> JsonObject:
    """A phone's last minutes after a unix time, in columns; empty where nothing was heard of it."""
    heard = farm.farm.live.devices().get(device_id)
    return history(heard.history if heard else (), after)


@router.get("/api/v1/devices/{device_id:path}/passport")
def device_passport(device_id: str, farm: Farmhouse, _: Viewer) -> JsonObject:
    """The passport of the phone's newest result; null where it has none yet."""
    with farm.open_reader() as reader:
        newest = reader.newest_result(device_id)
    if newest is None:
        return {"at": None, "trial_id": None, "passport": None}
    return {"at": newest.at, "trial_id": newest.trial_id, "passport": newest.result.get("passport")}


async def _ticks(feed: Feed, allowed: Callable[[], bool]) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    async with contextlib.aclosing(feed.watch()) as ticks:
        async for text in ticks:
            if not allowed():  # a token that is revoked must not look on for as long as it stays
                return
            yield text


def tick(farm: Services, number: int) -> str:
    """One event of the stream."""
    # In ASCII: many readers, ours too, take U+2028 or U+0085 in the text of a phone for the end of the line.
    body = json.dumps({"number": number, **_snapshot(farm, with_past=False)}, separators=(",", ":"))
    return f"id: {number}\nevent: tick\ndata: {body}\n\n"


def _snapshot(farm: Services, *, with_past: bool) -> dict[str, Any]:
    return snapshot(farm.farm.state, farm.farm.live, farm.hosts(), farm.clock(), with_past=with_past)
