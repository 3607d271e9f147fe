"""The Ray actor of one USB host: all of its phones on one event loop."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from mobifarm.controller.collection import collect_rarely
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import FarmError, HostError
from mobifarm.controller.host.edits import EditsRequest
from mobifarm.controller.host.phones import HostConfiguration, PhoneHost
from mobifarm.controller.host.reports import Report
from mobifarm.controller.provisioning.removal import Removal

logger = logging.getLogger(__name__)


class HostActor:
    """Methods are coroutines, so that Ray runs them on one event loop.

    ``session`` is new whenever Ray starts the actor's process again: the controller sees from it that this
    host has forgotten its phones, and attaches them anew.
    """

    def __init__(self, configuration: HostConfiguration | None = None) -> None:
        """``configuration`` None: that of `mobifarm join`, which started Ray on this machine."""
        self._configuration = configuration or HostConfiguration.from_environment()
        self._phones: PhoneHost | None = None
        collect_rarely()
        self._session = secrets.token_hex(8)

    def _host(self) -> PhoneHost:
        # Made on the event loop, which does not run yet when Ray calls the constructor.
        if self._phones is None:
            self._phones = PhoneHost(self._configuration)
        return self._phones

    async def begin(self) -> str:
        """Forget all phones, their attempts go on on them; returns the new session."""
        if self._phones is not None:
            await self._phones.close()
            self._phones = None
        self._session = secrets.token_hex(8)
        return self._session

    async def attach(self, device_id: str, address: str, source: str) -> None:
        self._host().attach(device_id, address, source)

    async def detach(self, device_id: str) -> None:
        await self._host().detach(device_id)

    async def carry_out(self, orders: list[tuple[Any, ...]]) -> None:
        """Do what :data:`mobifarm.controller.farm.host_link.Order` says; one that fails stops no other."""
        host = self._host()
        methods: dict[str, Callable[..., None]] = {
            "dispatch": host.dispatch,
            "cancel": host.cancel,
            "acknowledge": host.acknowledge,
            "check_health": host.check_health,
        }
        for method, *arguments in orders:
            try:
                methods[method](*arguments)
            except HostError as error:  # the phone was taken out of the farm meanwhile
                logger.warning("%s", error)

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

    async def identify(self, device_id: str) -> FarmError | None:
        try:
            await self._host().identify(device_id)
        except FarmError as error:
            return error
        return None

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
