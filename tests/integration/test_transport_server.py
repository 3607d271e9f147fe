"""Server mode against a real adb server and a virtual phone. The server is the test's own, on a free port."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.discovery.adb_server import AdbServerWatcher
from mobifarm.controller.errors import AuthorisationRequired, DeviceError, HostError, LinkLost
from mobifarm.controller.transport.adb_server import AdbServer, ServedPhone
from mobifarm.controller.transport.interface import DeviceTransport
from mobifarm.controller.transport.server import ServerTransport, connect_server
from mobifarm.controller.transport.usb import refuse_foreign_adb_server
from mobifarm.simulator.virtual_phones import VirtualPhones

pytest.importorskip("adbutils", reason="adbutils is not installed (extra adb-server)")
pytestmark = pytest.mark.adb

WAIT_S = 60.0
LOOKS = 200  # each waits for news for up to a second
FOLDER = "/data/local/tmp"


class RunningServer(AdbServer):
    """Debian's adb server, started and ended by the test that owns it."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        super().__init__("127.0.0.1", self.port)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ADB_")}
        self._environment = {**inherited, "HOME": str(home), "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554"}

    def adb(self, *arguments: str) -> None:
        command = ["adb", "-P", str(self.port), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S, env=self._environment)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    if shutil.which("adb") is None:
        pytest.skip("Debian's adb is not installed")
    running = RunningServer(tmp_path)
    running.adb("start-server")
    yield running
    running.adb("kill-server")


@pytest.fixture
def link(server: RunningServer, phones: VirtualPhones) -> Iterator[ServerTransport]:
    transport = connect_server(phones.phones[0].address, server)
    yield transport
    transport.close()


def test_shell_files_and_streams(link: ServerTransport, phones: VirtualPhones, tmp_path: Path) -> None:
    transport: DeviceTransport = link
    assert transport.address == phones.phones[0].address
    result = transport.shell("echo out; echo err >&2; exit 42")
    assert (result.exit_code, result.stdout, result.stderr) == (42, "out\n", "err\n")
    assert transport.shell("cat; echo done", timeout_s=WAIT_S).stdout == "done\n"
    content = os.urandom(3_000_001)
    source = tmp_path / "source"
    source.write_bytes(content)
    transport.push(source, f"{FOLDER}/a folder/file")
    assert transport.pull_bytes(f"{FOLDER}/a folder/file") == content
    with pytest.raises(DeviceError, match="could not read"):
        transport.pull_bytes(f"{FOLDER}/nothing")
    with pytest.raises(DeviceError, match="the adb server says"):
        transport.open_stream("localabstract:nobody")
    with pytest.raises(DeviceError, match=r"did not end within 0\.5 s"):
        transport.shell("sleep 100", timeout_s=0.5)


def test_a_forward_carries_what_is_sent(
    link: ServerTransport,
    tmp_path: Path,
    echo_on: Callable[[DeviceTransport], AbstractContextManager[int]],
) -> None:
    with echo_on(link) as port:
        forward = link.forward(f"tcp:{port}", tmp_path / "sockets" / "echo.sock")
        content = os.urandom(2_000_000)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(WAIT_S)
            client.connect(str(forward.path))
            sender = threading.Thread(target=client.sendall, args=(content,))
            sender.start()
            received = bytearray()
            while len(received) < len(content):
                received += client.recv(1 << 16)
            sender.join(WAIT_S)
        assert received == content
        forward.close()


def test_a_pulled_cable_wakes_everybody_and_the_phone_comes_back(
    server: RunningServer, phones: VirtualPhones
) -> None:
    address, control = phones.phones[0].address, phones.control()
    link = connect_server(address, server)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(link.shell, "sleep 1000", 1000.0)
        ending = pool.submit(link.wait_closed, WAIT_S)
        control.unplug()
        assert ending.result(WAIT_S)
        with pytest.raises(DeviceError):
            waiting.result(WAIT_S)
    assert link.loss_reason == f"{address}: the adb server lost the phone"
    with pytest.raises(DeviceError, match="lost the phone"):
        link.shell("true")
    with pytest.raises((DeviceError, LinkLost)):
        connect_server(address, server)
    control.plug()
    again = connect_server(address, server)
    assert again.shell("echo back").stdout == "back\n"
    again.close()
    again.close()


def test_a_phone_that_the_server_no_longer_has_leaves_no_connection_open(server: RunningServer) -> None:
    gone = ServedPhone("tcp:127.0.0.1:9", "127.0.0.1:9", "device", transport_id=2**31 - 1)
    with pytest.raises(DeviceError, match="the adb server says"):
        server.open(gone, "shell:true", WAIT_S)
    gc.collect()  # a connection that is left open warns now, which is an error


def test_nobody_accepted_the_servers_key(server: RunningServer) -> None:
    with VirtualPhones(1, authorisation="ask") as asking:
        address, control = asking.phones[0].address, asking.control()
        with pytest.raises(AuthorisationRequired, match="does not trust the adb server's key"):
            connect_server(address, server)
        control.authorise()
        watcher = AdbServerWatcher(server)
        until(watcher, lambda phones: "device" in {phone.state for phone in server.phones()})
        watcher.close()
        connect_server(address, server).close()


def until(watcher: AdbServerWatcher, holds: Any) -> Any:
    for _ in range(LOOKS):
        phones = watcher.scan().phones
        if holds(phones):
            return phones
        watcher.wait(1.0)
    raise AssertionError(f"the server still shows {phones}")


def test_the_watcher_sees_phones_of_one_serial_come_and_go(server: RunningServer) -> None:
    watcher = AdbServerWatcher(server)
    with VirtualPhones(2, serial="SAME") as twins:
        first, second = (phone.address for phone in twins.phones)
        assert watcher.scan().phones == {}
        for address in (first, second):
            server.connect(address.removeprefix("tcp:"))
        both = until(watcher, lambda phones: len(phones) == 2)
        assert set(both) == {first, second}
        links = [connect_server(address, server) for address in (first, second)]
        links[0].push_bytes(b"first", f"{FOLDER}/who")
        links[1].push_bytes(b"second", f"{FOLDER}/who")
        assert [link.pull_bytes(f"{FOLDER}/who") for link in links] == [b"first", b"second"]
        assert {link.shell("getprop ro.serialno").stdout for link in links} == {"SAME\n"}
        twins.control(0).unplug()
        until(watcher, lambda phones: set(phones) == {second})
        for link in links:
            link.close()
    watcher.close()


def test_a_server_that_ends_is_trouble_with_an_action(server: RunningServer, phones: VirtualPhones) -> None:
    watcher = AdbServerWatcher(server)
    connect_server(phones.phones[0].address, server).close()
    until(watcher, lambda phones: len(phones) == 1)
    server.adb("kill-server")
    until(watcher, lambda phones: phones is None)
    scan = watcher.scan()
    assert scan.trouble is not None
    assert scan.trouble.reason == f"no adb server answers at 127.0.0.1:{server.port}"
    assert "adb start-server" in scan.trouble.action
    with pytest.raises(HostError, match="no adb server answers"):
        connect_server(phones.phones[0].address, server)
    server.adb("start-server")  # ours to start: MobiFarm itself starts none
    until(watcher, lambda phones: watcher.scan().trouble is None)
    watcher.close()


def test_direct_mode_says_which_process_holds_the_bus(server: RunningServer) -> None:
    with pytest.raises(HostError, match=r"an adb server \(pid \d+\) answers") as refused:
        refuse_foreign_adb_server(server.port)
    assert "adb kill-server" in refused.value.action
    assert "--adb-server" in refused.value.action
    server.phones()  # and it goes on
