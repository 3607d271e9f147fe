"""The direct transport against a virtual phone: real processes, real ADB, loopback only."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.errors import AuthorisationRequired, DeviceError, HostError, LinkLost
from mobifarm.controller.transport.direct import DirectTransport, connect_direct
from mobifarm.controller.transport.interface import DeviceTransport
from mobifarm.controller.transport.usb import list_usb, refuse_foreign_adb_server
from mobifarm.simulator.virtual_phones import VirtualPhones

WAIT_S = 60.0
FOLDER = "/data/local/tmp"

EchoOn = Callable[[DeviceTransport], AbstractContextManager[int]]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def test_it_is_a_device_transport(link: DirectTransport, phones: VirtualPhones) -> None:
    transport: DeviceTransport = link
    assert transport.address == phones.phones[0].address
    assert link.banner_properties["ro.product.model"] == "Pixel 8"


def test_shell_tells_exit_code_and_both_outputs(link: DirectTransport) -> None:
    result = link.shell("echo out; echo err >&2; exit 42")
    assert (result.exit_code, result.stdout, result.stderr) == (42, "out\n", "err\n")


def test_shell_passes_large_output_whole(link: DirectTransport) -> None:
    lines = link.shell("seq 1 200000").stdout.splitlines()
    assert lines == [str(number) for number in range(1, 200_001)]


def test_a_command_that_reads_its_input_finds_the_end(link: DirectTransport) -> None:
    assert link.shell("cat; echo done", timeout_s=WAIT_S).stdout == "done\n"


def test_a_command_that_takes_too_long_harms_no_other(link: DirectTransport) -> None:
    with pytest.raises(DeviceError, match=r"`sleep 100` did not end within 0\.5 s"):
        link.shell("sleep 100", timeout_s=0.5)
    assert link.shell("echo alive").stdout == "alive\n"


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 262_144, 3_000_001])
def test_files_come_back_as_they_went(link: DirectTransport, size: int) -> None:
    content = os.urandom(size)
    target = f"{FOLDER}/a file, with a comma {size}"
    link.push_bytes(content, target, mode=0o640)
    assert link.pull_bytes(target) == content
    # Android's adbd gives group and others what the owner has.
    assert link.shell(f"stat -c '%a %s' '{target}'").stdout == f"666 {size}\n"


def test_pushing_a_file_of_the_host(link: DirectTransport, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1_000_000))
    os.utime(source, (1_700_000_000, 1_700_000_000))
    link.push(source, f"{FOLDER}/new/folder/target")
    assert link.pull_bytes(f"{FOLDER}/new/folder/target") == source.read_bytes()
    assert link.shell(f"stat -c %Y {FOLDER}/new/folder/target").stdout == "1700000000\n"


def test_what_the_phone_refuses_is_said(link: DirectTransport) -> None:
    with pytest.raises(DeviceError, match="could not read /data/local/tmp/nothing"):
        link.pull_bytes(f"{FOLDER}/nothing")
    with pytest.raises(DeviceError, match="could not write /data/local/tmp"):
        link.push_bytes(b"x", FOLDER)
    with pytest.raises(DeviceError, match="refused to open localabstract:nobody"):
        link.open_stream("localabstract:nobody")


def test_slow_and_quick_commands_and_a_push_at_once(link: DirectTransport, pool: ThreadPoolExecutor) -> None:
    content = os.urandom(1 << 20) * 20
    slow = [pool.submit(link.shell, f"sleep 1; echo slow {number}", WAIT_S) for number in range(5)]
    push = pool.submit(link.push_bytes, content, f"{FOLDER}/big", 0o644, WAIT_S)

    def run_quick(worker: int) -> list[str]:
        return [link.shell(f"echo {worker} {number}", WAIT_S).stdout for number in range(20)]

    quick = [pool.submit(run_quick, worker) for worker in range(4)]
    for worker, done in enumerate(quick):
        assert done.result(WAIT_S) == [f"{worker} {number}\n" for number in range(20)]
    push.result(WAIT_S)
    assert [done.result(WAIT_S).stdout for done in slow] == [f"slow {number}\n" for number in range(5)]
    assert link.pull_bytes(f"{FOLDER}/big") == content


@pytest.fixture
def echo_port(link: DirectTransport, echo_on: EchoOn) -> Iterator[int]:
    with echo_on(link) as port:
        yield port


def receive_exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(1 << 16)
        assert piece, f"the connection ended after {len(data)} of {size} bytes"
        data += piece
    return data


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(WAIT_S)
    client.connect(str(path))
    return client


def test_a_raw_stream(link: DirectTransport, echo_port: int) -> None:
    stream = link.open_stream(f"tcp:{echo_port}")
    stream.write(b"ping", WAIT_S)
    assert stream.read(WAIT_S) == b"ping"
    stream.close()
    assert stream.read(WAIT_S) == b""


def test_a_forward_is_private_and_carries_many_connections(
    link: DirectTransport, echo_port: int, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    path = tmp_path / "sockets" / "echo.sock"
    forward = link.forward(f"tcp:{echo_port}", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def use(index: int) -> bool:
        content = os.urandom(500_000) + bytes([index])
        with connect(forward.path) as client:
            sender = threading.Thread(target=client.sendall, args=(content,))
            sender.start()
            echoed = receive_exactly(client, len(content))
            sender.join(WAIT_S)
        return echoed == content

    assert all(pool.map(use, range(6), timeout=WAIT_S))
    forward.close()
    forward.close()
    assert not path.exists()


def test_a_half_closed_client_still_receives(link: DirectTransport, echo_port: int, tmp_path: Path) -> None:
    forward = link.forward(f"tcp:{echo_port}", tmp_path / "private" / "echo.sock")
    content = os.urandom(2_000_000)
    with connect(forward.path) as client:
        sender = threading.Thread(target=lambda: (client.sendall(content), client.shutdown(socket.SHUT_WR)))
        sender.start()
        assert receive_exactly(client, len(content)) == content
        sender.join(WAIT_S)
    forward.close()


def test_a_client_of_a_refused_forward_sees_the_end(link: DirectTransport, tmp_path: Path) -> None:
    forward = link.forward("localabstract:nobody", tmp_path / "private" / "nobody.sock")
    with connect(forward.path) as client:
        assert client.recv(1) == b""
    forward.close()


def test_closing_a_forward_ends_its_connections(
    link: DirectTransport, echo_port: int, tmp_path: Path
) -> None:
    forward = link.forward(f"tcp:{echo_port}", tmp_path / "private" / "echo.sock")
    with connect(forward.path) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        forward.close()
        assert client.recv(1) == b""


def test_a_stale_socket_is_replaced_but_no_open_directory_used(link: DirectTransport, tmp_path: Path) -> None:
    path = tmp_path / "private" / "a.sock"
    link.forward("tcp:1", path).close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    link.forward("tcp:1", path).close()
    path.parent.chmod(0o755)
    with pytest.raises(HostError, match="chmod 700"):
        link.forward("tcp:1", path)
    with pytest.raises(HostError, match="longer than 107 bytes"):
        link.forward("tcp:1", tmp_path / ("x" * 120))


@pytest.mark.parametrize("event", ["unplug", "power_off"])
def test_a_pulled_cable_wakes_everybody(
    phones: VirtualPhones, key_path: Path, tmp_path: Path, pool: ThreadPoolExecutor, event: str
) -> None:
    control = phones.control()
    address = phones.phones[0].address
    link = connect_direct(address, key_path=key_path)
    forward = link.forward("tcp:1", tmp_path / "private" / "a.sock")
    stream = link._mux.open("shell,v2,raw:echo ready; sleep 1000", 10)
    assert b"ready" in stream.read(WAIT_S)
    waiting: list[Future[Any]] = [
        pool.submit(stream.read),
        pool.submit(link.shell, "sleep 1000", 1000.0),
        pool.submit(link.push_bytes, bytes(1 << 20) * 200, f"{FOLDER}/never"),
    ]
    ending = pool.submit(link.wait_closed, WAIT_S)
    getattr(control, event)()
    assert ending.result(WAIT_S)
    assert link.loss_reason.startswith(f"{address}: ")
    for future in waiting:
        with pytest.raises(LinkLost, match=address):
            future.result(WAIT_S)
    with pytest.raises(LinkLost):
        link.shell("true")
    with pytest.raises(DeviceError, match="no phone answers"):
        connect_direct(address, key_path=key_path)
    forward.close()
    link.close()
    getattr(control, {"unplug": "plug", "power_off": "power_on"}[event])()
    again = connect_direct(address, key_path=key_path)
    assert again.shell("echo back").stdout == "back\n"
    again.close()


def test_a_hung_phone_costs_a_deadline_not_the_farm(link: DirectTransport, phones: VirtualPhones) -> None:
    control = phones.control()
    control.hang()
    try:
        with pytest.raises(DeviceError, match="no answer to opening shell"):
            link.shell("true", timeout_s=0.5)
        assert not link.wait_closed(0)
    finally:
        control.resume()
    assert link.shell("echo back", timeout_s=WAIT_S).stdout == "back\n"


def await_status(control: Any, accepted: Callable[[dict[str, Any]], bool]) -> None:
    """Ask the phone until it says so; each question is a round trip."""
    for _ in range(100_000):
        if accepted(control.status()):
            return
    raise AssertionError(f"the phone stays at {control.status()}")


def test_a_person_accepts_the_key_once(key_path: Path, pool: ThreadPoolExecutor) -> None:
    with VirtualPhones(1, authorisation="ask") as phones:
        address, control = phones.phones[0].address, phones.control()
        asked = threading.Event()
        connecting = pool.submit(connect_direct, address, key_path=key_path, on_authorisation=asked.set)
        assert asked.wait(WAIT_S)
        await_status(control, lambda status: bool(status["pending_keys"]))
        control.authorise()
        connecting.result(WAIT_S).close()

        asked.clear()
        connect_direct(address, key_path=key_path, on_authorisation=asked.set).close()
        assert not asked.is_set()


def test_nobody_accepts_the_key(key_path: Path) -> None:
    with VirtualPhones(1, authorisation="deny") as phones:
        address = phones.phones[0].address
        with pytest.raises(AuthorisationRequired, match=f"{address} does not trust this farm's ADB key yet"):
            connect_direct(address, key_path=key_path, authorisation_timeout_s=0.5)


def test_something_that_is_no_phone(key_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
                while client.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DeviceError, match="not an ADB packet"):
            connect_direct(f"tcp:127.0.0.1:{port}", key_path=key_path)
        thread.join(WAIT_S)


def test_a_foreign_adb_server_is_named_and_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(HostError, match=f"an adb server answers on 127.0.0.1:{port}"):
            refuse_foreign_adb_server(port)
    refuse_foreign_adb_server(port)


def test_the_usb_bus_can_be_listed_anywhere() -> None:
    scan = list_usb()
    assert scan.phones == () or scan.unavailable_reason == ""
