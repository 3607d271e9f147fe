"""What a phone says of itself, and links that are given up before they are open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.errors import DeviceError
from mobifarm.controller.host import connection
from mobifarm.controller.host.connection import Connector, Phone
from mobifarm.controller.provisioning.install import Installed

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize(
    ("properties", "execution"),
    [
        ({}, "phone"),
        ({"ro.boot.mobifarm.emulator": "qemu"}, "phone"),
        ({"ro.boot.mobifarm.virtual": "1"}, "virtual"),
        ({"ro.boot.mobifarm.virtual": "1", "ro.product.cpu.abi": "arm64-v8a"}, "virtual"),
        (
            {
                "ro.boot.mobifarm.virtual": "1",
                "ro.boot.mobifarm.emulator": "qemu",
                "ro.product.cpu.abi": "arm64-v8a",
            },
            "qemu_arm64",
        ),
    ],
)
def test_the_kind_of_machine(properties: dict[str, str], execution: str) -> None:
    provisioned: Any = mock.Mock(properties=properties)
    phone = Phone(mock.Mock(), provisioned, mock.Mock(), mock.Mock(), mock.Mock())
    assert phone.execution == execution


class Link:
    """A link that opens when it is allowed to, and ends whatever waits for it when it is closed."""

    def __init__(self) -> None:
        self.allowed = threading.Event()
        self.closed = threading.Event()
        self.closed_by: threading.Thread | None = None

    def shell(self, command: str, timeout_s: float) -> Any:
        return mock.Mock(stdout="SERIAL\n", exit_code=0)

    def close(self) -> None:
        self.closed_by = threading.current_thread()
        self.closed.set()


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    made = Link()

    def connect_direct(address: str, on_authorisation: Any, **_: Any) -> Link:
        on_authorisation()
        made.allowed.wait()
        return made

    monkeypatch.setattr(connection, "connect_direct", connect_direct)
    return made


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


async def connect_until(stage: DeviceState, threads: ThreadPoolExecutor) -> asyncio.Task[Phone]:
    reached = asyncio.Event()

    def note(now: DeviceState) -> None:
        if now is stage:
            reached.set()

    connector = Connector(Path("key"), Path("scratch"), threads)
    connecting = asyncio.create_task(connector("tcp:x:1", note, lambda what, done, total: None))
    await reached.wait()
    return connecting


async def test_a_link_that_opens_after_its_phone_was_forgotten_is_closed(
    link: Link, threads: ThreadPoolExecutor
) -> None:
    connecting = await connect_until(DeviceState.AWAITING_AUTHORISATION, threads)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert not link.closed.is_set()
    link.allowed.set()
    threads.shutdown()
    assert link.closed.is_set()


async def test_forgetting_a_phone_ends_its_provisioning_and_blocks_nobody(
    link: Link, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def provision(transport: Link, **_: Any) -> Any:
        transport.closed.wait()
        raise DeviceError("the link was closed")

    monkeypatch.setattr(connection, "provision", provision)
    link.allowed.set()
    connecting = await connect_until(DeviceState.PROVISIONING, threads)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    threads.shutdown()
    assert link.closed_by not in (None, threading.current_thread())


async def test_one_phone_at_two_places_is_provisioned_by_one_at_a_time(
    link: Link, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, entered, leave = threading.Semaphore(1), threading.Event(), threading.Event()
    met: list[bool] = []

    def provision(transport: Link, **_: Any) -> Any:
        met.append(inside.acquire(blocking=False))
        entered.set()
        leave.wait(20)
        inside.release()
        raise DeviceError("enough")

    monkeypatch.setattr(connection, "provision", provision)
    link.allowed.set()
    connector = Connector(Path("key"), Path("scratch"), threads)
    connecting = [
        asyncio.create_task(connector(place, lambda stage: None, lambda what, done, total: None))
        for place in ("usb:1-1", "tcp:x:1")
    ]
    assert await asyncio.to_thread(entered.wait, 20)
    leave.set()
    ended = await asyncio.gather(*connecting, return_exceptions=True)
    assert [str(error) for error in ended] == ["enough", "enough"]
    assert met == [True, True]


async def test_the_progress_of_a_push_comes_on_the_loop_and_before_its_end(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install_bundle(transport: Any, home: str, folder: Path, bundle_hash: str, progress: Any) -> Installed:
        progress(1, 2)
        progress(2, 2)
        return Installed(2, 0, ("cd" * 32,))

    def install_compiled(*_arguments: Any) -> Installed:
        return Installed(2, 0, ("ef" * 32,))

    monkeypatch.setattr(connection, "install_bundle", install_bundle)
    monkeypatch.setattr(connection, "install_compiled", install_compiled)
    monkeypatch.setattr(connection, "compiled_graphs", lambda *arguments: Path("graphs"))
    told: list[tuple[int, int, threading.Thread]] = []
    provisioned: Any = mock.Mock(properties={})
    phone = Phone(mock.Mock(), provisioned, mock.Mock(), mock.Mock(), threads)
    removed = await phone.push_bundle(
        Path("folder"), "ab" * 32, lambda done, total: told.append((done, total, threading.current_thread()))
    )
    here = threading.current_thread()
    assert told == [(1, 2, here), (2, 2, here)]
    assert removed == ("cd" * 32, "ef" * 32)
