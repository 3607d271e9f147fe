"""What must hold of a phone before a trial that is measured starts on it, and why it does not. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobifarm.controller.core.conditions import STALE_AFTER_S, UNKNOWN, Conditions, Gates
from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.selector import COMPUTER

if TYPE_CHECKING:
    from mobifarm.controller.core.state import Device


@dataclass(frozen=True, slots=True)
class Held:
    """A closed gate. ``state`` is what the phone is meanwhile: cooling, charging, or ready with a reason.

    ``rule`` stays the same while the reading changes, ``reason`` names the reading.
    """

    state: DeviceState
    rule: str
    reason: str
    limit_celsius: float | None = None  # of the gate on temperature

    @property
    def passes_by_itself(self) -> bool:
        return self.state is not DeviceState.READY


def closed_gates(gates: Gates, device: Device, now: float) -> list[Held]:
    """The gates that keep this phone from starting a trial at ``now`` (unix seconds); empty where it may."""
    if device.execution == COMPUTER or gates.open:
        return []
    return list(_closed(gates, current_conditions(device, now)))


def current_conditions(device: Device, now: float) -> Conditions:
    """The phone's newest reading; all of it unknown where there is none or it is stale."""
    return device.conditions if now - device.conditions_at <= STALE_AFTER_S else UNKNOWN


def _closed(gates: Gates, now: Conditions) -> Iterator[Held]:
    refuse = gates.unknown == "refuse"
    if (limit := gates.max_temperature_celsius) is not None:
        if now.temperature_celsius is None:
            if refuse:
                yield _unknown("temperature")
        elif now.temperature_celsius > limit:
            yield Held(
                DeviceState.COOLING,
                f"it waits until it is at {limit:g} °C or below",
                f"its temperature is {now.temperature_celsius:.1f} °C, above {limit:g} °C",
                limit,
            )
    if (least := gates.min_battery) is not None:
        if now.battery is None:
            if refuse:
                yield _unknown("battery level")
        elif now.battery < least:
            yield Held(
                DeviceState.CHARGING,
                f"it waits until its battery is at {least:.0%} or above",
                f"its battery is at {now.battery:.0%}, below {least:.0%}",
            )
    if gates.charging is not None:
        words = "is charging" if gates.charging else "is not charging"
        if now.charging is None:
            if refuse:
                yield _unknown("charging status")
        elif now.charging is not gates.charging:
            yield _ready(f"it waits until its battery {words}", f"its battery does not fulfil: {words}")
    if gates.screen_off:
        if now.screen_on is None:
            if refuse:
                yield _unknown("screen")
        elif now.screen_on:
            yield _ready("it waits until its screen is off", "its screen is on")
    if (room := gates.min_free_storage_bytes) is not None:
        if now.free_storage_bytes is None:
            if refuse:
                yield _unknown("free storage")
        elif now.free_storage_bytes < room:
            yield _ready(
                f"it waits until {_mib(room)} of storage are free",
                f"{_mib(now.free_storage_bytes)} of its storage are free, less than {_mib(room)}",
            )


def _ready(rule: str, reason: str) -> Held:
    return Held(DeviceState.READY, rule, reason)


def _unknown(what: str) -> Held:
    return _ready(
        f"its {what} is not known, and the job refuses what is unknown", f"its {what} is not known now"
    )


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
