"""A :class:`HostLink` over a Ray actor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mobifarm.controller.core.events import DeviceAdded
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import FarmError, HostError
from mobifarm.controller.farm.host_link import HostForgot, Order
from mobifarm.controller.host.edits import EditsRequest
from mobifarm.controller.host.reports import Report
from mobifarm.controller.provisioning.removal import Removal

CALL_DEADLINE_S = 30.0
LONG_CALL_DEADLINE_S = 200.0  # probes and removals have deadlines of their own, which are shorter
POLL_S = 10.0
# A host on another machine is polled more often and given up sooner: what is silent for so long is lost.
JOINED_POLL_S = 2.0
JOINED_SILENCE_S = 8.0


class RayHost:
    """Calls one host actor; its failures become :class:`HostError`, its restart :class:`HostForgot`.

    A host on another machine knows its phones by their plain addresses; the farm puts "HOST/" in front of
    them, so that ids stay unique over hosts, and each call here translates.
    """

    def __init__(self, name: str, actor: Any, *, joined: bool = False) -> None:
        self.name = name
        self._actor = actor
        self._prefix = f"{name}/" if joined else ""
        self._poll_s = JOINED_POLL_S if joined else POLL_S
        self._silence_s = JOINED_SILENCE_S if joined else POLL_S + CALL_DEADLINE_S
        self._session: str | None = None
        self._last_report = 0

    async def begin(self) -> None:
        self._session, self._last_report = await self._call("begin"), 0

    async def attach(self, device_id: str, address: str, source: str) -> None:
        await self._call("attach", self._local(device_id), address, source)

    async def detach(self, device_id: str) -> None:
        await self._call("detach", self._local(device_id))

    async def carry_out(self, orders: Sequence[Order]) -> None:
        await self._call(
            "carry_out", [(method, self._local(device_id), *rest) for method, device_id, *rest in orders]
        )

    async def edits(self, device_id: str, request: EditsRequest) -> Mapping[str, Any]:
        answer: Mapping[str, Any] | FarmError = await self._call("edits", self._local(device_id), request)
        if isinstance(answer, FarmError):
            raise answer
        return answer

    async def examine(self, device_id: str) -> list[Finding]:
        answer: list[Finding] | FarmError = await self._call(
            "examine", self._local(device_id), deadline_s=LONG_CALL_DEADLINE_S
        )
        if isinstance(answer, FarmError):
            raise answer
        return answer

    async def identify(self, device_id: str) -> None:
        answer: FarmError | None = await self._call(
            "identify", self._local(device_id), deadline_s=LONG_CALL_DEADLINE_S
        )
        if answer is not None:
            raise answer

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
        session, number, reports = await self._call(
            "reports", self._last_report, self._poll_s, deadline_s=self._silence_s
        )
        if session != self._session:
            raise HostForgot(f"the host {self.name} was started again")
        self._last_report = number
        return [self._global(report) for report in reports] if self._prefix else reports

    def _local(self, device_id: str) -> str:
        return device_id.removeprefix(self._prefix)

    def _global(self, report: Report) -> Report:
        changed: dict[str, Any] = {}
        if (device_id := getattr(report, "device_id", None)) is not None:
            changed["device_id"] = self._prefix + device_id
        if isinstance(report, DeviceAdded):
            changed["host"] = self.name
        return replace(report, **changed) if changed else report

    async def _call(self, method: str, *arguments: Any, deadline_s: float = CALL_DEADLINE_S) -> Any:
        # Imported here because Ray reads its environment when it is first imported, see LocalCluster.start.
        from ray.exceptions import RayError, RayTaskError

        try:
            async with asyncio.timeout(deadline_s):
                return await getattr(self._actor, method).remote(*arguments)
        except TimeoutError:
            raise HostError(f"the host {self.name} did not answer {method} in {deadline_s:.0f} s") from None
        except RayTaskError:
            raise  # the actor's own exception
        except RayError as error:
            raise HostError(f"the host {self.name} is not available: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
