"""One virtual phone for a module of tests, and links to it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mobifarm.controller.transport.direct import DirectTransport, connect_direct
from mobifarm.controller.transport.interface import DeviceTransport
from mobifarm.simulator.virtual_phones import VirtualPhones

FOLDER = "/data/local/tmp"


@pytest.fixture(scope="module")
def key_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("farm") / "adbkey"


@pytest.fixture(scope="module")
def phones() -> Iterator[VirtualPhones]:
    with VirtualPhones(1) as running:
        yield running


@pytest.fixture
def link(phones: VirtualPhones, key_path: Path) -> Iterator[DirectTransport]:
    transport = connect_direct(phones.phones[0].address, key_path=key_path)
    yield transport
    transport.close()


@pytest.fixture(scope="session")
def echo_on() -> Callable[[DeviceTransport], contextlib.AbstractContextManager[int]]:
    """A port of the phone on which each connection gets back what it sends."""

    @contextlib.contextmanager
    def echo(link: DeviceTransport) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            # Free on this host too, whose ports an unsandboxed phone shares.
            port = probe.getsockname()[1]
        script = (
            f"cd {FOLDER}; setsid nohup nc -s 127.0.0.1 -p {port} -L cat </dev/null >nc.log 2>&1 & echo $!; "
            f"count=0; until grep -q ' 0100007F:{port:04X} 00000000:0000 0A ' /proc/net/tcp; do "
            "sleep 0.1; count=$((count + 1)); [ $count -lt 100 ] || exit 1; done"
        )
        started = link.shell(script)
        assert started.exit_code == 0, started
        yield port
        link.shell(f"kill {started.stdout.strip()}")

    return echo
