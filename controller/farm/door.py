"""Where other machines ask to become hosts: a small HTTP server of its own, open only when asked for.

    POST /join    {"name": …, "versions": {…}} → {"session", "join_id", "ray_address", "ray_token"}
    GET  /join    → {"session"}: whether it is still the same run of the farm
    DELETE /join  {"name": …, "join_id": …}: this host leaves
    GET  /bundles/HASH/FILE?model=NAME → a file of a model bundle, also a part of it (Range)

All want ``authorization: Bearer TOKEN`` with the farm's join token. Whatever is refused is refused before
Ray or anything else starts on the other machine.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from mobifarm.controller.errors import UserError
from mobifarm.controller.farm.versions import mismatch
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.catalogue import MANIFEST, bundle_files, find_bundle

DEFAULT_PORT: Final = 7650
BODY_LIMIT_BYTES: Final = 16_384
HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")  # what a label of Ray may be
STILL_JOINED: Final = 423
NO_BUNDLE: Final = 404


@dataclass(frozen=True, slots=True)
class Admission:
    """A machine that may join; only the newest one of a name counts."""

    join_id: str
    versions: Mapping[str, str]


class Door:
    """Admits machines; what it admits is found in ``admissions`` by the name of the host.

    Args:
        own_name: of the farm's own machine, which no other may take.
        versions: the farm's.
        is_joined: whether a host of this name is there now.
        dismiss: told the name of a host that leaves.
    """

    def __init__(
        self,
        token: str,
        *,
        own_name: str,
        versions: Mapping[str, str],
        ray_address: str,
        ray_token: str,
        is_joined: Callable[[str], bool],
        dismiss: Callable[[str], None],
    ) -> None:
        self._expected = f"Bearer {token}".encode()
        self._own_name = own_name
        self._versions = versions
        self._ray = {"ray_address": ray_address, "ray_token": ray_token}
        self._is_joined = is_joined
        self._dismiss = dismiss
        self._session = secrets.token_hex(8)
        self.admissions: dict[str, Admission] = {}

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/join", self._guarded(self._ask), methods=["POST"]),
                Route("/join", self._guarded(self._look), methods=["GET"]),
                Route("/join", self._guarded(self._leave), methods=["DELETE"]),
                Route("/bundles/{bundle_hash}/{file}", self._guarded(_send_bundle_file), methods=["GET"]),
            ]
        )

    def _guarded(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, self._expected):
                return _refusal(
                    401, "the join token is missing or wrong: copy the farm's file join-token again"
                )
            answer: Response = await handler(request)
            return answer

        return respond

    async def _look(self, _: Request) -> Response:
        return JSONResponse({"session": self._session})

    async def _leave(self, request: Request) -> Response:
        if (body := await _body(request)) is None:
            return _refusal(400, "the request is too large")
        try:
            asked = json.loads(body)
            name, join_id = str(asked["name"]), asked["join_id"]
        except (ValueError, KeyError, TypeError):
            return _refusal(400, "the request needs a name and a join_id")
        admission = self.admissions.get(name)
        if admission is not None and admission.join_id == join_id:  # else another one has the name by now
            del self.admissions[name]  # its node may live for a moment yet, and is not to be followed again
            self._dismiss(name)
        return JSONResponse({"session": self._session})

    async def _ask(self, request: Request) -> Response:
        if (body := await _body(request)) is None:
            return _refusal(400, "the request is too large")
        try:
            asked = json.loads(body)
            name, versions = asked["name"], asked["versions"]
        except (ValueError, KeyError, TypeError):
            return _refusal(400, "the request needs a name and versions")
        if not isinstance(name, str) or not HOST_NAME.fullmatch(name) or not isinstance(versions, dict):
            return _refusal(400, f"{name!r} is no name for a host: use letters, digits, '.', '_' and '-'")
        if reason := mismatch(self._versions, versions):
            return _refusal(409, reason)
        if name == self._own_name:
            return _refusal(409, f"the farm's own machine is called {name}: choose another with --name")
        if self._is_joined(name):
            return _refusal(
                STILL_JOINED, f"a host called {name} belongs to the farm already: choose another with --name"
            )
        admission = Admission(secrets.token_hex(8), {key: str(versions[key]) for key in self._versions})
        self.admissions[name] = admission
        return JSONResponse({"session": self._session, "join_id": admission.join_id, **self._ray})


async def _body(request: Request) -> bytes | None:
    """None where it is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            return None
    return body


async def _send_bundle_file(request: Request) -> Response:
    model = request.query_params.get("model", "")
    name: str = request.path_params["file"]

    def find() -> Path:
        bundle_hash = request.path_params["bundle_hash"]
        folder = find_bundle(model, bundle_hash)
        if name != MANIFEST and name not in bundle_files(folder, bundle_hash):
            raise WorkloadInputError(f"the model bundle {model} has no file {name}")
        return folder / name

    try:
        return FileResponse(await asyncio.to_thread(find))
    except WorkloadInputError as error:
        return _refusal(NO_BUNDLE, f"on the farm's machine {error}")


def _refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


def door_tls() -> dict[str, Any]:
    """The door speaks TLS as soon as Ray does, with the same files: uvicorn's settings from Ray's.

    Raises:
        UserError: Ray is to use TLS, and a file is not named.
    """
    files = ray_tls_files()
    if files is None:
        return {}
    certificate, key, authority = files
    return {
        "ssl_certfile": certificate,
        "ssl_keyfile": key,
        "ssl_ca_certs": authority,
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }


def ray_tls_files() -> tuple[str, str, str] | None:
    """Certificate, key and authority of this machine as Ray's own settings name them; None without TLS.

    Raises:
        UserError: Ray is to use TLS, and a file is not named.
    """
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    for name in names:
        if not os.access(os.environ.get(name, ""), os.R_OK):
            raise UserError(f"RAY_USE_TLS is set, but {name} names no file that can be read")
    certificate, key, authority = (os.environ[name] for name in names)
    return certificate, key, authority
