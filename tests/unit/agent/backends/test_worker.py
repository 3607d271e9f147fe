"""The agent's side of a worker, with a worker in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from mobifarm.agent.backends import BackendError, protocol
from mobifarm.agent.backends.protocol import Message
from mobifarm.agent.backends.worker import WorkerBackend


class Workers:
    """A link to one worker after the other: each says hello, takes graphs but those called ``refused``, and
    hangs up when asked to run."""

    def __init__(self, *accelerators: str) -> None:
        self._accelerators = iter(accelerators)
        self.asked: list[str] = []

    def connect(self, within_s: float) -> socket.socket:
        near, far = socket.socketpair()
        threading.Thread(target=self._work, args=(far, next(self._accelerators)), daemon=True).start()
        return near

    def _work(self, connection: socket.socket, accelerator: str) -> None:
        with connection, contextlib.suppress(protocol.Closed):
            while (fields := protocol.receive(connection).fields)["call"] != "run":
                self.asked.append(fields.get("graph", "hello"))
                answer = {"version": protocol.VERSION, "accelerator": accelerator}
                if fields.get("graph") == "refused":
                    answer = {"error": "made by another version"}
                protocol.send(connection, Message(answer))

    def close(self) -> None:
        pass


@pytest.fixture
def backend(workers: Workers) -> Iterator[WorkerBackend]:
    made = WorkerBackend(workers)
    yield made
    made.close()


@pytest.fixture
def workers() -> Workers:
    return Workers("htp_hardware", "htp_hardware")


def test_a_worker_for_another_accelerator_does_not_take_the_place_of_one() -> None:
    with contextlib.closing(WorkerBackend(Workers("htp_hardware", "cpu"))) as backend:
        with pytest.raises(BackendError, match="cpu, where the one before ran on htp_hardware"):
            backend.run("layers", {})
        assert backend.accelerator == "htp_hardware"


def test_a_worker_for_the_same_one_is_counted(backend: WorkerBackend) -> None:
    with pytest.raises(BackendError, match="failed twice"):
        backend.run("layers", {})
    assert backend.restarts == 1


def test_a_graph_that_was_refused_is_not_loaded_again(workers: Workers, backend: WorkerBackend) -> None:
    backend.load("layers", b"a graph")
    with pytest.raises(BackendError, match="made by another version"):
        backend.load("refused", b"a graph")
    workers.asked.clear()
    with pytest.raises(BackendError, match="failed twice"):
        backend.run("layers", {})
    assert workers.asked == ["hello", "layers"]
