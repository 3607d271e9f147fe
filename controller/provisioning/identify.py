"""Lets a person find a phone on the shelf: its screen goes on and off a few times."""

from __future__ import annotations

from typing import Final

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.transport.interface import DeviceTransport

BLINKS: Final = 3
DEADLINE_S: Final = 20.0

# It ends dark, as a phone of a farm should be; a locked screen shows its lock.
_BLINK: Final = "input keyevent KEYCODE_WAKEUP && sleep 0.6 && input keyevent KEYCODE_SLEEP && sleep 0.4"


def identify(link: DeviceTransport) -> None:
    """Blink with the screen; blocks for a few seconds.

    Raises:
        DeviceError: the phone has no such command, or does not answer.
    """
    result = link.shell(" && ".join([_BLINK] * BLINKS), DEADLINE_S)
    if result.exit_code:
        words = (result.stderr or result.stdout).strip()[:200] or f"exit code {result.exit_code}"
        raise DeviceError(f"the phone {link.address} cannot blink with its screen: {words}")
