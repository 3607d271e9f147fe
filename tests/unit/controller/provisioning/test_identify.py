from __future__ import annotations

import pytest

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.provisioning.identify import BLINKS, DEADLINE_S, identify
from mobifarm.controller.transport.interface import ShellResult


class Phone:
    address = "usb:1-2"

    def __init__(self, result: ShellResult) -> None:
        self.result = result
        self.asked: list[tuple[str, float]] = []

    def shell(self, command: str, timeout_s: float = 30.0) -> ShellResult:
        self.asked.append((command, timeout_s))
        return self.result


def test_the_screen_goes_on_and_off_and_ends_dark() -> None:
    phone = Phone(ShellResult(0, "", ""))
    identify(phone)  # type: ignore[arg-type]
    ((command, deadline_s),) = phone.asked
    assert (command.count("WAKEUP"), command.count("SLEEP")) == (BLINKS, BLINKS)
    assert command.rindex("SLEEP") > command.rindex("WAKEUP")
    assert deadline_s == DEADLINE_S


def test_a_phone_without_the_command_says_so() -> None:
    phone = Phone(ShellResult(127, "", "input: not found\n"))
    with pytest.raises(DeviceError, match=r"usb:1-2 cannot blink with its screen: input: not found"):
        identify(phone)  # type: ignore[arg-type]
