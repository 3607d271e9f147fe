"""Speaks to a running farm over its HTTP API on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from mobifarm.controller.errors import DeviceError, HostError, UserError
from mobifarm.controller.paths import FarmPaths

DEADLINE_S = 30.0


class FarmClient:
    """Requests to the farm whose folder is given; usable as a context manager.

    Raises:
        UserError: no farm runs on this folder, or it refuses the request (the message is its own).
        DeviceError: the phone that it is about failed.
        HostError: the farm does not answer.
    """

    def __init__(self, paths: FarmPaths) -> None:
        try:
            running = json.loads(paths.running.read_text())
            token = paths.api_token.read_text().strip()
        except (OSError, ValueError):
            raise UserError("no farm is running here; start one with `mobifarm up`") from None
        self._http = httpx.Client(
            base_url=running["url"],
            headers={"authorization": f"Bearer {token}"},
            timeout=DEADLINE_S,
            trust_env=False,  # the farm is on loopback; a proxy must not see the token
        )

    def __enter__(self) -> FarmClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        return self._request("GET", path)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._request("POST", path, body)

    def delete(self, path: str) -> Any:
        return self._request("DELETE", path)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.ConnectError:
            raise UserError("no farm is running here; start one with `mobifarm up`") from None
        except httpx.HTTPError as error:
            raise HostError(f"the farm does not answer: {error}") from None
        if answer.is_success:
            return answer.json()
        try:
            message = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            message = f"the farm answered {answer.status_code}"
        if answer.status_code == 502:
            raise DeviceError(message)
        raise (UserError if answer.status_code < 500 else HostError)(message)
