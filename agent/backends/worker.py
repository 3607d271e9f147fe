"""A Backend in another process: the agent's side of ``protocol``.

Every call has a deadline. Where the worker dies, hangs or talks nonsense it is started (or called) again,
gets its graphs again and the call once more; where that fails too, the backend gives up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.backends import protocol
from mobifarm.agent.backends.interface import Arrays, BackendError, Placement
from mobifarm.agent.backends.protocol import Message

# An emulator takes minutes for what a chip does in milliseconds.
CALL_DEADLINE_S = 600.0
CONNECT_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 5.0
_PROBE_DEADLINE_S = 5.0
_POLL_PERIOD_S = 0.05
_CREDENTIALS = struct.Struct("3i")  # of the kernel: pid, uid, gid
_log = logging.getLogger(__name__)


class Link(Protocol):
    """A way to a worker."""

    def connect(self, within_s: float) -> socket.socket:
        """A fresh connection, to a fresh worker where the old one is broken. Raises OSError."""

    def close(self) -> None:
        """Stop what was started."""


class SocketLink:
    """To a worker that somebody else starts: at the unix socket ``path``, or at the abstract one of that
    name, as Android's policy lets no program make sockets in the folders that an agent may use."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def listens(self) -> bool:
        """Whether there is a worker."""
        with contextlib.suppress(OSError), _dial(self._path, _PROBE_DEADLINE_S):
            return True
        return False

    def connect(self, within_s: float) -> socket.socket:
        """See Link."""
        return _connect(self._path, within_s, lambda: True)

    def close(self) -> None:
        """See Link."""


class SpawnedLink:
    """To a worker of one's own: ``command`` followed by ``--socket PATH``."""

    def __init__(self, command: Sequence[str], path: Path) -> None:
        self._command, self._path = list(command), path
        self._process: subprocess.Popen[bytes] | None = None

    def connect(self, within_s: float) -> socket.socket:
        """See Link."""
        self.close()
        self._path.unlink(missing_ok=True)
        # The worker ends when its input does, so that it never outlives the agent.
        process = self._process = subprocess.Popen(
            [*self._command, "--socket", str(self._path), "--until-stdin-closes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )
        return _connect(self._path, within_s, lambda: process.poll() is None)

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None where none was started."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """See Link."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class WorkerBackend:
    """A Backend at the other end of a link.

    Args:
        link: the way there.
        call_deadline_s: for one call.
        connect_deadline_s: for the worker to start and say hello.

    Raises:
        BackendError: there is no worker of this protocol.
    """

    def __init__(
        self,
        link: Link,
        *,
        call_deadline_s: float = CALL_DEADLINE_S,
        connect_deadline_s: float = CONNECT_DEADLINE_S,
    ) -> None:
        self._link, self._deadline_s, self._connect_s = link, call_deadline_s, connect_deadline_s
        self._connection: socket.socket | None = None
        self._graphs: dict[str, NDArray[np.uint8]] = {}
        self.accelerator = ""
        self.restarts = 0
        try:
            self._open()
        except (OSError, protocol.ProtocolError, protocol.Closed) as error:
            self.close()
            raise BackendError(f"the accelerator's worker does not answer ({_said(error)})") from error
        except BackendError:
            self.close()
            raise

    def load(self, graph: str, model: bytes) -> None:
        """See Backend."""
        array = np.frombuffer(model, np.uint8)
        self._call(Message({"call": "load", "graph": graph}, {"model": array}))
        # Only now: a graph that is refused would be refused again at every reconnection.
        self._graphs[graph] = array

    def run(self, graph: str, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """See Backend."""
        return dict(self._call(Message({"call": "run", "graph": graph}, feeds)).arrays)

    def placement(self) -> Placement:
        """See Backend."""
        fields = self._call(Message({"call": "placement"})).fields
        try:
            cycles = fields["estimated_cycles"]
            return Placement(
                operators=int(fields["operators"]),
                on_accelerator=int(fields["on_accelerator"]),
                estimated_cycles=None if cycles is None else int(cycles),
                proof=str(fields["proof"])[:200],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BackendError("the accelerator's worker does not tell where its graphs ran") from error

    def close(self) -> None:
        """See Backend."""
        self._hang_up()
        self._link.close()

    def _open(self) -> None:
        self._connection = self._link.connect(self._connect_s)
        hello = self._exchange(Message({"call": "hello"}), self._connect_s).fields
        if hello.get("version") != protocol.VERSION:
            raise BackendError(
                f"the accelerator's worker speaks version {hello.get('version')!r} of the protocol, "
                f"the agent version {protocol.VERSION}: install workers and agent of one release"
            )
        accelerator = str(hello.get("accelerator"))[:40]
        if self.restarts and accelerator != self.accelerator:
            raise BackendError(
                f"the accelerator's worker now runs on {accelerator}, where the one before ran on "
                f"{self.accelerator}: start the agent anew to use it"
            )
        self.accelerator = accelerator
        for graph, model in self._graphs.items():
            self._exchange(Message({"call": "load", "graph": graph}, {"model": model}), self._deadline_s)

    def _call(self, message: Message) -> Message:
        try:
            return self._exchange(message, self._deadline_s)
        except (OSError, protocol.ProtocolError, protocol.Closed) as error:
            _log.warning("the accelerator's worker failed (%s): it is started again", _said(error))
        self.restarts += 1
        self._hang_up()
        try:
            self._open()
            return self._exchange(message, self._deadline_s)
        except (OSError, protocol.ProtocolError, protocol.Closed) as error:
            self._hang_up()
            raise BackendError(f"the accelerator's worker failed twice in a call ({_said(error)})") from error

    def _exchange(self, message: Message, within_s: float) -> Message:
        if self._connection is None:
            raise ConnectionError("not connected")
        until = time.monotonic() + within_s
        protocol.send(self._connection, message, until)
        answer = protocol.receive(self._connection, until)
        if "error" in answer.fields:
            raise BackendError(str(answer.fields["error"])[:500])
        return answer

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _connect(path: Path, within_s: float, alive: Any) -> socket.socket:
    deadline = time.monotonic() + within_s
    while True:
        try:
            return _dial(path, within_s)
        except OSError:
            if time.monotonic() > deadline or not alive():
                raise
        with contextlib.suppress(InterruptedError):
            time.sleep(_POLL_PERIOD_S)


def _dial(path: Path, within_s: float) -> socket.socket:
    try:
        return _reach(path, within_s)
    except OSError as error:
        try:
            connection = _connected(f"\0{path.absolute()}", within_s)
        except OSError:
            raise error from None
    # An abstract name has no mode: any program of the phone could listen there.
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(credentials)[1] != os.geteuid():
        connection.close()
        raise PermissionError("a program of another user listens at the worker's socket")
    return connection


def _reach(path: Path, within_s: float) -> socket.socket:
    """Connect by the folder's descriptor: an agent's folder may have a longer path than the kernel takes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _connected(f"/proc/self/fd/{folder}/{path.name}", within_s)
    finally:
        os.close(folder)


def _connected(address: str, within_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(within_s)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
