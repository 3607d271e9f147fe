"""Which process holds something that the farm wants, as far as this user may know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    name: str  # of its program

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def holder_of_port(port: int, proc: Path = Path("/proc")) -> Holder | None:
    """The process that listens on a TCP port of this machine; None where that cannot be told."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    return _holder(inodes, proc) if inodes else None


def holder_of_file(path: Path, proc: Path = Path("/proc")) -> Holder | None:
    """Another process that has a file open; None where that cannot be told."""
    return _holder({str(path)}, proc)


def _holder(targets: set[str], proc: Path) -> Holder | None:
    for pid in _processes(proc):
        if pid == os.getpid():
            continue
        folder = proc / str(pid)
        try:
            if any(os.readlink(entry) in targets for entry in (folder / "fd").iterdir()):
                return Holder(pid, (folder / "comm").read_text().strip())
        except OSError:
            continue  # another user's, or it has just ended
    return None


def _processes(proc: Path) -> Iterator[int]:
    return (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
