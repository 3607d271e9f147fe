"""Joules of exactly one edit from the samples of its attempt, with an uncertainty budget. Pure.

The edit goes from the cache to the write-back; the agent stamps both edges with the clock that stamps the
samples. What the phone draws without an edit is subtracted: the mean power of idle time before the attempt.

Uncertainties are standard uncertainties (one standard deviation) in joules, combined by the root of the sum
of their squares. What no sample can show is not in them: the gain of the meter itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mobifarm.workloads.samples import Floats, Samples

RAILS: Final = "rails"
BATTERY: Final = "battery"
QUIET_S: Final = 4.0
_SHORTEST_BASELINE_S: Final = 1.0
_BLOCKS: Final = 5
_LONGEST_HOLE_S: Final = 5.0
_LONGEST_EXTRAPOLATION_S: Final = 10.0
_LARGEST_WATTS: Final = 40.0
_UNIFORM: Final = math.sqrt(12.0)  # a width over this is the standard deviation of a uniform distribution


_LARGEST: Final = 1e12  # watts, joules and seconds: what is added up of a phone's figures stays finite
_ABSURD: Final = "the samples hold numbers that no phone can have"


class NoEnergy(Exception):
    """Why there is no figure."""


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """Energy counted up to the moments at which it is known: where a counter changed, or a gauge was read.

    Attributes:
        times_s: (n,) seconds of the phone's clock.
        joules: (n,) counted up.
        integration_j: (n,) standard uncertainty of each interval up to the moment, 0 for counters.
        resolution_w: of a power that was integrated: what one step of the gauge is worth.
        resolution_j: of a counter: what one of its steps is worth.
    """

    source: str
    times_s: Floats
    joules: Floats
    integration_j: Floats
    resolution_w: float
    resolution_j: float

    def at(self, time_s: float) -> tuple[float, float]:
        """Joules at a time, with the uncertainty of its place between two moments.

        Raises:
            NoEnergy: it lies before the first moment, or long after the last.
        """
        after = int(np.searchsorted(self.times_s, time_s, side="right"))
        if after == 0:
            raise NoEnergy("the first sample came after the edit had begun")
        if time_s > self.times_s[-1] + _LONGEST_EXTRAPOLATION_S:
            raise NoEnergy("the last sample came long before the edit ended")
        # After the last change the power goes on as it was before it.
        right = min(after, len(self.times_s) - 1)
        left = right - 1
        width_s = float(self.times_s[right] - self.times_s[left])
        rise_j = float(self.joules[right] - self.joules[left])
        joules = float(self.joules[left]) + rise_j * (time_s - float(self.times_s[left])) / width_s
        return joules, abs(rise_j) * max(1.0, (time_s - float(self.times_s[left])) / width_s) / _UNIFORM


def edit_energy(
    samples: Samples,
    telemetry: Mapping[str, Any],
    sensors: Sequence[Mapping[str, Any]],
    *,
    provenance: str,
) -> dict[str, Any]:
    """Energy of the edit, and of its whole attempt, as plain JSON.

    Args:
        samples: of the attempt, idle ones before it included.
        telemetry: the attempt's summary: ``phases``, ``ended_ns``, ``sampling_cpu_s``, ``process_cpu_s``.
        sensors: as described by the agent.
        provenance: ``measured`` or ``modelled``.

    Returns:
        ``joules`` (without the idle power), ``uncertainty_joules``, ``terms`` of the budget, ``gross_joules``
        and ``gross_uncertainty_joules`` (with the idle power), ``duration_s``, ``baseline_watts``, ``source``
        (``rails`` or ``battery``), ``provenance``, ``reason`` where a figure is None, and ``attempt`` with
        the same for the whole attempt.
    """
    result = none("", provenance)
    try:
        edit, attempt = _windows(telemetry)
        counted = _counted(samples, sensors, attempt)
        baseline: tuple[float, float] | None
        try:
            baseline = _baseline(samples, counted, telemetry.get("idle_samples") or 0)
        except NoEnergy as error:
            baseline, result["reason"] = None, str(error)
        result |= {"source": counted.source, "baseline_watts": baseline and baseline[0]}
        result["attempt"] = _figures(counted, attempt, baseline, telemetry, result["reason"])
        if edit is None:
            raise NoEnergy("the edit did not come to its write-back")
        return result | _figures(counted, edit, baseline, telemetry, result["reason"])
    except NoEnergy as error:
        return result | {"reason": str(error)}


def none(reason: str, provenance: str | None = None) -> dict[str, Any]:
    """No figure, and why."""
    figures = dict.fromkeys(
        ("joules", "uncertainty_joules", "gross_joules", "gross_uncertainty_joules", "duration_s")
    )
    return {
        **figures,
        "terms": {},
        "baseline_watts": None,
        "source": None,
        "provenance": provenance,
        "reason": reason or None,
        "attempt": {**figures, "terms": {}, "reason": reason or None},
    }


_Window = tuple[float, float]


def _windows(telemetry: Mapping[str, Any]) -> tuple[_Window | None, _Window]:
    """The edit and the attempt in seconds of the phone's clock."""
    starts = [(str(one["phase"]), one["monotonic_ns"] / 1e9) for one in telemetry.get("phases") or []]
    ended_ns = telemetry.get("ended_ns")
    if not starts or not ended_ns:
        raise NoEnergy("the agent did not tell when the phases of the edit began")
    begin = next((time for phase, time in starts if phase == "caching"), None)
    end = next((time for phase, time in starts if phase == "evaluating_after"), None)
    edit = None if begin is None or end is None or end <= begin else (begin, end)
    if ended_ns / 1e9 <= starts[0][1]:
        raise NoEnergy("the agent told times that cannot be: the attempt ended before it began")
    return edit, (starts[0][1], ended_ns / 1e9)


