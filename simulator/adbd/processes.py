"""Child processes of adbd. It is the phone's init as well: orphans end up here and are reaped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mobifarm.simulator.adbd.process_tree import descendants, read_processes

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_READ_SIZE = 256 * 1024


def adopt_orphans() -> None:
    """Make this process the parent of its orphaned descendants (where it is not process 1 anyway).

    It is also continued when its own parent dies, so that a stopped phone notices.
    """
    # The sandbox, where this is not needed, has no libffi.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_PDEATHSIG, int(signal.SIGCONT))):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl failed")


def kill_descendants() -> None:
    """Kill every descendant of this process; those that start meanwhile too."""
    while found := descendants(read_processes(), [os.getpid()]):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0):
                pass


class Descriptor:
    """A non-blocking file descriptor for one reading and one writing task. Closing wakes nobody."""

    def __init__(self, number: int) -> None:
        os.set_blocking(number, False)
        self._number = number
        self._loop = asyncio.get_running_loop()

    async def read(self, size: int = _READ_SIZE) -> bytes:
        """Some bytes; b"" at the end (which a terminal reports as EIO)."""
        while True:
            try:
                return os.read(self._number, size)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except OSError as error:
                if error.errno == errno.EIO:
                    return b""
                raise

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``. Raises BrokenPipeError where nobody reads any more."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._number, view) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except OSError as error:
                raise BrokenPipeError(error.errno, error.strerror) from error

    async def _ready(self, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        ready = self._loop.create_future()
        add(self._number, _complete, ready)
        try:
            await ready
        finally:
            remove(self._number)

    def set_window_size(self, rows: int, columns: int, x_pixels: int, y_pixels: int) -> None:
        """Set a terminal's size."""
        fcntl.ioctl(self._number, termios.TIOCSWINSZ, struct.pack("<4H", rows, columns, x_pixels, y_pixels))

    def close(self) -> None:
        """Close; again is harmless."""
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)


@dataclass(frozen=True, slots=True)
class Child:
    """A process in its own session and adbd's ends of its streams (one for all with a terminal)."""

    pid: int
    stdin: Descriptor
    stdout: Descriptor
    stderr: Descriptor | None
    exited: asyncio.Future[int]
    """Exit code; the negative signal number where a signal ended it."""

    def hang_up(self) -> None:
        """Tell the process group that its user is gone; what outlived its leader is left alone."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGHUP)

    def close(self) -> None:
        self.stdin.close()
        self.stdout.close()
        if self.stderr is not None:
            self.stderr.close()


class Children:
    """Starts processes and waits for them through SIGCHLD; made once, inside the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, tuple[subprocess.Popen[bytes], asyncio.Future[int]]] = {}
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def start(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: str,
        terminal: bool = False,
        separate_stderr: bool = False,
    ) -> Child:
        """Start a process. Raises OSError where it cannot be executed."""
        if terminal:
            ours, theirs = os.openpty()
            stdin = stdout = Descriptor(ours)
            stderr: Descriptor | None = None
            streams = (theirs, theirs, theirs)
            to_close = {theirs}
        else:
            stdin_theirs, stdin_ours = os.pipe()
            stdout_ours, stdout_theirs = os.pipe()
            stderr_ours, stderr_theirs = os.pipe() if separate_stderr else (-1, stdout_theirs)
            stdin, stdout = Descriptor(stdin_ours), Descriptor(stdout_ours)
            stderr = Descriptor(stderr_ours) if separate_stderr else None
            streams = (stdin_theirs, stdout_theirs, stderr_theirs)
            to_close = set(streams)
        exited: asyncio.Future[int] = self._loop.create_future()
        try:
            process = subprocess.Popen(
                arguments,
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
                preexec_fn=_take_terminal if terminal else None,
            )
        except BaseException:
            Child(-1, stdin, stdout, stderr, exited).close()
            raise
        finally:
            for descriptor in to_close:
                os.close(descriptor)
        self._running[process.pid] = (process, exited)
        return Child(process.pid, stdin, stdout, stderr, exited)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._running:
                process, exited = self._running.pop(pid)
                process.returncode = os.waitstatus_to_exitcode(status)
                if not exited.done():
                    exited.set_result(process.returncode)


def _complete(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
