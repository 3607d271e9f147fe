"""The way from the farm to the phones of one host."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from zlib import crc32

from mobifarm.controller.core.commands import Command
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import HostError
from mobifarm.controller.host.edits import EditsRequest
from mobifarm.controller.host.reports import Report
from mobifarm.controller.provisioning.removal import Removal

Order = tuple[str, str, *tuple[Any, ...]]
"""``dispatch``, ``cancel``, ``acknowledge`` or ``check_health``, the phone, and the other arguments."""

LANES: Final = 4  # of orders that are on their way to one host at once


class HostForgot(HostError):
    """The host's process was started again: it knows no phones until they are attached anew."""


class HostLink(Protocol):
    """How the farm reaches the phones of one host. All methods raise HostError when the host is not there."""

    @property
    def name(self) -> str: ...

    async def begin(self) -> None:
        """Let the host forget what it knew, so that all phones that are then attached report anew."""
        ...

    async def attach(self, device_id: str, address: str, source: str) -> None: ...

    async def detach(self, device_id: str) -> None: ...

    async def carry_out(self, orders: Sequence[Order]) -> None:
        """Have the host do these in order: one call for many, as calls between processes are dear."""
        ...

    async def edits(self, device_id: str, request: EditsRequest) -> Mapping[str, Any]:
        """See :func:`mobifarm.controller.host.edits.carry_out`."""
        ...

    async def examine(self, device_id: str) -> list[Finding]: ...

    async def identify(self, device_id: str) -> None: ...

    async def clean(self, address: str, keep_edits: bool) -> Removal: ...

    async def reports(self) -> Sequence[Report]:
        """Wait for reports. Raises HostForgot when the host has forgotten its phones since :meth:`begin`."""
        ...


class Connection:
    """A host and what it is to do. One that hangs holds up no other.

    Orders for one phone stay in order; those for different phones may be on their way at once, as the host
    would else wait for the controller and the controller for the host.
    """

    def __init__(self, link: HostLink) -> None:
        self.link = link
        self.lanes: tuple[asyncio.Queue[Command], ...] = tuple(asyncio.Queue() for _ in range(LANES))
        self.leaves = asyncio.Event()  # the host has said so

    def put(self, command: Command) -> None:
        self.lanes[crc32(command.device_id.encode()) % LANES].put_nowait(command)
