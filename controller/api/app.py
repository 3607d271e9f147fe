"""HTTP routes. JSON in and out; errors are ``{"error": "one sentence with the next step"}``.

    GET    /api/v1/health              no token needed; says nothing but that the farm runs
    GET    /api/v1/live                the newest progress and readings of each phone
    POST   /api/v1/jobs                {"spec": …, "records": […], "user": …} → {"job_id": …, "trials": n}
    POST   /api/v1/jobs/{id}/cancel
    POST   /api/v1/devices             {"address": "tcp:HOST:PORT"}, or "computer" for this machine
    POST   /api/v1/devices/{id}/release
    DELETE /api/v1/devices/{id}
    GET    /api/v1/devices/{id}/edits                  the edits that the phone keeps, by bundle
    GET    /api/v1/devices/{id}/edits/export?bundle=HASH    → {"exported": "base64"}
    POST   /api/v1/devices/{id}/edits/import           {"exported": "base64"}
    POST   /api/v1/devices/{id}/edits/undo             {"bundle_hash": …, "edit_ids": […]}, or "all": true
    GET    /metrics                    Prometheus; no token needed

What is stored (jobs, attempts, results) is read from the store, which also works when no farm runs.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mobifarm import __version__
from mobifarm.controller.errors import Bug, DeviceError, FarmError, HostError, UserError
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.metrics import render_metrics
from mobifarm.controller.farm.requests import FarmRequests
from mobifarm.workloads.errors import WorkloadInputError

Handler = Callable[[Request], Awaitable[Response]]
BODY_LIMIT_BYTES = 64 * 2**20


def create_app(farm: Farm, requests: FarmRequests, token: str) -> Starlette:
    """The API of one farm. Every route but health and metrics wants ``authorization: Bearer token``."""
    expected = f"Bearer {token}".encode()

    def guarded(handler: Callable[[Request], Awaitable[Mapping[str, Any]]]) -> Handler:
        async def respond(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, expected):
                return _error(401, "the farm's token is missing or wrong")
            try:
                return JSONResponse(dict(await handler(request)))
            except (UserError, WorkloadInputError) as error:
                return _error(400, str(error))
            except Bug as error:
                return _error(409, str(error))
            except DeviceError as error:
                return _error(502, str(error))
            except (HostError, FarmError) as error:
                return _error(503, str(error))

        return respond

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def metrics(_: Request) -> Response:
        return Response(render_metrics(farm.state, farm.live), media_type="text/plain; version=0.0.4")

    async def live(_: Request) -> Mapping[str, Any]:
        return {"devices": {device_id: device.to_json() for device_id, device in farm.live.devices().items()}}

    async def submit(request: Request) -> Mapping[str, Any]:
        body = await _body(request)
        return await requests.submit(
            _field(body, "spec", dict), _field(body, "records", list), _field(body, "user", str)
        )

    async def cancel(request: Request) -> Mapping[str, Any]:
        return await requests.cancel(request.path_params["job_id"])

    async def add_device(request: Request) -> Mapping[str, Any]:
        body = await _body(request)
        return await requests.add_device(_field(body, "address", str), "operator")

    async def forget_device(request: Request) -> Mapping[str, Any]:
        return await requests.forget_device(request.path_params["device_id"])

    async def release_device(request: Request) -> Mapping[str, Any]:
        return await requests.release_device(request.path_params["device_id"])

    async def list_edits(request: Request) -> Mapping[str, Any]:
        return await requests.list_edits(request.path_params["device_id"])

    async def export_edits(request: Request) -> Mapping[str, Any]:
        return await requests.export_edits(
            request.path_params["device_id"], request.query_params.get("bundle", "")
        )

    async def import_edits(request: Request) -> Mapping[str, Any]:
        body = await _body(request)
        return await requests.import_edits(request.path_params["device_id"], _field(body, "exported", str))

    async def undo_edits(request: Request) -> Mapping[str, Any]:
        body = await _body(request)
        return await requests.undo_edits(
            request.path_params["device_id"], _field(body, "bundle_hash", str), _edit_ids(body)
        )

    return Starlette(
        routes=[
            Route("/api/v1/health", health),
            Route("/metrics", metrics),
            Route("/api/v1/live", guarded(live)),
            Route("/api/v1/jobs", guarded(submit), methods=["POST"]),
            Route("/api/v1/jobs/{job_id}/cancel", guarded(cancel), methods=["POST"]),
            Route("/api/v1/devices", guarded(add_device), methods=["POST"]),
            Route("/api/v1/devices/{device_id}/release", guarded(release_device), methods=["POST"]),
            Route("/api/v1/devices/{device_id}/edits", guarded(list_edits)),
            Route("/api/v1/devices/{device_id}/edits/export", guarded(export_edits)),
            Route("/api/v1/devices/{device_id}/edits/import", guarded(import_edits), methods=["POST"]),
            Route("/api/v1/devices/{device_id}/edits/undo", guarded(undo_edits), methods=["POST"]),
            Route("/api/v1/devices/{device_id}", guarded(forget_device), methods=["DELETE"]),
        ]
    )


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


async def _body(request: Request) -> Mapping[str, Any]:
    size = 0
    chunks = []
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_LIMIT_BYTES:
            raise UserError(f"the request is larger than {BODY_LIMIT_BYTES // 2**20} MiB: split the data set")
        chunks.append(chunk)
    try:
        body = json.loads(b"".join(chunks))
    except ValueError:
        raise UserError("the request's body is not JSON") from None
    if not isinstance(body, dict):
        raise UserError("the request's body must be a JSON object")
    return body


def _field(body: Mapping[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if not isinstance(value, kind):
        raise UserError(f"the request needs {name!r} as a {kind.__name__}")
    return value


def _edit_ids(body: Mapping[str, Any]) -> list[str] | None:
    """The edits to undo; None for all."""
    if body.get("all") is True and "edit_ids" not in body:
        return None
    edit_ids = _field(body, "edit_ids", list)
    if not edit_ids or not all(isinstance(edit_id, str) for edit_id in edit_ids):
        raise UserError("the request needs 'edit_ids' as a list of names, or 'all' as true")
    return list(edit_ids)
