"""Who may connect to a virtual phone on TCP."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess

import pytest

from mobifarm.simulator.tcp_port import TcpPort

DEADLINE_S = 60.0
# bash, since other users may not be allowed to run this interpreter.
CONNECT = 'exec 3<>/dev/tcp/127.0.0.1/"$0" && head -c 1 <&3 | wc -c'


async def greeted(port: TcpPort, user: int | None = None) -> int:
    """How many bytes a program of that user gets from the port, of one that is sent to all who connect."""
    number = port.address.rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", CONNECT, number, stdout=subprocess.PIPE, user=user, cwd="/"
    )
    printed, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return int(printed)


def greet(connection: socket.socket) -> None:
    with connection:
        connection.send(b"x")


async def test_this_user_may() -> None:
    port = TcpPort(0, greet)
    port.open()
    assert await greeted(port) == 1
    port.close()


async def test_others_may_not() -> None:
    port = TcpPort(0, greet, users=frozenset({os.getuid() + 1}))
    port.open()
    assert await greeted(port) == 0
    port.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a program of another user")
async def test_nobody_may_not() -> None:
    port = TcpPort(0, greet)
    port.open()
    assert await greeted(port, user=65534) == 0
    port.close()
