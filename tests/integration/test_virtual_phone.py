"""The virtual phone against Debian's adb client and its own switches: real processes, loopback only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobifarm.simulator.adbd import packets
from mobifarm.simulator.control import PhoneControl, PhoneRecord
from mobifarm.simulator.launcher import running_phones
from mobifarm.simulator.phone import PhoneError
from mobifarm.simulator.sandbox import SandboxUnavailableError, find_bubblewrap
from mobifarm.simulator.virtual_phones import VirtualPhones

TIMEOUT_S = 60
HOST_PROGRAM = Path(shutil.which("true") or "/bin/true").resolve()

needs_adb = pytest.mark.adb
needs_sandbox = pytest.mark.sandbox
SANDBOXED = pytest.param("sandboxed", marks=needs_sandbox)
in_the_sandbox = pytest.mark.parametrize("phones", [SANDBOXED], indirect=True)


def require_sandbox() -> None:
    try:
        find_bubblewrap()
    except SandboxUnavailableError as error:
        pytest.skip(str(error))


class Adb:
    """Debian's client with a server of its own, so that a user's server is never touched."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ADB_")}
        # Not even look at the ports of emulators.
        self._environment = {**inherited, "HOME": str(home), "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554"}

    def raw(self, *arguments: str | Path, text_in: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["adb", "-P", str(self._port), *arguments],
            env=self._environment,
            input=text_in,
            stdin=subprocess.DEVNULL if text_in is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["adb", "-P", str(self._port), *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def connect(self, phone: PhoneRecord) -> AdbPhone:
        address = phone.address.removeprefix("tcp:")
        self.raw("connect", address)
        connected = AdbPhone(self, address, phone)
        assert self.raw("-s", address, "wait-for-device").returncode == 0
        return connected

    def close(self) -> None:
        self.raw("kill-server")


class AdbPhone:
    """A connected phone."""

    def __init__(self, adb: Adb, address: str, record: PhoneRecord) -> None:
        self.adb = adb
        self.address = address
        self.record = record

    def run(self, *arguments: str | Path, text_in: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.adb.raw("-s", self.address, *arguments, text_in=text_in)

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        return self.run("shell", command)

    def output(self, command: str) -> str:
        done = self.shell(command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def temporary(self) -> str:
        """Android's folder for shell users, as the phone names it."""
        return self.output("echo ${ANDROID_DATA:-/data}/local/tmp")

    def replug(self) -> None:
        """Connect again after a pulled cable."""
        self.adb.raw("disconnect", self.address)
        self.adb.connect(self.record)


@pytest.fixture(scope="module")
def adb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adb]:
    if shutil.which("adb") is None:
        pytest.skip("Debian's adb client is not installed")
    client = Adb(tmp_path_factory.mktemp("adb-home"))
    yield client
    client.close()


@pytest.fixture(scope="module", params=[SANDBOXED, "unsandboxed"])
def phones(request: pytest.FixtureRequest) -> Iterator[VirtualPhones]:
    """One phone of each kind."""
    if request.param == "sandboxed":
        require_sandbox()
    with VirtualPhones(3, unsandboxed=request.param == "unsandboxed") as running:
        yield running


@pytest.fixture
def phone(adb: Adb, phones: VirtualPhones) -> Iterator[AdbPhone]:
    """The first phone, plugged in and connected, whatever happened to it before."""
    phones.control(0).power_on()
    phones.control(0).resume()
    phones.control(0).plug()
    connected = adb.connect(phones.phones[0])
    yield connected
    connected.run("forward", "--remove-all")
    adb.raw("disconnect", connected.address)


# -- Debian's adb --------------------------------


@needs_adb
def test_shell_gives_exit_code_output_and_errors_apart(phone: AdbPhone) -> None:
    done = phone.shell("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert phone.shell("kill -9 $$").returncode == 137


@needs_adb
def test_shell_reads_its_input_to_the_end(phone: AdbPhone) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    done = phone.run("shell", "cat", text_in=text)
    assert done.stdout == text


@needs_adb
def test_terminal_is_a_terminal(phone: AdbPhone) -> None:
    assert phone.run("shell", "-tt", "[ -t 0 ] && [ -t 1 ] && echo yes").stdout.strip() == "yes"
    assert phone.run("shell", "-T", "[ -t 0 ] || echo no").stdout.strip() == "no"


@needs_adb
def test_exec_out_is_binary(phone: AdbPhone) -> None:
    assert phone.run("exec-out", "printf 'a\\r\\nb\\n'").stdout == "a\nb\n"  # text mode joins \r\n
    assert phone.run("exec-out", "printf 'a\\r\\nb\\n' | wc -c").stdout.strip() == "5"


@needs_adb
@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 20_000_000])
def test_push_and_pull_give_the_same_bytes(phone: AdbPhone, tmp_path: Path, size: int) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(random.Random(size).randbytes(size))
    source.chmod(0o751)
    target = f"{phone.temporary}/new folder/pushed"
    pushed = phone.run("push", source, target)
    assert pushed.returncode == 0, pushed.stderr
    digest, mode = phone.output(f"sha256sum < '{target}' | cut -c1-64; stat -c %a '{target}'").split()
    assert digest == hashlib.sha256(source.read_bytes()).hexdigest()
    assert mode == "777"  # adbd gives everyone what the owner has
    assert phone.run("pull", target, copy).returncode == 0
    assert copy.read_bytes() == source.read_bytes()


@needs_adb
def test_whole_folders_travel(phone: AdbPhone, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "below").mkdir(parents=True)
    (source / "a").write_text("A")
    (source / "below" / "ü b").write_text("B")
    target = phone.temporary
    assert phone.run("push", source, target).returncode == 0
    assert phone.run("pull", f"{target}/tree", tmp_path / "back").returncode == 0
    assert (tmp_path / "back" / "below" / "ü b").read_text() == "B"
    assert "below" in phone.run("ls", f"{target}/tree").stdout


@needs_adb
def test_failed_transfers_say_why(phone: AdbPhone, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(300_000))
    refused = phone.run("push", tmp_path / "file", "/proc/nothing/here")
    assert refused.returncode != 0
    assert "No such file" in refused.stdout + refused.stderr
    missing = phone.run("pull", f"{phone.temporary}/no such file", tmp_path / "x")
    assert missing.returncode != 0
    assert phone.output("echo alive") == "alive"


@needs_adb
def test_many_shells_at_once(phone: AdbPhone) -> None:
    done: dict[int, str] = {}

    def work(number: int) -> None:
        done[number] = phone.output(f"echo {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == {number: str(number) for number in range(12)}


ECHO = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1].replace("@", chr(0)))
listener.listen()
if os.fork():
    os._exit(0)
os.setsid()
for descriptor in (0, 1, 2):
    os.close(descriptor)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
"""


def start_echo(phone: AdbPhone, name: str) -> None:
    """Run an echo server on the phone; it listens when this returns."""
    if phone.record.sandboxed:
        adbd = "/apex/com.mobifarm.adbd"
        python = f"{adbd}/lib64/ld-linux* --library-path {adbd}/lib64 {adbd}/bin/python3"
    else:
        python = sys.executable
    done = phone.run("shell", f"{python} -I -S -c '{ECHO}' {name}")
    assert done.returncode == 0, done.stderr


@needs_adb
@pytest.mark.parametrize("kind", ["localabstract", "localfilesystem"])
def test_forward_reaches_a_socket_on_the_phone(phone: AdbPhone, kind: str) -> None:
    name = f"echo-{os.getpid()}-{phone.record.sandboxed}"
    if kind == "localfilesystem":
        name = f"{phone.temporary}/{name}"
    start_echo(phone, f"@{name}" if kind == "localabstract" else name)
    forwarded = phone.run("forward", "tcp:0", f"{kind}:{name}")
    data = random.Random(1).randbytes(5_000_000)
    received = bytearray()
    with socket.create_connection(("127.0.0.1", int(forwarded.stdout)), timeout=TIMEOUT_S) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        while len(received) < len(data):
            part = connection.recv(1 << 20)
            assert part, "the phone closed the stream"
            received += part
        sender.join()
    assert received == data


@needs_adb
def test_forward_to_nothing_is_closed(phone: AdbPhone) -> None:
    forwarded = phone.run("forward", "tcp:0", "localabstract:nobody-listens-here")
    place = ("127.0.0.1", int(forwarded.stdout))
    with (
        contextlib.suppress(ConnectionResetError),
        socket.create_connection(place, timeout=TIMEOUT_S) as connection,
    ):
        assert connection.recv(1) == b""


@needs_adb
def test_properties_and_services_are_the_phones(adb: Adb, phones: VirtualPhones) -> None:
    for record in phones.phones:
        phone = adb.connect(record)
        assert phone.output("getprop ro.serialno") == record.serial
        assert phone.output("getprop ro.boot.mobifarm.virtual") == "1"
        assert "Current Battery Service state" in phone.output("dumpsys battery")
        adb.raw("disconnect", phone.address)
    assert len({record.serial for record in phones.phones}) == 3


# -- sensors --------------------------------


@needs_adb
def test_work_on_the_phone_shows_in_its_energy_meter(phone: AdbPhone) -> None:
    sys_folder = "${MOBIFARM_SYS_ROOT-}/sys"
    node = f"{sys_folder}/bus/iio/devices/iio:device0/energy_value"
    read = f"sed -n 's/^CH0.*, //p' {node}"
    before = int(phone.output(read))
    # The loop itself is the work; it ends when the meter has counted half a joule of it.
    work = "i=0; while [ $i -lt 99999 ]; do i=$((i+1)); done"
    loop = f"while [ $({read}) -lt {before + 500_000} ]; do {work}; done"
    assert phone.shell(loop).returncode == 0
    assert int(phone.output(read)) >= before + 500_000
    assert int(phone.output(f"cat {sys_folder}/class/thermal/thermal_zone0/temp")) > 23_000


# -- sandbox --------------------------------


@needs_adb
@in_the_sandbox
def test_nothing_of_the_host_is_visible(phone: AdbPhone) -> None:
    names = set(phone.output("ls -A /").split())
    assert names == {"apex", "bin", "data", "dev", "etc", "proc", "sys", "system"}
    assert phone.output("ls -A /system").split() == ["bin", "build.prop", "etc", "lib64"]
    assert phone.shell("touch /x /system/x /sys/x").returncode != 0
    visible = phone.output("env")
    assert "LD_" not in visible
    assert str(Path.home()) not in visible


@needs_adb
@in_the_sandbox
def test_shell_is_user_2000_with_own_processes_and_network(phone: AdbPhone) -> None:
    assert phone.output("id -u; grep -c ^Uid:.2000 /proc/self/status").split() == ["2000", "1"]
    assert phone.output("grep CapEff /proc/self/status").split()[1].strip("0") == ""
    assert phone.output("readlink /proc/self/ns/net") != os.readlink("/proc/self/ns/net")
    interfaces = phone.output("cat /proc/net/dev").splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    pids = [int(pid) for pid in phone.output("ls /proc").split() if pid.isdecimal()]
    assert len(pids) < 10


@needs_adb
@in_the_sandbox
def test_program_of_the_host_finds_no_loader(phone: AdbPhone) -> None:
    target = "/data/local/tmp/host-program"
    assert phone.run("push", HOST_PROGRAM, target).returncode == 0
    assert phone.output(f"chmod 755 {target}; ls {target}") == target
    done = phone.shell(target)
    assert done.returncode in (126, 127)
    assert "No such file" in done.stderr


@needs_adb
@in_the_sandbox
def test_denied_sensor_gives_eacces(phone: AdbPhone) -> None:
    done = phone.shell("cat /sys/class/power_supply/battery/cycle_count")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr


# -- the cable and the power switch --------------------------------


def start_detached(phone: AdbPhone) -> str:
    """A process that should outlive the cable; its identifier on the phone."""
    return phone.output("setsid nohup sleep 1000 </dev/null >/dev/null 2>&1 & echo $!")


@needs_adb
def test_detached_process_survives_a_pulled_cable_and_others_do_not(
    phone: AdbPhone, phones: VirtualPhones
) -> None:
    control = phones.control(0)
    detached = start_detached(phone)
    with phone.adb.start("-s", phone.address, "shell", "echo $$; exec sleep 1000") as attached:
        assert attached.stdout is not None
        attached_pid = attached.stdout.readline().strip()
        control.unplug()
        attached.wait(TIMEOUT_S)
    status = control.status()
    assert (status["powered"], status["plugged"], status["links"]) == (True, False, 0)
    host, port = phone.address.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S)

    control.plug()
    phone.replug()
    phone.output(f"while kill -0 {attached_pid} 2>/dev/null; do :; done")
    phone.output(f"kill -0 {detached}; kill {detached}")


@needs_adb
def test_power_off_ends_everything_and_keeps_the_files(phone: AdbPhone, phones: VirtualPhones) -> None:
    control = phones.control(0)
    start_detached(phone)
    temporary = phone.temporary
    phone.output(f"echo kept > {temporary}/file")
    adbd = control.status()["adbd_pid"]
    descriptor = os.pidfd_open(adbd)
    control.power_off()
    assert select.select([descriptor], [], [], TIMEOUT_S)[0]
    os.close(descriptor)
    assert control.status()["powered"] is False
    with pytest.raises(PhoneError, match="powered off"):
        control.hang()

    control.power_on()
    assert control.status()["address"] == phone.record.address
    phone.replug()
    assert phone.output(f"cat {temporary}/file") == "kept"
    if phone.record.sandboxed:
        assert "sleep" not in phone.output("ps -A -o NAME")


@needs_adb
def test_hung_phone_is_stopped_and_goes_on_where_it_was(phone: AdbPhone, phones: VirtualPhones) -> None:
    control = phones.control(0)
    control.hang()
    status = control.status()
    assert status["hung"]
    state = Path(f"/proc/{status['adbd_pid']}/stat").read_text().rsplit(")", 1)[1].split()[0]
    assert state == "T"
    with phone.adb.start("-s", phone.address, "shell", "echo answered") as waiting:
        control.resume()
        output, _ = waiting.communicate(timeout=TIMEOUT_S)
    assert output == "answered\n"


def test_unplug_and_hang_need_no_host(phones: VirtualPhones) -> None:
    control = phones.control(1)
    for command in ("unplug", "unplug", "plug", "plug", "hang", "resume", "resume", "power_off", "power_off"):
        control.request(command)
    control.request("power_on")
    status = control.status()
    assert (status["powered"], status["plugged"], status["hung"]) == (True, True, False)
    with pytest.raises(PhoneError, match="unknown command"):
        control.request("self_destruct")


# -- authorisation --------------------------------


@needs_adb
def test_phone_that_asks_waits_for_its_screen(tmp_path: Path, adb: Adb) -> None:
    with VirtualPhones(1, unsandboxed=True, home=tmp_path, authorisation="ask") as running:
        address = running.phones[0].address.removeprefix("tcp:")
        adb.raw("connect", address)
        assert "unauthorized" in adb.raw("-s", address, "shell", "id").stderr
        running.control().authorise()
        phone = adb.connect(running.phones[0])
        assert phone.output("echo in") == "in"
        adb.raw("disconnect", address)
    # The key is remembered, as on a phone.
    with VirtualPhones(1, unsandboxed=True, home=tmp_path, authorisation="deny") as running:
        assert adb.connect(running.phones[0]).output("echo known") == "known"


@needs_adb
def test_phone_that_denies_stays_shut(adb: Adb) -> None:
    with VirtualPhones(1, unsandboxed=True, authorisation="deny") as running:
        address = running.phones[0].address.removeprefix("tcp:")
        adb.raw("connect", address)
        assert "unauthorized" in adb.raw("-s", address, "shell", "id").stderr
        adb.raw("disconnect", address)


# -- robustness --------------------------------


def send_and_drain(address: str, data: bytes) -> None:
    """Say ``data`` to the phone and read until it has nothing more to say."""
    host, port = address.removeprefix("tcp:").split(":")
    with (
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection,
    ):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


CONNECT = packets.encode(
    packets.Packet(packets.CNXN, packets.VERSION, 4096, b"host::\0"), with_checksum=False
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2000), connected=st.booleans())
def test_garbage_never_ends_adbd(phones: VirtualPhones, data: bytes, connected: bool) -> None:
    before = phones.control(0).status()["adbd_pid"]
    send_and_drain(phones.phones[0].address, (CONNECT if connected else b"") + data)
    status = phones.control(0).status()
    assert (status["powered"], status["adbd_pid"]) == (True, before)


def ends(pid: int) -> Callable[[], bool]:
    """A question that waits for the end of a process."""
    descriptor = os.pidfd_open(pid)

    def ask() -> bool:
        ended = bool(select.select([descriptor], [], [], TIMEOUT_S)[0])
        os.close(descriptor)
        return ended

    return ask


@needs_adb
@pytest.mark.parametrize("unsandboxed", [pytest.param(False, marks=needs_sandbox), True])
@pytest.mark.parametrize("hung", [False, True])
def test_nothing_outlives_a_killed_launcher(adb: Adb, unsandboxed: bool, hung: bool) -> None:
    if not unsandboxed:
        require_sandbox()
    with VirtualPhones(1, unsandboxed=unsandboxed) as running:
        record = running.phones[0]
        phone = adb.connect(record)
        adbd = running.control().status()["adbd_pid"]
        waits = [ends(adbd)]
        if unsandboxed:
            waits.append(ends(int(start_detached(phone))))
        adb.raw("disconnect", phone.address)
        if hung:
            running.control().hang()
        os.kill(record.pid, signal.SIGKILL)
        assert all(wait() for wait in waits)


def test_registry_lists_running_phones_only(tmp_path: Path) -> None:
    with VirtualPhones(2, unsandboxed=True, home=tmp_path) as running:
        assert sorted(running_phones(tmp_path), key=lambda record: record.name) == sorted(
            running.phones, key=lambda record: record.name
        )
        control = Path(running.phones[0].control)
        assert control.stat().st_mode & 0o777 == 0o600
        with (
            pytest.raises(PhoneError, match="already runs"),
            VirtualPhones(1, home=tmp_path, unsandboxed=True),
        ):
            pass
    assert running_phones(tmp_path) == []
    with pytest.raises(PhoneError, match="is it running"):
        PhoneControl(control).status()
    assert (tmp_path / "pixel-8" / "data" / "local" / "tmp").is_dir()


# -- the command line --------------------------------


def simulate(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mobifarm.simulator.cli", *arguments, "--home", str(home)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def test_switches_from_the_command_line(tmp_path: Path) -> None:
    with VirtualPhones(1, unsandboxed=True, home=tmp_path) as running:
        listed = simulate(tmp_path, "list", "--json")
        assert [PhoneRecord(**record) for record in json.loads(listed.stdout)] == running.phones
        unplugged = simulate(tmp_path, "ctl", "pixel-8", "unplug")
        assert json.loads(unplugged.stdout)["plugged"] is False
        assert json.loads(simulate(tmp_path, "ctl", "pixel-8", "power-off").stdout)["powered"] is False
        failed = simulate(tmp_path, "ctl", "pixel-8", "hang")
        assert (failed.returncode, failed.stderr) == (
            2,
            "error: pixel-8 is powered off; use power-on first\n",
        )
    gone = simulate(tmp_path, "ctl", "pixel-8", "status")
    assert gone.returncode == 2
    assert "no phone called 'pixel-8' runs" in gone.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_the_foreground_run(tmp_path: Path, number: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "mobifarm.simulator.cli",
        "run",
        "--unsandboxed",
        "--home",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline().startswith("pixel-8  VP")
        (record,) = running_phones(tmp_path)
        wait = ends(PhoneControl(record.control).status()["adbd_pid"])
        launcher.send_signal(number)
        _, errors = launcher.communicate(timeout=TIMEOUT_S)
        assert wait()
    assert launcher.returncode == 0
    assert "Traceback" not in errors


def test_taken_port_is_said_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(PhoneError, match=f"cannot listen on 127.0.0.1:{port}"),
            VirtualPhones(1, unsandboxed=True, home=tmp_path, port=port),
        ):
            pass


@needs_adb
def test_without_bubblewrap_toybox_and_mksh_the_hosts_commands_serve(
    adb: Adb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "sleep"):
        (folder / name).symlink_to(str(shutil.which(name)))
    with monkeypatch.context() as without:
        without.setenv("PATH", str(folder))
        running = VirtualPhones(1, home=tmp_path / "home")
        running.__enter__()
    try:
        log = (running.home / "launcher.log").read_text()
        assert "no sandbox: bubblewrap is not installed" in log
        assert "toybox and mksh not found" in log
        assert running.phones[0].sandboxed is False
        phone = adb.connect(running.phones[0])
        assert phone.output("cat $ANDROID_ROOT/build.prop | while read line; do echo $line; done")
        assert phone.output("getprop ro.product.model") == "Pixel 8"
        adb.raw("disconnect", phone.address)
    finally:
        running.stop()
