"""Memory as the kernel counts it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from mobifarm.agent.memory import parse_kibibytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Name:\tx\nVmHWM:\t   1234 kB\nVmRSS:\t  1 kB\n", 1234 * 1024),
        ("VmHWM:\t-1 kB\n", None),
        ("VmHWM: 12\n", None),
        ("VmHWMX: 12 kB\n", None),
        ("", None),
    ],
)
def test_reads_one_line(text: str, expected: int | None):
    assert parse_kibibytes(text, "VmHWM") == expected


# In a process of its own: what the whole test run holds would hide the ballast.
_PEAK_SCRIPT = """
from mobifarm.agent.memory import peak_rss_bytes, reset_peak_rss, rss_bytes
ballast = bytearray(b"x" * 100_000_000)
high = peak_rss_bytes()
del ballast
print(reset_peak_rss(), high, peak_rss_bytes(), rss_bytes())
"""


def test_the_peak_is_reset_to_what_is_resident_now():
    done = subprocess.run([sys.executable, "-c", _PEAK_SCRIPT], capture_output=True, text=True, check=True)
    reset, *readings = done.stdout.split()
    if reset != "True":
        pytest.skip("this kernel does not reset the peak")
    high, low, now = map(int, readings)
    assert low < high - 50_000_000
    assert low >= now - 10_000_000


def _resident_mib(script: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [int(number) / 2**20 for number in done.stdout.split()]


# What is kept in between stops the heap from shrinking at its end alone.
_FREED_SCRIPT = """
from mobifarm.agent.memory import limit_heap, return_freed, rss_bytes
limit_heap()
blocks = [bytearray(b"x" * 100_000) for _ in range(600)]
kept = blocks[::20]
print(rss_bytes())
del blocks
return_freed()
print(rss_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what is freed")
def test_freed_memory_is_returned():
    before, after = _resident_mib(_FREED_SCRIPT)
    assert after < before - 40


# The first freed blocks fit the spare, the second ones do not.
_SPARE_SCRIPT = """
from mobifarm.agent.memory import SpareHeap, limit_heap, rss_bytes
limit_heap()
heap = SpareHeap(32 * 2**20)
heap.settle()
for count in (200, 600):
    blocks = [bytearray(b"x" * 100_000) for _ in range(count)]
    kept = blocks[::20]
    print(rss_bytes())
    del blocks
    heap.return_excess()
    print(rss_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what is freed")
def test_freed_memory_is_kept_up_to_the_spare():
    little, kept, much, returned = _resident_mib(_SPARE_SCRIPT)
    assert kept > little - 4
    assert returned < much - 30


_CODE_SCRIPT = """
from pathlib import Path
import numpy
from mobifarm.agent.memory import parse_kibibytes, return_code
def resident():
    return parse_kibibytes(Path("/proc/self/status").read_text(), "RssFile")
print(resident())
return_code()
print(resident())
assert numpy.linalg.norm(numpy.ones(4)) == 2  # the code comes back
"""


def test_code_that_has_run_is_returned():
    before, after = _resident_mib(_CODE_SCRIPT)
    assert after < before - 2
