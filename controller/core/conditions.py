"""What condition a phone is in, as far as its sensors tell, and what a job asks of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

STALE_AFTER_S: Final = 180.0  # telemetry reaches the log at least once a minute; older news is unknown


@dataclass(frozen=True, slots=True)
class Conditions:
    """One reading; None is what the phone cannot or does not tell.

    ``temperature_celsius`` is the battery's, or the skin's where the battery has no sensor. ``battery`` is
    the share of its charge, 0 to 1.
    """

    temperature_celsius: float | None = None
    battery: float | None = None
    charging: bool | None = None
    screen_on: bool | None = None
    free_storage_bytes: float | None = None


UNKNOWN: Final = Conditions()


@dataclass(frozen=True, slots=True)
class Gates:
    """Conditions at the start of a trial; None asks for nothing. The computer has no gates.

    ``charging``: whether the battery must be charging, or must not be. ``unknown``: what a sensor that tells
    nothing, or whose news is older than three minutes, means.
    """

    max_temperature_celsius: float | None = None
    min_battery: float | None = None  # share of the charge, 0 to 1
    charging: bool | None = None
    screen_off: bool = False
    min_free_storage_bytes: float | None = None
    unknown: Literal["allow", "refuse"] = "allow"

    @property
    def open(self) -> bool:
        """Whether they ask for nothing at all."""
        return self == NO_GATES


NO_GATES: Final = Gates()


def conditions_of(values: Mapping[str, float]) -> Conditions:
    """The reading of a phone's sensors in this farm's terms; names and units are those of its agent."""
    skins = [
        value for name, value in values.items() if name.startswith("thermal/") and "skin" in name.lower()
    ]
    charging, screen = values.get("battery/charging"), values.get("screen/on")
    return Conditions(
        temperature_celsius=values.get("battery/temperature", max(skins, default=None)),
        battery=values.get("battery/capacity"),
        charging=None if charging is None else charging > 0,
        screen_on=None if screen is None else screen > 0,
        free_storage_bytes=values.get("storage/available"),
    )