def _counted(samples: Samples, sensors: Sequence[Mapping[str, Any]], window: _Window) -> _Counted:
    resolutions = {str(one["name"]): float(one.get("resolution") or 0.0) for one in sensors}
    rails = [name for name in samples.values if name.startswith("rail") and name.endswith("/energy")]
    if rails:
        return _count_rails(samples, rails, resolutions)
    return _count_battery(samples, resolutions, window)


def _count_rails(samples: Samples, rails: Sequence[str], resolutions: Mapping[str, float]) -> _Counted:
    total = np.sum([samples.values[name] for name in rails], axis=0)
    known = ~np.isnan(total) & _later(samples)
    times_s, total = samples.monotonic_ns[known] / 1e9, total[known]
    if len(total) < 2:
        raise NoEnergy("the power rails were not read during the edit")
    # A rail that counts backwards was set to zero, as by a reboot.
    if any(np.any(np.diff(samples.values[name][known]) < 0) for name in rails):
        raise NoEnergy("the energy meter was set back during the attempt")
    moments = np.concatenate(([True], np.diff(total) > 0))
    if moments.sum() < 2:
        raise NoEnergy("the energy meter did not move during the attempt")
    resolution_j = math.sqrt(sum(resolutions.get(name, 0.0) ** 2 for name in rails))
    count = int(moments.sum())
    return _Counted(RAILS, times_s[moments], total[moments], np.zeros(count), 0.0, resolution_j)


def _count_battery(samples: Samples, resolutions: Mapping[str, float], window: _Window) -> _Counted:
    current, voltage = (samples.values.get(f"battery/{name}") for name in ("current", "voltage"))
    if current is None or voltage is None:
        raise NoEnergy("the phone lets no power rail and no fuel gauge be read")
    times_s = samples.monotonic_ns / 1e9
    during = (times_s >= window[0]) & (times_s <= window[1])
    charging = samples.values.get("battery/charging")
    if charging is None or np.isnan(charging[during]).all():
        raise NoEnergy("whether the phone was charging is not known, so its fuel gauge tells no energy")
    supplies = [values for name, values in samples.values.items() if name.endswith("/online")]
    if any(np.any(values[during] > 0) for values in (charging, *supplies)):
        raise NoEnergy("confounded by charging: the fuel gauge does not see what the cable supplies")
    supplied = np.zeros(len(samples), dtype=bool)
    for values in (charging, *supplies):
        supplied |= np.nan_to_num(values) > 0
    watts = -current * voltage
    # Idle time on a cable is no baseline.
    known = ~np.isnan(watts) & ~supplied & _later(samples)
    times_s, watts = times_s[known], watts[known]
    if len(watts) < 2:
        raise NoEnergy("the fuel gauge was not read during the edit")
    if np.any(watts < 0) or np.any(watts > _LARGEST_WATTS):
        raise NoEnergy("the fuel gauge is not calibrated: it shows what no phone draws")
    inside = times_s[(times_s >= window[0]) & (times_s <= window[1])]
    if np.max(np.diff(np.concatenate(([window[0]], inside, [window[1]])))) > _LONGEST_HOLE_S:
        raise NoEnergy(f"the fuel gauge was not read for more than {_LONGEST_HOLE_S:.0f} s of the attempt")
    widths_s = np.diff(times_s)
    rises_j = (watts[1:] + watts[:-1]) / 2 * widths_s
    # A gauge shows a change up to one of its own periods late: which power there was meanwhile is not known.
    changes_s = np.diff(times_s[1:][np.diff(watts) != 0])
    late_s = np.maximum(widths_s, float(np.median(changes_s)) if len(changes_s) else 0.0)
    integration_j = np.abs(np.diff(watts)) * late_s / _UNIFORM
    resolution_w = resolutions.get("battery/current", 0.0) * float(np.nanmean(voltage))
    return _Counted(
        BATTERY,
        times_s,
        np.concatenate(([0.0], np.cumsum(rises_j))),
        np.concatenate(([0.0], integration_j)),
        resolution_w,
        0.0,
    )


