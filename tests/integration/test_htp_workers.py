"""The workers that own a neural processor, in Python and in C++: both answer alike."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mobifarm.agent.accelerator import WORKER_SOCKET
from mobifarm.agent.backends import BackendError, protocol
from mobifarm.agent.backends.protocol import Closed, Message, ProtocolError
from mobifarm.agent.backends.snapdragon import CHIPS
from mobifarm.agent.backends.worker import SocketLink, SpawnedLink, WorkerBackend

DEADLINE_S = 120.0
CHIP = "SM8650"
ROOT = Path(__file__).parents[2]
HTP_WORKER = ROOT / "agent" / "htp_worker"


def model_of(operator: str, shape: tuple[int, ...], outputs: tuple[int, ...], inputs: int = 2) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"] * inputs, ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, outputs)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


DOUBLING = model_of("Add", (2,), (2,))
ANY_LENGTH = model_of("Add", ("n",), ("n",))  # type: ignore[arg-type]  # a name for a size


@pytest.fixture
def link(worker_command: list[str], tmp_path: Path) -> Iterator[SpawnedLink]:
    made = SpawnedLink([*worker_command, "--soc", "cpu"], tmp_path / "w.sock")
    yield made
    made.close()


def call(connection: socket.socket, fields: dict[str, object], **arrays: np.ndarray) -> Message:
    protocol.send(connection, Message(fields, arrays))
    return protocol.receive(connection)


def test_graphs_run_and_what_is_not_known_is_refused(link: SpawnedLink) -> None:
    backend = WorkerBackend(link)
    assert backend.accelerator == "cpu"
    backend.load("doubling", DOUBLING)
    found = backend.run("doubling", {"x": np.array([1, 2.5], np.float32)})
    assert found["y"].tolist() == [2, 5]
    assert found["y"].dtype == np.float32
    for feeds, says in (
        ({}, "missing"),
        ({"z": np.ones(2, np.float32)}, "missing"),
        ({"x": np.ones(2, np.int64)}, "doubling failed: .*int64"),
        ({"x": np.ones(3, np.float32)}, "doubling failed: .*dimensions"),
    ):
        with pytest.raises(BackendError, match=says):
            backend.run("doubling", feeds)
    with pytest.raises(BackendError, match="no graph 'other'"):
        backend.run("other", {})
    with pytest.raises(BackendError, match="broken cannot be opened"):
        backend.load("broken", b"no model")
    backend.load("doubling", ANY_LENGTH)
    assert backend.run("doubling", {"x": np.ones(0, np.float32)})["y"].shape == (0,)
    placement = backend.placement()
    assert (placement.operators, placement.on_accelerator, placement.estimated_cycles) == (0, 0, None)
    assert backend.restarts == 0
    backend.close()


def test_a_worker_that_died_is_started_again_with_its_graphs(link: SpawnedLink) -> None:
    backend = WorkerBackend(link)
    backend.load("doubling", DOUBLING)
    first = link.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert backend.run("doubling", {"x": np.ones(2, np.float32)})["y"].tolist() == [2, 2]
    assert backend.restarts == 1
    assert link.pid != first
    backend.close()
    assert link.pid is None


def test_the_socket_is_its_users_alone_and_agents_come_one_by_one(
    worker_command: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / ("deep" * 30)  # longer than the name of a socket may be
    folder.mkdir()
    place = folder / "w.sock"
    place.write_text("left by another")
    link = SpawnedLink([*worker_command, "--soc", "cpu"], place)
    try:
        with link.connect(DEADLINE_S) as first, SocketLink(place).connect(DEADLINE_S) as second:
            assert call(first, {"call": "hello"}).fields == {"version": 1, "accelerator": "cpu"}
            assert stat.S_IMODE(place.stat().st_mode) == 0o600
            protocol.send(second, Message({"call": "hello"}))
            second.settimeout(0)
            with pytest.raises(BlockingIOError):
                second.recv(1)
            first.close()
            second.settimeout(DEADLINE_S)
            assert protocol.receive(second).fields["version"] == 1
    finally:
        link.close()


def test_it_is_reached_however_long_the_way_to_its_socket_is(
    worker_command: list[str], tmp_path: Path
) -> None:
    folder = tmp_path.joinpath(*["phone"] * 40)
    folder.mkdir(parents=True)
    backend = WorkerBackend(SpawnedLink([*worker_command, "--soc", "cpu"], folder / "w.sock"))
    assert backend.accelerator == "cpu"
    backend.close()


def test_errors_are_short_and_arrays_lie_anywhere(link: SpawnedLink) -> None:
    name = "ö" * 100_000
    with link.connect(DEADLINE_S) as connection:
        connection.settimeout(DEADLINE_S)
        for fields in (
            {"call": "run", "graph": name},
            {"call": name},
            {"call": {"a": [name]}},
            {},
            {"call": "load", "graph": "g"},
        ):
            error = call(connection, fields).fields["error"]
            assert 0 < len(error) <= 500
        assert call(connection, {"call": 7}).fields["error"] == "the call '7' is not understood"
        assert call(connection, {"call": "load", "graph": name}, model=np.ones(9, np.uint8)).fields["error"]
        model = np.frombuffer(DOUBLING, np.uint8)
        assert (
            call(connection, {"call": "load", "graph": "g"}, odd=np.ones(3, np.uint8), model=model).fields
            == {}
        )
        answer = call(connection, {"call": "run", "graph": "g"}, x=np.ones(2, np.float32))
        assert answer.arrays["y"].tolist() == [2, 2]
        # An output that has a name: one input too many is refused or ignored, but never read as another.
        answer = call(
            connection, {"call": "run", "graph": "g"}, odd=np.ones(3, np.uint8), x=np.ones(2, np.float32)
        )
        assert "error" in answer.fields or answer.arrays["y"].tolist() == [2, 2]


def test_a_worker_forgets_the_graphs_of_an_agent_that_hung_up(link: SpawnedLink, tmp_path: Path) -> None:
    asked = {"graph": "g"}
    with link.connect(DEADLINE_S) as first:
        first.settimeout(DEADLINE_S)
        assert call(first, {"call": "load", **asked}, model=np.frombuffer(DOUBLING, np.uint8)).fields == {}
        assert call(first, {"call": "run", **asked}, x=np.ones(2, np.float32)).arrays["y"].tolist() == [2, 2]
    with SocketLink(tmp_path / "w.sock").connect(DEADLINE_S) as second:
        second.settimeout(DEADLINE_S)
        error = call(second, {"call": "run", **asked}, x=np.ones(2, np.float32)).fields["error"]
        assert error == "no graph 'g' is loaded"
        assert call(second, {"call": "load", **asked}, model=np.frombuffer(DOUBLING, np.uint8)).fields == {}
        assert call(second, {"call": "run", **asked}, x=np.ones(2, np.float32)).arrays["y"].tolist() == [2, 2]


class Running(NamedTuple):
    place: Path
    pid: int


@pytest.fixture(scope="module")
def running(worker_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("worker") / "w.sock"
    link = SpawnedLink([*worker_command, "--soc", "cpu"], place)
    link.connect(DEADLINE_S).close()
    assert link.pid is not None
    yield Running(place, link.pid)
    link.close()


def answered(running: Running, sent: bytes) -> bool:
    """Whether the worker answers, or hangs up."""
    with SocketLink(running.place).connect(DEADLINE_S) as connection:
        connection.settimeout(DEADLINE_S)
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            return bool(connection.recv(1))
        except (BrokenPipeError, ConnectionResetError):
            return False


def understood(sent: bytes) -> bool:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(sent)
        left.shutdown(socket.SHUT_WR)
        try:
            protocol.receive(right)
        except (Closed, ProtocolError):
            return False
        return True


BYTES = {"float32": 4, "int32": 4, "int64": 8, "uint8": 1}
SIZES = st.one_of(st.integers(-1, 4), st.sampled_from([2**31, 2**62, 2**63, 2**64, 2**70, -(2**63)]))
NAMES = st.text(max_size=3)
GOOD = st.lists(
    st.tuples(NAMES, st.sampled_from(sorted(BYTES)), st.lists(st.integers(0, 3), max_size=3)), max_size=3
)
BAD = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from([*BYTES, "object", "float16", "|u1"]),
        st.one_of(st.lists(SIZES, max_size=4), st.sampled_from([[1] * 64, [1] * 65, [0, 2**31], [0, 2**62]])),
    ),
    min_size=1,
    max_size=3,
)
HEADERS = st.sampled_from(
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xff{}",
        b'{"arrays": []} x',
        b'{"arrays": [["x"]]}',
        b'{"arrays": [["x", "float32", [Infinity]]]}',
        b'{"arrays": ' + b"[" * 100_000,
    ]
)


def headed(header: bytes, length: int) -> bytes:
    return struct.pack("<IQ", len(header), length) + header + bytes(length)


def described(arrays: list[tuple[str, str, list[int]]], more: int) -> bytes:
    length = sum(BYTES.get(kind, 1) * math.prod(shape) for _, kind, shape in arrays) + more
    return headed(json.dumps({"arrays": arrays}).encode(), length if 0 <= length < 1 << 16 else 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.one_of(
        st.builds(described, GOOD, st.just(0)),
        st.builds(described, GOOD, st.sampled_from([-1, 1, 8])),
        st.builds(described, GOOD, st.just(0)).map(lambda sent: sent[:-1]),
        st.builds(described, BAD, st.just(0)),
        st.builds(headed, HEADERS, st.just(0)),
    )
)
def test_what_is_no_message_is_answered_by_hanging_up(running: Running, sent: bytes) -> None:
    assert answered(running, sent) is understood(sent)


def test_a_call_that_is_nested_deeply_ends_no_worker(running: Running) -> None:
    for depth in (400, 500_000):
        answered(running, headed(b'{"arrays": [], "call": ' + b"[" * depth + b"]" * depth + b"}", 0))
        assert answered(running, headed(b'{"arrays": [], "call": "hello"}', 0))


@pytest.mark.parametrize("lengths", [(1 << 30, 0), (2, 1 << 40), ((1 << 20) + 1, 0), (14, (1 << 31) + 1)])
def test_too_long_a_message_is_not_waited_for(running: Running, lengths: tuple[int, int]) -> None:
    assert not answered(running, struct.pack("<IQ", *lengths))


def test_memory_is_taken_as_bytes_arrive(running: Running) -> None:
    def peak_kib() -> int:
        found = re.search(r"VmPeak:\s+(\d+) kB", Path(f"/proc/{running.pid}/status").read_text())
        assert found
        return int(found[1])

    before = peak_kib()
    header = b'{"call": "load", "graph": "g", "arrays": [["model", "uint8", [2147483648]]]}'
    # The promise of 2 GB and one of them in a thousand.
    assert not answered(running, struct.pack("<IQ", len(header), 1 << 31) + header + bytes(2 << 20))
    assert peak_kib() - before < 100_000


def test_it_ends_with_the_process_that_started_it(worker_command: list[str], tmp_path: Path) -> None:
    command = [*worker_command, "--soc", "cpu", "--socket", str(tmp_path / "new" / "w.sock")]
    with subprocess.Popen(
        [*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--soc", "SDM845"], "no HTP is known for 'SDM845': give one of SM8350, .*SM8850, or cpu"),
        (["--soc", "cpu", "--socket", "/proc/nothing/here/w.sock"], "nothing"),
        ([], "usage"),
        (["--sock", "cpu", "--wrong"], "usage"),
    ],
)
def test_a_wrong_start_is_told_in_a_sentence(
    worker_command: list[str], tmp_path: Path, options: list[str], says: str
) -> None:
    place = [] if "--socket" in options else ["--socket", str(tmp_path / "w.sock")]
    done = subprocess.run(
        [*worker_command, *place, *options], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 2
    assert re.search(says, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_chips_are_the_same_in_both() -> None:
    table = (HTP_WORKER / "src" / "snapdragon.h").read_text()
    found = {model: int(number) for model, number in re.findall(r'\{"(\w+)", (\d+)\}', table)}
    assert found == {chip.model: chip.soc_id for chip in CHIPS.values()}


def test_as_on_a_phone_it_is_found_at_an_abstract_socket(
    cpp_worker: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder that scripts/build_android_worker.sh makes.
    gathered = tmp_path / "gathered"
    gathered.mkdir()
    shutil.copy(HTP_WORKER / "start.sh", gathered)
    (gathered / "mobifarm-htp-worker").symlink_to(cpp_worker[-1])
    home = tmp_path / "mobifarm"
    monkeypatch.setenv("MOBIFARM_HOME", str(home))
    place = home / WORKER_SOCKET
    assert not SocketLink(place).listens()
    with subprocess.Popen(["sh", gathered / "start.sh", "--soc", "cpu"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            assert SocketLink(place).listens()
            backend = WorkerBackend(SocketLink(place))
            backend.load("doubling", DOUBLING)
            assert backend.run("doubling", {"x": np.ones(2, np.float32)})["y"].tolist() == [2, 2]
            backend.close()
        finally:
            process.kill()
    assert not SocketLink(place).listens()
    assert not home.exists()


def test_a_program_of_another_user_is_not_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / WORKER_SOCKET
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{place}")
        listener.listen(2)
        assert SocketLink(place).listens()
        monkeypatch.setattr(os, "geteuid", lambda: 2000)
        assert not SocketLink(place).listens()


def test_without_the_ndk_the_build_says_what_to_do(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANDROID_")}
    for more, says in (
        ({}, "the Android NDK is missing: install release 27 or later and set ANDROID_NDK_HOME"),
        ({"ANDROID_NDK_HOME": str(tmp_path)}, f"{tmp_path} is no Android NDK"),
    ):
        done = subprocess.run(
            [ROOT / "scripts/build_android_worker.sh", tmp_path / "out"],
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 2
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_graph_runs_on_the_emulated_htp_as_a_whole_or_not_at_all(
    worker_command: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's HTP emulator: pip install mobifarm[htp]")
    link = SpawnedLink([*worker_command, "--soc", CHIP], tmp_path / "w.sock")
    profiles = tmp_path / "w.sock.profiles"
    try:
        link.connect(DEADLINE_S).close()
        backend = WorkerBackend(SocketLink(tmp_path / "w.sock"), connect_deadline_s=DEADLINE_S)
        assert backend.accelerator == "htp_emulator"
        with pytest.raises(BackendError, match="SM8650 does not take the graph det: "):
            backend.load("det", model_of("Det", (1, 2, 2), (1,), 1))
        for _ in range(2):  # loaded again, it counts once
            backend.load("../doubling", DOUBLING)
            for _ in range(3):
                found = backend.run("../doubling", {"x": np.array([1, 2.5], np.float32)})
                np.testing.assert_allclose(found["y"], [2, 5], rtol=1e-3)  # 16-bit floats
        placement = backend.placement()
        # The addition, its input and its output.
        assert (placement.operators, placement.on_accelerator, placement.share) == (3, 3, 1)
        assert placement.estimated_cycles is not None
        assert placement.estimated_cycles > 0
        # Profiles do not grow with each run.
        assert sum(file.stat().st_size for file in profiles.iterdir()) < 1 << 16
        kept = {file.name for file in profiles.iterdir() if file.is_symlink()}
        assert len(kept) == 4
        backend.close()
        # The next agent's graphs are counted alone.
        backend = WorkerBackend(SocketLink(tmp_path / "w.sock"), connect_deadline_s=DEADLINE_S)
        assert backend.placement().operators == 0
        backend.load("another", DOUBLING)
        backend.run("another", {"x": np.array([1, 2.5], np.float32)})
        assert backend.placement().operators == 3
        backend.close()
    finally:
        link.close()
