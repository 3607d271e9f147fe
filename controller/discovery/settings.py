"""Where a host looks for phones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """``usb``: look on this machine's buses. ``adb_server``: (host, port) of the one that owns the phones."""

    usb: bool = True
    adb_server: tuple[str, int] | None = None
