"""The agent's own memory, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


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
