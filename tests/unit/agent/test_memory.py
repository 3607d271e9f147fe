"""Memory as the kernel counts it."""

from __future__ import annotations

import pytest

from mobifarm.agent.memory import parse_kibibytes, peak_rss_bytes, reset_peak_rss, rss_bytes


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


def test_the_peak_is_reset_to_what_is_resident_now():
    ballast = bytearray(b"x" * 100_000_000)
    high = peak_rss_bytes()
    del ballast
    if not reset_peak_rss():
        pytest.skip("this kernel does not reset the peak")
    low, now = peak_rss_bytes(), rss_bytes()
    assert high is not None
    assert low is not None
    assert now is not None
    assert low < high - 50_000_000
    assert low >= now - 10_000_000
