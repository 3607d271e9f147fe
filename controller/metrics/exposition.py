"""A snapshot as Prometheus text (format 0.0.4), quickly: a farm of a thousand phones has 30,000 series.

A collector of prometheus-client takes an object per sample, ten times the time of this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mobifarm.controller.core.state import TrialState
from mobifarm.controller.metrics import families as f
from mobifarm.controller.metrics.families import Family
from mobifarm.controller.metrics.snapshot import DeviceSnapshot, FarmSnapshot

NAMES_LIMIT: Final = 64  # rails or zones of one phone: a phone's word must not fill Prometheus
LABEL_LIMIT: Final = 128
_FAMILIES: Final = (*f.DEVICE_FAMILIES, *f.FARM_FAMILIES)
_ENDED: Final = (TrialState.DONE, TrialState.FAILED, TrialState.ABANDONED, TrialState.CANCELLED)
_OPEN: Final = (TrialState.PENDING, TrialState.LEASED)


def render(snapshot: FarmSnapshot) -> str:
    """The text of ``DEVICE_FAMILIES`` and ``FARM_FAMILIES``; a family without a series is left out."""
    page = _Page()
    for device in snapshot.devices:
        _device(page, device)
    _farm(page, snapshot)
    return page.text()


def head(family: Family) -> str:
    """The two lines before a family's samples."""
    help_ = family.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {family.name} {help_}\n# TYPE {family.name} {family.kind}\n"


def label(name: str, value: str) -> str:
    """``name="value"`` with what the format wants escaped; long values are cut."""
    if len(value) > LABEL_LIMIT:
        value = value[:LABEL_LIMIT]
    if "\\" in value or '"' in value or "\n" in value:
        value = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{name}="{value}"'


class _Page:
    """Collects samples by family, as the format wants them."""

    def __init__(self) -> None:
        self._samples: dict[str, list[str]] = {family.name: [] for family in _FAMILIES}

    def add(self, family: Family, labels: str, value: float | None) -> None:
        """One sample; ``labels`` are of :func:`label`, joined by commas. What is not finite is left out."""
        if value is not None and math.isfinite(value):
            braced = f"{{{labels}}}" if labels else ""
            self._samples[family.name].append(f"{family.name}{braced} {value!r}\n")

    def text(self) -> str:
        """Everything that was added, family by family."""
        return "".join(
            head(family) + "".join(samples) for family in _FAMILIES if (samples := self._samples[family.name])
        )


def _device(page: _Page, device: DeviceSnapshot) -> None:
    own = label("device", device.device_id)
    if not device.connected:
        if device.away:
            page.add(f.UP, own, 0)
        else:
            page.add(f.STATE, f"{own},{label('state', device.state)}", 1)
        return
    info = device.info or {}
    page.add(f.UP, own, 1)
    page.add(f.INFO, ",".join([own, *(label(name, info[name]) for name in f.INFO.labels[1:])]), 1)
    page.add(f.STATE, f"{own},{label('state', device.state)}", 1)
    page.add(f.LEASED, own, int(device.leased))
    page.add(f.LEASES, own, device.leases)
    page.add(f.READY_AFTER, own, device.ready_after_s)
    page.add(f.MEMORY_TOTAL, own, device.memory_total_bytes or None)
    if device.npu_fallback is not None:
        page.add(f.NPU_FALLBACK, own, int(device.npu_fallback))
    if progress := device.progress:
        page.add(f.PROBABILITY, own, progress.target_probability)
        page.add(f.STEP, own, progress.step)
        page.add(f.PHASE, f"{own},{label('phase', progress.phase)}", 1)
    _readings(page, device, own, label("provenance", info["provenance"]))


def _readings(page: _Page, device: DeviceSnapshot, own: str, provenance: str) -> None:
    vitals, values = device.vitals, device.values
    if vitals is None or values is None:
        return
    of_sensor = f"{own},{provenance}"
    watts = vitals.rail_watts
    if vitals.power_source == "battery" and vitals.power_watts is not None:
        watts = {"battery": vitals.power_watts}
    for rail, power in _limited(watts):
        page.add(f.POWER, f"{own},{label('rail', rail)},{provenance}", power)
    for rail, joules in _limited(_energies(values)):
        page.add(f.ENERGY, f"{own},{label('rail', rail)},{provenance}", joules)
    for zone, celsius in _limited(_zones(values)):
        page.add(f.TEMPERATURE, f"{own},{label('zone', zone)},{provenance}", celsius)
    page.add(f.BATTERY_POWER, of_sensor, vitals.battery_watts)
    page.add(f.BODY_TEMPERATURE, of_sensor, vitals.temperature_celsius)
    page.add(f.THERMAL_STATUS, of_sensor, vitals.thermal_status)
    page.add(f.CLOCK, of_sensor, vitals.clock_hertz)
    page.add(f.BATTERY, of_sensor, vitals.battery)
    page.add(f.CHARGING, of_sensor, None if vitals.charging is None else int(vitals.charging))
    page.add(f.AGENT_MEMORY, own, vitals.agent_rss_bytes)
    page.add(f.MEMORY_AVAILABLE, own, values.get("memory/available"))
    page.add(f.STORAGE, own, values.get("storage/available"))


def _energies(values: Mapping[str, float]) -> dict[str, float]:
    """Joules by rail, named as :class:`mobifarm.controller.farm.vitals.Vitals` names them."""
    return {
        name.removesuffix("/energy").removeprefix("rail/"): value
        for name, value in values.items()
        if name.endswith("/energy")
    }


def _zones(values: Mapping[str, float]) -> dict[str, float]:
    return {
        name.removeprefix("thermal/"): value
        for name, value in values.items()
        if name.startswith("thermal/") and name != "thermal/status"
    }


def _limited(values: Mapping[str, float]) -> Sequence[tuple[str, float]]:
    found = list(values.items())
    return found if len(found) <= NAMES_LIMIT else sorted(found)[:NAMES_LIMIT]


def _farm(page: _Page, snapshot: FarmSnapshot) -> None:
    for family, labels, value in _farm_samples(snapshot):
        page.add(family, labels, value)


def _farm_samples(snapshot: FarmSnapshot) -> Iterator[tuple[Family, str, float]]:
    for host, up in snapshot.hosts.items():
        yield f.HOST_UP, label("host", host), int(up)
    for state, number in snapshot.jobs.items():
        yield f.JOBS, label("state", state), number
    for trial_state in _OPEN:
        yield f.OPEN_TRIALS, label("state", trial_state), snapshot.trials[trial_state]
    for trial_state in _ENDED:
        yield f.TRIALS, label("outcome", trial_state), snapshot.trials[trial_state]
    yield f.QUEUE_AGE, "", snapshot.queue_oldest_s
    yield f.STANDSTILL, "", snapshot.standstill_s
    for measure, floor in snapshot.noise_floors.items():
        yield f.NOISE_FLOOR, label("measure", measure), floor
    yield f.LOOP_LAG, "", snapshot.loop_lag_s