def _later(samples: Samples) -> NDArray[np.bool_]:
    """Which samples are later than the one before; two of one moment have no power between them."""
    return np.concatenate(([True], np.diff(samples.monotonic_ns) > 0))


def _baseline(samples: Samples, counted: _Counted, before: int) -> tuple[float, float]:
    """Idle power in watts, and the standard uncertainty with which it holds during the edit.

    Idle time is the quietest part of at least QUIET_S of one stretch of ``before`` samples: a phone without
    an edit may still take a bundle or look for a network. It is cut into blocks; how much these differ is
    how much the power of another time may differ from their mean.
    """
    idle_s = samples.monotonic_ns[:before] / 1e9
    begin, end = (idle_s[0], idle_s[-1]) if len(idle_s) else (0.0, 0.0)
    seen = counted.times_s[(counted.times_s >= begin) & (counted.times_s <= end)]
    if len(seen) < 3 or seen[-1] - seen[0] < _SHORTEST_BASELINE_S:
        raise NoEnergy("no idle time was seen before the edit: ask for it with idle_window_s in the spec")
    begin, end = _quietest(counted, seen)
    quiet = seen[(seen >= begin) & (seen <= end)]
    if len(quiet) < 3:  # a counter that is updated rarely: how its power differs shows in the whole alone
        begin, end, quiet = float(seen[0]), float(seen[-1]), seen
    seen = quiet
    blocks = min(_BLOCKS, max(2, int(end - begin)), len(seen) - 1)
    edges = np.interp(np.linspace(begin, end, blocks + 1), counted.times_s, counted.joules)
    watts = np.diff(edges) / ((end - begin) / blocks)
    spread = float(np.std(watts, ddof=1)) * math.sqrt(1 + 1 / blocks)
    power = float(edges[-1] - edges[0]) / (end - begin)
    if not _sane(power, spread):
        raise NoEnergy(_ABSURD)
    return power, spread


def _sane(*figures: float) -> bool:
    return all(abs(figure) <= _LARGEST for figure in figures)


def _quietest(counted: _Counted, seen: Floats) -> tuple[float, float]:
    """The part of at least QUIET_S with the least mean power, between two of the moments; else all of it."""
    joules = np.interp(seen, counted.times_s, counted.joules)
    ends = np.searchsorted(seen, seen + QUIET_S - 1e-6)
    begins = np.flatnonzero(ends < len(seen))
    if not len(begins):
        return float(seen[0]), float(seen[-1])
    ends = ends[begins]
    watts = (joules[ends] - joules[begins]) / (seen[ends] - seen[begins])
    quietest = int(np.argmin(watts))
    return float(seen[begins[quietest]]), float(seen[ends[quietest]])


def _figures(
    counted: _Counted,
    window: _Window,
    baseline: tuple[float, float] | None,
    telemetry: Mapping[str, Any],
    reason: str | None,
) -> dict[str, Any]:
    begin_s, end_s = window
    duration_s = end_s - begin_s
    (first_j, first_u), (last_j, last_u) = counted.at(begin_s), counted.at(end_s)
    gross = last_j - first_j
    net = None if baseline is None else gross - baseline[0] * duration_s
    inside = (counted.times_s > begin_s) & (counted.times_s <= end_s)
    samples = (telemetry.get("samples") or 0) + 1
    reading_s = (telemetry.get("sampling_cpu_s") or 0.0) / samples
    share = (telemetry.get("sampling_cpu_s") or 0.0) / (telemetry.get("process_cpu_s") or math.inf)
    terms = {
        "edges": math.hypot(first_u, last_u),
        "integration": float(np.sqrt(np.sum(counted.integration_j[inside] ** 2))),
        "resolution": math.hypot(
            counted.resolution_w * duration_s / _UNIFORM, math.sqrt(2) * counted.resolution_j / _UNIFORM
        ),
        # Edges and samples have one clock; what differs is how long a sample takes to read after its stamp.
        "clock": math.sqrt(2) * gross / duration_s * reading_s / _UNIFORM if duration_s > 0 else 0.0,
        # Of the energy above idle, what the sampling itself may have taken.
        "telemetry": max(gross if net is None else net, 0.0) * min(share, 1.0),
    }
    gross_uncertainty = math.hypot(*terms.values())
    if baseline is not None:
        terms["baseline"] = baseline[1] * duration_s
    uncertainty = math.hypot(*terms.values())
    if not _sane(gross, net or 0.0, uncertainty, gross_uncertainty, duration_s):
        raise NoEnergy(_ABSURD)
    return {
        "joules": net,
        "uncertainty_joules": None if net is None else uncertainty,
        "gross_joules": gross,
        "gross_uncertainty_joules": gross_uncertainty,
        "duration_s": duration_s,
        "terms": terms,
        "reason": reason,
    }
