"""The start of a farm: what it ends with where it cannot begin."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from concurrent.futures import Future
from typing import Any

import pytest

from mobifarm.controller.core.due import LeaseSettings
from mobifarm.controller.core.policies import policy_named
from mobifarm.controller.errors import HostError, UserError
from mobifarm.controller.farm import serve
from mobifarm.controller.farm.farm import Farm


class FullStore:
    epoch = 1

    def load(self) -> list[Any]:
        return []

    def append_records(self, records: object) -> Future[None]:
        failed: Future[None] = Future()
        failed.set_exception(HostError("the farm's store cannot be written (disk is full): check the disk"))
        return failed


class NoHost:
    name = "here"

    async def begin(self) -> None: ...

    async def close(self) -> None: ...


async def test_a_farm_that_cannot_write_its_first_event_ends_and_says_why() -> None:
    farm = Farm(
        store=FullStore(),  # type: ignore[arg-type]
        host=NoHost(),  # type: ignore[arg-type]
        policy=policy_named("fifo"),
        settings=LeaseSettings(),
        clock=time.time,
        identifier=lambda kind: kind,
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody asks")

    loop = asyncio.get_running_loop()
    told: list[bool] = []
    with serve._listen("127.0.0.1", 0, "--port") as listener:
        try:
            async with asyncio.timeout(60):
                with pytest.raises(HostError, match="disk is full"):
                    await serve._run(
                        farm,
                        NoHost(),  # type: ignore[arg-type]
                        None,  # type: ignore[arg-type]
                        [(serve._server(app), listener)],
                        [],
                        lambda: told.append(True),
                    )
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
    assert not told


def test_a_port_belongs_to_one_farm_from_the_first_moment() -> None:
    with serve._listen("127.0.0.1", 0, "--port") as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be used"):
            serve._listen("127.0.0.1", port, "--port")
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass
