"""The Ray actor of one USB host: all of its phones on one event loop."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import FarmError
from mobifarm.controller.host.edits import EditsRequest
from mobifarm.controller.host.phones import HostConfiguration, PhoneHost
from mobifarm.controller.host.reports import Report
from mobifarm.controller.provisioning.removal import Removal


class HostActor:
    """Methods are coroutines, so that Ray runs them on one event loop.

    ``session`` is new whenever Ray starts the actor's process again: the controller sees from it that this
    host has forgotten its phones, and attaches them anew.
    """

    def __init__(self, configuration: HostConfiguration) -> None:
        self._configuration = configuration
        self._phones: PhoneHost | None = None
        self._session = secrets.token_hex(8)

    def _host(self) -> PhoneHost:
        # Made on the event loop, which does not run yet when Ray calls the constructor.
        if self._phones is None:
            self._phones = PhoneHost(self._configuration)
        return self._phones

    async def attach(self, device_id: str, address: str) -> None:
        self._host().attach(device_id, address)

    async def detach(self, device_id: str) -> None:
        await self._host().detach(device_id)

    async def dispatch(
        self, device_id: str, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]
    ) -> None:
        self._host().dispatch(device_id, attempt_id, fencing_token, payload)

    async def cancel(self, device_id: str, attempt_id: str) -> None:
        self._host().cancel(device_id, attempt_id)

    async def acknowledge(self, device_id: str, attempt_id: str) -> None:
        self._host().acknowledge(device_id, attempt_id)

    async def check_health(self, device_id: str, check_id: str, fencing_token: int) -> None:
        self._host().check_health(device_id, check_id, fencing_token)

    async def edits(self, device_id: str, request: EditsRequest) -> Mapping[str, Any] | FarmError:
        """An error is returned: Ray would wrap one that is raised into a traceback of this process."""
        try:
            return await self._host().edits(device_id, request)
        except FarmError as error:
            return error

    async def examine(self, device_id: str) -> list[Finding] | FarmError:
        try:
            return await self._host().examine(device_id)
        except FarmError as error:
            return error

    async def clean(self, address: str, keep_edits: bool) -> Removal | FarmError:
        try:
            return await self._host().clean(address, keep_edits)
        except FarmError as error:
            return error

    async def reports(self, after: int, timeout_s: float) -> tuple[str, int, list[Report]]:
        number, reports = await self._host().reports(after, timeout_s)
        return self._session, number, reports

    async def close(self) -> None:
        await self._host().close()
