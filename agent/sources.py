"""What is read at every sample: files of the kernel, and Android's services where the files are denied."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from mobifarm.agent import dumpsys, readings
from mobifarm.agent.memory import rss_bytes

SERVICE_DEADLINE_S: Final = 5.0

Ask = Callable[[Sequence[str]], str]
"""Runs a command of Android and returns what it printed; raises OSError where there is no answer."""


class Source(Protocol):
    """Something that is read at every sample."""

    def read(self) -> Mapping[str, float]:
        """Values by sensor name without what is unknown now. Raises OSError where nothing can be read."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file with one value."""

    name: str
    path: Path
    parse: Callable[[str], float | None]

    def read(self) -> Mapping[str, float]:
        """The file's value."""
        value = self.parse(text_of(self.path))
        return {} if value is None else {self.name: value}


@dataclass(slots=True)
class CurrentCalibration:
    """Learns a gauge's unit from what it shows, and its sign from the charging status."""

    sign: int | None = None
    _seen: deque[int] = field(default_factory=lambda: deque(maxlen=64))
    _microamperes: bool = False

    def amperes(self, raw: int, status: str) -> float | None:
        """The current, positive into the battery where the sign is known; None while the unit is not."""
        if raw == 0:
            return 0.0
        self._seen.append(raw)
        unit = 1e-6 if self._microamperes else readings.amperes_per_count(self._seen)
        if unit is None:
            return None
        self._microamperes = unit == 1e-6
        return raw * unit * (self._sign_now(raw, status) or 1)

    @property
    def resolution(self) -> float:
        """Amperes per count, as far as it is known."""
        return 1e-6 if self._microamperes else 1e-3

    def _sign_now(self, raw: int, status: str) -> int | None:
        told = readings.sign_into_battery(raw, status)
        if told is not None and self.sign is None:
            self.sign = told
        return told if told is not None else self.sign


@dataclass(frozen=True, slots=True)
class CurrentSource:
    """A supply's current; ``status`` is the file with the charging status."""

    name: str
    path: Path
    status: Path | None
    calibration: CurrentCalibration = field(default_factory=CurrentCalibration)

    def read(self) -> Mapping[str, float]:
        """Amperes."""
        raw = readings.parse_current(text_of(self.path))
        if raw is None:
            return {}
        amperes = self.calibration.amperes(raw, text_of(self.status) if self.status else "")
        return {} if amperes is None else {self.name: amperes}


@dataclass(frozen=True, slots=True)
class RailSource:
    """A file with the accumulated energy of several power rails."""

    path: Path
    prefix: str

    def read(self) -> Mapping[str, float]:
        """Joules since the phone started, by rail."""
        rails = readings.parse_rails(text_of(self.path))
        return {f"{self.prefix}/{readings.safe_name(rail)}/energy": joules for rail, joules in rails.items()}


@dataclass(frozen=True, slots=True)
class MemorySource:
    """The agent's own resident memory."""

    name: str

    def read(self) -> Mapping[str, float]:
        """Bytes."""
        size = rss_bytes()
        return {} if size is None else {self.name: float(size)}


@dataclass(frozen=True, slots=True)
class StorageSource:
    """What this user may still write to a file system."""

    name: str
    folder: Path

    def read(self) -> Mapping[str, float]:
        """Bytes."""
        found = os.statvfs(self.folder)
        return {self.name: float(found.f_bavail * found.f_frsize)}


class BatteryService:
    """``dumpsys battery`` and ``cmd battery get current_now`` as one gauge."""

    def __init__(self) -> None:
        self.gauge = CurrentCalibration()
        self._status = ""

    def parse(self, text: str) -> dict[str, float]:
        """Values of ``dumpsys battery``, with the current where the vendor prints it."""
        told = dumpsys.parse_battery(text)
        self._status = told.status
        return {**told.values, **self._current(told.current)}

    def parse_current(self, text: str) -> dict[str, float]:
        """The current of ``cmd battery get current_now``; an Android before 15 answers with its usage."""
        return self._current(readings.parse_current(text))

    def _current(self, raw: int | None) -> dict[str, float]:
        amperes = None if raw is None else self.gauge.amperes(raw, self._status)
        return {} if amperes is None else {"battery/current": amperes}


@dataclass(slots=True)
class Query:
    """A service that is asked every ``period_s``; ``parse`` gives values by sensor name."""

    command: tuple[str, ...]
    period_s: float
    parse: Callable[[str], Mapping[str, float]]
    asked_s: float = -1e9
    answered_s: float = -1e9
    values: Mapping[str, float] = field(default_factory=dict)


class ServiceSource:
    """Android's services, asked in a thread of their own: an answer may take longer than a sample.

    A sample repeats the last answer until it is too old. Who reads no samples asks no service.
    """

    def __init__(
        self, queries: Sequence[Query], ask: Ask, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._queries = tuple(queries)
        self._ask = ask
        self._clock_s = clock_s
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.cpu_s = 0.0  # of this thread and of the commands

    def read(self) -> Mapping[str, float]:
        """The newest answers."""
        now_s = self._clock_s()
        if any(now_s - query.asked_s >= query.period_s for query in self._queries):
            self._wake()
        return {
            name: value
            for query in self._queries
            if now_s - query.answered_s < 2 * query.period_s + SERVICE_DEADLINE_S
            for name, value in query.values.items()
        }

    def ask_due(self) -> None:
        """Ask every service whose time has come; one that does not answer keeps its last values."""
        started_cpu_s, children_s = time.thread_time(), _children_cpu_s()
        for query in self._queries:
            now_s = self._clock_s()
            if now_s - query.asked_s < query.period_s:
                continue
            query.asked_s = now_s
            try:
                values = query.parse(self._ask(query.command))
            except OSError:
                continue
            query.values, query.answered_s = values, self._clock_s()
        self.cpu_s += time.thread_time() - started_cpu_s + _children_cpu_s() - children_s

    def _wake(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="services", daemon=True)
                self._thread.start()
        self._wanted.set()

    def _serve(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            self.ask_due()


def ask_android(command: Sequence[str]) -> str:
    """Run a command of Android with a deadline. Raises OSError where it fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SERVICE_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(None, f"{command[0]} did not answer in {SERVICE_DEADLINE_S:.0f} s") from None
    return done.stdout[:262_144].decode("utf-8", "replace")


def android_services() -> Ask | None:
    """How to ask this phone's services; None where there are none, as on a computer."""
    return ask_android if shutil.which("dumpsys") else None


def text_of(path: Path) -> str:
    """A small file's text. Raises OSError."""
    return path.read_bytes()[:65536].decode("utf-8", "replace")


def text_or_empty(path: Path) -> str:
    """A small file's text, "" where it cannot be read."""
    try:
        return text_of(path)
    except OSError:
        return ""


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
