"""Which processes descend from which, and the CPU time they used, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """One line of ``/proc/PID/stat``: ``cpu_s`` is user and system time, with that of reaped children."""

    parent: int
    cpu_s: float


def parse_stat(text: str) -> ProcessTimes:
    """Parse ``/proc/PID/stat`` (proc(5)); the name in parentheses may hold anything."""
    fields = text[text.rindex(")") + 1 :].split()
    return ProcessTimes(int(fields[1]), sum(int(field) for field in fields[11:15]) / _TICKS_PER_SECOND)


def is_stopped(pid: int) -> bool:
    """True where a signal stopped the process, or where it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text[text.rindex(")") + 1 :].split()[0] in "TXZ"


def read_processes() -> dict[int, ProcessTimes]:
    """All processes that /proc shows."""
    processes: dict[int, ProcessTimes] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as file:
                    processes[int(name)] = parse_stat(file.read())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return processes


def descendants(processes: Mapping[int, ProcessTimes], roots: Iterable[int]) -> set[int]:
    """All processes below ``roots``, the roots not included."""
    children: dict[int, list[int]] = {}
    for pid, times in processes.items():
        children.setdefault(times.parent, []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found
