"""A :class:`HostLink` over a Ray actor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import FarmError, HostError
from mobifarm.controller.farm.farm import HostForgot
from mobifarm.controller.host.edits import EditsRequest
from mobifarm.controller.host.reports import Report
from mobifarm.controller.provisioning.removal import Removal

CALL_DEADLINE_S = 30.0
LONG_CALL_DEADLINE_S = 200.0  # probes and removals have deadlines of their own, which are shorter
POLL_S = 10.0


class RayHost:
    """Calls one host actor; its failures become :class:`HostError`, its restart :class:`HostForgot`."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor
        self._session: str | None = None
        self._last_report = 0

    async def attach(self, device_id: str, address: str) -> None:
        await self._call("attach", device_id, address)

    async def detach(self, device_id: str) -> None:
        await self._call("detach", device_id)

    async def dispatch(
        self, device_id: str, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]
    ) -> None:
        await self._call("dispatch", device_id, attempt_id, fencing_token, payload)

    async def cancel(self, device_id: str, attempt_id: str) -> None:
        await self._call("cancel", device_id, attempt_id)

    async def acknowledge(self, device_id: str, attempt_id: str) -> None:
        await self._call("acknowledge", device_id, attempt_id)

    async def check_health(self, device_id: str, check_id: str, fencing_token: int) -> None:
        await self._call("check_health", device_id, check_id, fencing_token)

    async def edits(self, device_id: str, request: EditsRequest) -> Mapping[str, Any]:
        answer: Mapping[str, Any] | FarmError = await self._call("edits", device_id, request)
        if isinstance(answer, FarmError):
            raise answer
        return answer

    async def examine(self, device_id: str) -> list[Finding]:
        answer: list[Finding] | FarmError = await self._call(
            "examine", device_id, deadline_s=LONG_CALL_DEADLINE_S
        )
        if isinstance(answer, FarmError):
            raise answer
        return answer

    async def clean(self, address: str, keep_edits: bool) -> Removal:
        answer: Removal | FarmError = await self._call(
            "clean", address, keep_edits, deadline_s=LONG_CALL_DEADLINE_S
        )
        if isinstance(answer, FarmError):
            raise answer
        return answer

    async def close(self) -> None:
        await self._call("close")

    async def reports(self) -> Sequence[Report]:
        session, number, reports = await self._call("reports", self._last_report, POLL_S)
        if self._session is None:
            self._session = session
        if session != self._session:
            self._session, self._last_report = session, 0
            raise HostForgot(f"the host {self.name} was started again")
        self._last_report = number
        return list(reports)

    async def _call(self, method: str, *arguments: Any, deadline_s: float = CALL_DEADLINE_S) -> Any:
        # Imported here because Ray reads its environment when it is first imported, see LocalCluster.start.
        from ray.exceptions import RayActorError

        try:
            async with asyncio.timeout(deadline_s):
                return await getattr(self._actor, method).remote(*arguments)
        except TimeoutError:
            raise HostError(f"the host {self.name} did not answer {method} in {deadline_s:.0f} s") from None
        except RayActorError as error:
            raise HostError(f"the host {self.name} is not available: {error}") from error
