"""The agent's own memory, as the kernel counts it."""

from __future__ import annotations

import ctypes
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
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


def reset_peak_rss() -> bool:
    """Start the peak anew from what is resident now; False where the kernel refuses."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def trim_heap() -> None:
    """Give memory that was freed back to the kernel, now and for good where it is large.

    This needs glibc; other C libraries are left as they are. By itself glibc keeps ever larger blocks.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim") and hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, 4 * _LARGE_BLOCK_BYTES)
        library.malloc_trim(0)
