"""What carries ADB packets: a socket or a pair of USB endpoints."""

from __future__ import annotations

from typing import Protocol


class Wire(Protocol):
    """An ordered byte pipe to a phone. One thread reads, one thread at a time writes."""

    def read_exactly(self, size: int) -> bytes:
        """Block until ``size`` bytes are there.

        Raises:
            LinkLost: the pipe ended, was interrupted, or the deadline of ``set_read_timeout`` passed.
        """
        ...

    def set_read_timeout(self, timeout_s: float | None) -> None:
        """Bound each following ``read_exactly``; None waits until the pipe ends."""
        ...

    def write(self, header: bytes, payload: bytes | memoryview) -> None:
        """Send all of both.

        Raises:
            LinkLost: the pipe ended, or the phone took no data for a long time (the packet is then torn,
                so nothing more can be sent).
        """
        ...

    def interrupt(self) -> None:
        """Make a blocked ``read_exactly`` of another thread raise. May be called from any thread."""
        ...

    def close(self) -> None:
        """Free the descriptors; only the reading thread, or nobody, may be inside ``read_exactly``."""
        ...
