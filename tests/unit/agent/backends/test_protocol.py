"""The protocol between agent and worker, and a worker that dies, hangs or talks nonsense.

Another worker passes the tests with ``WORKER`` in its place: they only speak the protocol.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from mobifarm.agent.backends import BackendError, protocol
from mobifarm.agent.backends.protocol import Closed, Message, ProtocolError
from mobifarm.agent.backends.worker import SocketLink, SpawnedLink, WorkerBackend

WORKER = (sys.executable, "-m", "mobifarm.agent.backends.serve", "--soc", "cpu")


def doubling_model() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubling",
        [value("x", TensorProto.FLOAT, (2,))],
        [value("y", TensorProto.FLOAT, (2,))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def link(tmp_path: Path) -> Iterator[SpawnedLink]:
    made = SpawnedLink(WORKER, tmp_path / "w.sock")
    yield made
    made.close()


ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    hnp.arrays(
        st.sampled_from(["float32", "int32", "int64", "uint8"]), hnp.array_shapes(min_dims=0, min_side=0)
    ),
    max_size=3,
)


@given(arrays=ARRAYS, graph=st.text(max_size=8))
def test_a_message_arrives_as_it_was_sent(arrays: dict[str, Any], graph: str) -> None:
    left, right = socket.socketpair()
    with left, right:
        protocol.send(left, Message({"graph": graph}, arrays))
        found = protocol.receive(right)
    assert found.fields == {"graph": graph}
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()


def headed(header: bytes) -> bytes:
    return struct.pack("<IQ", len(header), 0) + header


@pytest.mark.parametrize(
    "sent",
    [
        b"\0" * 5,
        struct.pack("<IQ", 2, 0) + b"{}",
        struct.pack("<IQ", 4, 0) + b"\xff\xff{}",
        struct.pack("<IQ", 1 << 30, 0),
        struct.pack("<IQ", 35, 0) + b'{"arrays": [["x", "float32", [3]]]}',
        struct.pack("<IQ", 35, 9) + b'{"arrays": [["x", "object_", [0]]]}' + b"\0" * 9,
        struct.pack("<IQ", 14, 4) + b'{"arrays": []}' + b"\0" * 4,
        headed(b'{"arrays": [["x", "float32", [Infinity]]]}'),
        headed(b'{"arrays": [["x", "float32", [0, %d]]]}' % (2**70)),
        headed(b'{"arrays": [["x", "uint8", [0' + b", 1" * 70 + b"]]]}"),
    ],
)
def test_nonsense_is_refused(sent: bytes) -> None:
    left, right = socket.socketpair()
    with right:
        left.sendall(sent)
        left.close()
        with pytest.raises(ProtocolError):
            protocol.receive(right)


def test_the_end_is_told_from_nonsense() -> None:
    left, right = socket.socketpair()
    left.close()
    with right, pytest.raises(Closed):
        protocol.receive(right)


def test_a_worker_runs_graphs_and_refuses_what_it_does_not_know(link: SpawnedLink) -> None:
    backend = WorkerBackend(link)
    assert backend.accelerator == "cpu"
    backend.load("doubling", doubling_model())
    found = backend.run("doubling", {"x": np.array([1, 2.5], np.float32)})
    assert found["y"].tolist() == [2, 5]
    with pytest.raises(BackendError, match="no graph 'other'"):
        backend.run("other", {})
    with pytest.raises(BackendError, match="cannot be opened"):
        backend.load("broken", b"no model")
    assert backend.placement().on_accelerator == 0
    assert backend.restarts == 0
    backend.close()


def test_a_worker_that_died_is_started_again_with_its_graphs(link: SpawnedLink) -> None:
    backend = WorkerBackend(link)
    backend.load("doubling", doubling_model())
    first = link.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert backend.run("doubling", {"x": np.ones(2, np.float32)})["y"].tolist() == [2, 2]
    assert backend.restarts == 1
    assert link.pid != first
    backend.close()
    assert link.pid is None


def serve_once(place: Path, answer: Callable[[socket.socket], None], times: int) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen(4)

    def run() -> None:
        with listener:
            for _ in range(times):
                connection, _ = listener.accept()
                with connection:
                    protocol.receive(connection)
                    hello = {"version": protocol.VERSION, "accelerator": "htp_emulator"}
                    protocol.send(connection, Message(hello))
                    answer(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def _read_until_it_ends(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def test_a_worker_that_hangs_is_given_up_after_the_second_deadline(tmp_path: Path) -> None:
    place = tmp_path / "w.sock"
    thread = serve_once(place, _read_until_it_ends, times=2)
    backend = WorkerBackend(SocketLink(place), call_deadline_s=0.2, connect_deadline_s=30)
    with pytest.raises(BackendError, match="failed twice"):
        backend.run("layers", {})
    thread.join(30)
    assert not thread.is_alive()


def test_a_worker_that_talks_nonsense_is_given_up(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        protocol.receive(connection)
        connection.sendall(b"nonsense" * 4)

    place = tmp_path / "w.sock"
    serve_once(place, answer, times=2)
    backend = WorkerBackend(SocketLink(place), connect_deadline_s=30)
    with pytest.raises(BackendError, match="failed twice"):
        backend.run("layers", {})


def test_a_worker_of_another_release_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "w.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen(1)

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            protocol.receive(connection)
            protocol.send(connection, Message({"version": 99, "accelerator": "x"}))

    thread = threading.Thread(target=answer)
    thread.start()
    with listener, pytest.raises(BackendError, match="version 99"):
        WorkerBackend(SocketLink(place), connect_deadline_s=30)
    thread.join(30)


def test_a_worker_is_reached_however_long_the_way_to_its_socket_is(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["phone"] * 40)
    folder.mkdir(parents=True)
    backend = WorkerBackend(SpawnedLink(WORKER, folder / "w.sock"))
    assert backend.accelerator == "cpu"
    backend.close()


def test_no_worker_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="does not answer"):
        WorkerBackend(SocketLink(tmp_path / "nothing.sock"), connect_deadline_s=0)
