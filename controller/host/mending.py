"""Carries out what the ladder decides about a phone in trouble (:mod:`.recovery`). Blocks; one link each."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable

from mobifarm.controller.errors import LinkLost
from mobifarm.controller.host.recovery import Rung
from mobifarm.controller.provisioning.agent import stop_agent
from mobifarm.controller.provisioning.phone import find_home, run
from mobifarm.controller.transport.interface import DeviceTransport
from mobifarm.controller.transport.usb_reset import reset_usb


class Mender:
    """What may be done to the phone at ``address``, and how.

    Args:
        open_link: opens a link of its own to the phone.
        reset: resets the USB device at BUS-PORT.PORT….
    """

    def __init__(
        self,
        address: str,
        threads: concurrent.futures.Executor,
        *,
        open_link: Callable[[], DeviceTransport],
        allow_reboot: bool,
        reset: Callable[[str], None] = reset_usb,
    ) -> None:
        self._threads = threads
        self._open_link = open_link
        self._port_path = address.removeprefix("usb:") if address.startswith("usb:") else ""
        self._reset = reset
        self.allowed = frozenset(
            {Rung.RESTART_AGENT}
            | ({Rung.RESET_USB} if self._port_path else set())
            | ({Rung.REBOOT} if allow_reboot else set())
        )

    async def __call__(self, rung: Rung) -> None:
        """Do it; nothing is left open. Reconnecting is what follows in any case.

        Raises:
            FarmError: it could not be done.
        """
        await asyncio.get_running_loop().run_in_executor(self._threads, self._do, rung)

    def _do(self, rung: Rung) -> None:
        match rung:
            case Rung.RESTART_AGENT:
                with contextlib.closing(self._open_link()) as link:
                    # Connecting again starts it.
                    stop_agent(link, find_home(link))
            case Rung.RESET_USB:
                self._reset(self._port_path)
            case Rung.REBOOT:
                # The link may go away before the command has said how it went.
                with contextlib.closing(self._open_link()) as link, contextlib.suppress(LinkLost):
                    run(link, "svc power reboot || reboot", "reboot it")
