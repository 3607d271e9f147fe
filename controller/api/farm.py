"""Routes about the farm as a whole: is it there, who am I, what happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from mobifarm import __version__
from mobifarm.controller.api.access import Caller
from mobifarm.controller.api.bodies import Health, JsonObject, WhoAmI
from mobifarm.controller.api.services import Farmhouse, Services, Viewer, caller_of
from mobifarm.controller.core.events import Event, encode
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.farm.hosts import HostView

router = APIRouter(tags=["farm"])

HEARTBEAT_S = 15.0
PAGE_EVENTS = 1000


@router.get("/api/v1/health")
async def health() -> Health:
    """Whether the farm runs; no token needed."""
    return Health(status="ok", version=__version__)


@router.get("/metrics", response_class=Response)
async def metrics(farm: Farmhouse) -> Response:
    """For Prometheus; no token needed."""
    return Response(await farm.metrics(), media_type="text/plain; version=0.0.4")


@router.get("/api/v1/whoami")
async def whoami(caller: Viewer) -> WhoAmI:
    """The name and the role of the token."""
    return WhoAmI(name=caller.name, role=caller.role.value)


@router.get("/api/v1/live")
async def live(farm: Farmhouse, _: Viewer) -> JsonObject:
    """The newest of each phone, and where phones cannot be seen; nothing of it is stored."""
    seen = farm.farm.live
    return {
        "devices": {device_id: device.to_json() for device_id, device in seen.devices().items()},
        "notices": [asdict(notice) for notice in seen.notices()],
    }


@router.get("/api/v1/hosts")
async def hosts(farm: Farmhouse, _: Viewer) -> list[HostView]:
    """The machines with phones, the farm's own first: state and reason, versions, number of phones."""
    return list(farm.hosts())


@router.get("/api/v1/events", response_class=StreamingResponse)
async def events(
    request: Request,
    farm: Farmhouse,
    _: Viewer,
    after: Annotated[int, Query(ge=0, description="number of the last event that is known")] = 0,
    job: Annotated[str | None, Query(description="only what concerns this job")] = None,
    follow: Annotated[bool, Query(description="stay and tell what happens from now on")] = True,
) -> StreamingResponse:
    """The log of events as server-sent events: ``id`` is the number, ``event`` the kind, ``data`` JSON."""
    allowed = partial(caller_of, request, farm)
    return StreamingResponse(_events(farm, after, job, follow, allowed), media_type="text/event-stream")


async def _events(
    farm: Services, after: int, job: str | None, follow: bool, allowed: Callable[[], Caller | None]
) -> AsyncIterator[str]:
    while allowed():  # who follows may lose the token meanwhile
        change = farm.farm.next_change()  # taken before reading, so that nothing falls in between
        page = await asyncio.to_thread(_page, farm, after)
        for number, event in page:
            after = number
            if job is None or concerns(event, job, farm.farm.state):
                body = encode(event)
                yield f"id: {number}\nevent: {body['kind']}\ndata: {json.dumps(body)}\n\n"
        if len(page) == PAGE_EVENTS:
            continue
        if not follow:
            return
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await change.wait()
        except TimeoutError:
            yield ": still here\n\n"


def _page(farm: Services, after: int) -> list[tuple[int, Event]]:
    with farm.open_reader() as reader:
        return [item for item, _ in zip(reader.events(after), range(PAGE_EVENTS), strict=False)]


def concerns(event: Event, job_id: str, state: FarmState) -> bool:
    """Whether the event is about the job, one of its trials or attempts."""
    of_event: Any = getattr(event, "job_id", None)
    if of_event is not None:
        return bool(of_event == job_id)
    if (trial_id := getattr(event, "trial_id", None)) is not None:
        trial = state.trials.get(trial_id)
        return trial is not None and trial.job_id == job_id
    attempt = state.attempts.get(getattr(event, "attempt_id", ""))
    return attempt is not None and attempt.job_id == job_id
