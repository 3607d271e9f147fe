"""What is done to a phone in trouble, over a scripted link."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mobifarm.controller.errors import DeviceError, LinkLost
from mobifarm.controller.host.mending import Mender
from mobifarm.controller.host.recovery import Rung
from mobifarm.controller.transport.interface import ShellResult


class Link:
    address = "tcp:h:1"

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self.closed = 0
        self.reboot: ShellResult | Exception = ShellResult(0, "", "")

    def shell(self, command: str, timeout_s: float = 30.0) -> ShellResult:
        self.scripts.append(command)
        if "svc power reboot" in command:
            if isinstance(self.reboot, Exception):
                raise self.reboot
            return self.reboot
        if "mkdir -p mobifarm" in command:
            return ShellResult(0, "/data/local/tmp/mobifarm\n", "")
        if "cmdline" in command:
            return ShellResult(0, "77\nsh\0/data/local/tmp/mobifarm/runtime/x/run.sh\0", "")
        return ShellResult(0, "", "")

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def mender(
    threads: ThreadPoolExecutor, link: Link, address: str = "tcp:h:1", *, reboot: bool = True
) -> Mender:
    return Mender(
        address,
        threads,
        open_link=lambda: link,  # type: ignore[arg-type,return-value]
        allow_reboot=reboot,
        reset=lambda port_path: link.scripts.append(f"reset {port_path}"),
    )


def test_only_what_the_place_and_the_farm_allow_is_offered(threads: ThreadPoolExecutor) -> None:
    assert mender(threads, Link(), reboot=False).allowed == {Rung.RESTART_AGENT}
    assert mender(threads, Link()).allowed == {Rung.RESTART_AGENT, Rung.REBOOT}
    assert mender(threads, Link(), "usb:1-2", reboot=False).allowed == {Rung.RESTART_AGENT, Rung.RESET_USB}


async def test_restarting_stops_the_farms_own_agent(threads: ThreadPoolExecutor) -> None:
    link = Link()
    await mender(threads, link)(Rung.RESTART_AGENT)
    assert "kill -s $signal 77" in link.scripts[-1]
    assert link.closed == 1


async def test_a_usb_place_is_reset(threads: ThreadPoolExecutor) -> None:
    link = Link()
    await mender(threads, link, "usb:1-2.4")(Rung.RESET_USB)
    assert link.scripts == ["reset 1-2.4"]


@pytest.mark.parametrize("outcome", [ShellResult(0, "", ""), LinkLost("gone")])
async def test_a_reboot_may_take_its_link_away(
    threads: ThreadPoolExecutor, outcome: ShellResult | Exception
) -> None:
    link = Link()
    link.reboot = outcome
    await mender(threads, link)(Rung.REBOOT)
    assert link.closed == 1


async def test_a_reboot_that_is_refused_is_an_error(threads: ThreadPoolExecutor) -> None:
    link = Link()
    link.reboot = ShellResult(1, "", "not permitted")
    with pytest.raises(DeviceError, match="not permitted"):
        await mender(threads, link)(Rung.REBOOT)
