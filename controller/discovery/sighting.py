"""What a look at a bus or a folder shows, and what has changed since the look before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why phones cannot be seen somewhere, and what a person should do."""

    reason: str
    action: str = ""


@dataclass(frozen=True, slots=True)
class Scan:
    """The phones that are plugged in: address to a name of this connection, new with every plugging in.

    ``phones`` None: it could not be looked; what was seen before still holds.
    """

    phones: Mapping[str, str] | None
    trouble: Trouble | None = None


class Watcher(Protocol):
    """One place to look at. All methods but ``interrupt`` are called by one thread of its own."""

    @property
    def source(self) -> str:
        """Its name for people, e.g. ``usb``."""
        ...

    def covers(self, address: str, source: str) -> bool:
        """Whether a phone of this address can only be there if it is in the scans.

        ``source`` is where the farm has the phone from: the name of a watcher, or of who added it.
        """
        ...

    def scan(self) -> Scan:
        """Look now, within a few seconds."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Return when something may have changed, at the latest at the timeout."""
        ...

    def interrupt(self) -> None:
        """End a wait, from any thread."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """Addresses that went and came between two scans; one that was plugged in anew is in both."""

    departed: tuple[str, ...]
    arrived: tuple[str, ...]


def compare(before: Mapping[str, str], now: Mapping[str, str]) -> Difference:
    """What happened between two looks. Pure."""
    return Difference(
        departed=tuple(sorted(address for address in before if now.get(address) != before[address])),
        arrived=tuple(sorted(address for address in now if before.get(address) != now[address])),
    )
