from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.adbd.process_tree import ProcessTimes, descendants, parse_stat, read_processes


@given(st.text(st.characters(codec="ascii"), max_size=15))
def test_names_with_parentheses_and_spaces_are_no_trouble(name: str) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    text = f"42 ({name}) S 7 1 1 0 -1 4194560 1 2 3 4 {ticks} {ticks} {2 * ticks} 0 20 0 1 0 99\n"
    assert parse_stat(text) == ProcessTimes(parent=7, cpu_s=4.0)


def test_descendants_at_any_depth_without_the_roots() -> None:
    processes = {pid: ProcessTimes(parent, 0.0) for pid, parent in [(2, 1), (3, 2), (4, 3), (5, 1), (6, 5)]}
    assert descendants(processes, [2]) == {3, 4}
    assert descendants(processes, [2, 5]) == {3, 4, 6}
    assert descendants(processes, [9]) == set()


def test_this_process_is_seen() -> None:
    processes = read_processes()
    assert processes[os.getpid()].parent == os.getppid()
    assert processes[os.getpid()].cpu_s > 0
