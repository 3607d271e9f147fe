"""The agent's own memory, as the kernel counts it."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_STATUS = Path("/proc/self/status")
_STATM = Path("/proc/self/statm")
_CLEAR = Path("/proc/self/clear_refs")
# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BLOCK_BYTES = 4 * 2**20


def parse_kibibytes(text: str, name: str) -> int | None:
    """Value of the line ``name:  1234 kB`` of /proc/meminfo or /proc/PID/status, in bytes; None if absent."""
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if key == name:
            words = rest.split()
            if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
                return int(words[0]) * 1024
    return None


def peak_rss_bytes() -> int | None:
    """Highest resident set since the process started or the last reset."""
    return parse_kibibytes(_STATUS.read_text(), "VmHWM")


def rss_bytes() -> int | None:
    """Resident set now."""
    return parse_kibibytes(_STATUS.read_text(), "VmRSS")


def anonymous_rss_bytes() -> int:
    """Resident set now without what belongs to files."""
    _, resident, shared, *_ = map(int, _STATM.read_text().split())
    return (resident - shared) * mmap.PAGESIZE


def reset_peak_rss() -> bool:
    """Start the peak anew from what is resident now; False where the kernel refuses."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def limit_heap() -> None:
    """Let the heap give large blocks back as soon as they are freed, and let all threads share one heap.

    This needs glibc; other C libraries are left as they are. By itself glibc keeps ever larger blocks.
    """
    if _has_glibc():
        _LIBRARY.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        _LIBRARY.mallopt(_M_TRIM_THRESHOLD, 4 * _LARGE_BLOCK_BYTES)
        _LIBRARY.mallopt(_M_ARENA_MAX, 1)


def return_freed() -> None:
    """Give freed memory back to the kernel, wherever it lies in the heap. This needs glibc."""
    if _has_glibc():
        _LIBRARY.malloc_trim(0)


class SpareHeap:
    """Freed memory that is kept for the next call instead of given back, up to a bound.

    To give it back after every call and get it again costs a tenth of an edit.
    """

    def __init__(self, spare_bytes: int) -> None:
        self._spare_bytes = spare_bytes
        self._most_bytes = 0

    def settle(self) -> None:
        """Give all freed memory back; what is anonymous and resident then is what is in use."""
        return_freed()
        self._most_bytes = anonymous_rss_bytes() + self._spare_bytes

    def return_excess(self) -> None:
        """Give freed memory back if more than the spare lies beside what was in use. Before
        :meth:`settle` anything is too much."""
        if anonymous_rss_bytes() > self._most_bytes:
            return_freed()


def return_code() -> None:
    """Take program code out of the resident set; what is executed again comes back from the page cache.

    Starting up runs much code for the last time: imports, the schemas of operators, what optimises graphs.
    """
    for line in _MAPS.read_text("utf-8", "replace").splitlines():
        words = line.split(maxsplit=5)
        # Pages that can be executed but not written are those of the file: none can be lost.
        if len(words) == 6 and words[1] == "r-xp" and words[5].startswith("/"):
            start, _, end = words[0].partition("-")
            _LIBRARY.madvise(int(start, 16), int(end, 16) - int(start, 16), mmap.MADV_DONTNEED)


def _has_glibc() -> bool:
    return hasattr(_LIBRARY, "malloc_trim") and hasattr(_LIBRARY, "mallopt")


_LIBRARY = ctypes.CDLL(None)
_LIBRARY.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
