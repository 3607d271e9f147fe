"""The HTTP API of one farm. JSON in and out; errors are ``{"error": "one sentence with the next step"}``.

Every route but health, metrics and the description itself wants ``authorization: Bearer TOKEN`` of a role
that allows it, or the cookie of a session of the live page. The description (OpenAPI) is at
``/api/v1/openapi.json``.
"""

from __future__ import annotations

import time
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobifarm import __version__
from mobifarm.controller.api import devices, farm, jobs, page
from mobifarm.controller.api.bodies import Problem
from mobifarm.controller.api.feed import Feed
from mobifarm.controller.api.services import Refused, Services
from mobifarm.controller.api.sessions import Sessions
from mobifarm.controller.errors import Bug, DeviceError, FarmError, UserError
from mobifarm.workloads.errors import WorkloadInputError

BODY_LIMIT_BYTES = 64 * 2**20

DESCRIPTION = """\
Everything that the command `mobifarm` asks of a running farm.

Tokens have roles: a *viewer* reads, a *submitter* also submits jobs and cancels its own, an *operator* does
everything. `mobifarm tokens create NAME --role ROLE` makes one.
"""


def create_app(services: Services) -> FastAPI:
    """The API over one farm."""
    app = FastAPI(
        title="MobiFarm",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/api/v1/openapi.json",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        responses={
            status: {"model": Problem, "description": words}
            for status, words in (
                (400, "the request is wrong; nothing was changed"),
                (401, "no token, or an unknown one"),
                (403, "the token's role does not allow it"),
                (502, "the phone failed or is away"),
                (503, "the phones' host failed"),
            )
        },
    )
    app.state.services = services
    app.state.sessions = Sessions(services.authenticate, time.monotonic)
    app.state.feed = Feed(partial(page.tick, services))
    for router in (farm.router, jobs.router, page.router, devices.router):
        app.include_router(router)
    page.add_page(app)
    app.add_middleware(_LimitBody)
    app.add_exception_handler(FarmError, _farm_error)
    app.add_exception_handler(WorkloadInputError, _farm_error)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _misfit)
    app.add_exception_handler(HTTPException, _http_error)
    return app


def _problem(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)


async def _farm_error(_: Request, error: Exception) -> JSONResponse:
    match error:
        case UserError() | WorkloadInputError():
            status = 400
        case Bug():
            status = 409
        case DeviceError():
            status = 502
        case _:
            status = 503
    return _problem(status, str(error))


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return _problem(error.status, str(error))


async def _misfit(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        ": ".join(filter(None, (".".join(str(part) for part in found["loc"][1:]), found["msg"])))
        for found in error.errors()
    ]
    return _problem(400, f"the request does not fit: {'; '.join(problems)}")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _problem(404, f"there is no {request.url.path} here; /api/v1/openapi.json lists what there is")
    if error.status_code == 405:
        return _problem(405, f"{request.url.path} does not take {request.method}")
    return _problem(error.status_code, str(error.detail))


class _LimitBody:
    """Refuses bodies beyond the limit while they come in, whatever their headers say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > BODY_LIMIT_BYTES:
                limit = f"{BODY_LIMIT_BYTES >> 20} MiB"
                raise HTTPException(413, f"the request is larger than {limit}: split the data set")
            return message

        await self._app(scope, limited if scope["type"] == "http" else receive, send)
