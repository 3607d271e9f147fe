"""How long `/metrics` takes for a large farm: the snapshot on the event loop, the text in its thread.

    python tests/bench/metrics.py --phones 1000 --output metrics.json

Prints JSON: medians and maxima over the repeats in milliseconds, bytes, series, and what a custom collector
of prometheus-client takes for as many samples.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mobifarm.controller.core.events import DeviceAdded, DeviceReady, Identity
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import replay
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.host.reports import AttemptProgress, Reading
from mobifarm.controller.metrics.exposition import render
from mobifarm.controller.metrics.snapshot import FarmSnapshot, take_snapshot

RAILS, ZONES = 5, 6


def farm(phones: int, now: float) -> tuple[FarmState, LiveView]:
    """Phones like the Pixel of the simulator, all at work."""
    properties = {
        "ro.product.model": "Pixel 8",
        "ro.soc.model": "Tensor G3",
        "ro.build.version.release": "15",
    }
    events: list[DeviceAdded | DeviceReady] = []
    live = LiveView()
    for number in range(phones):
        address = f"usb:{number // 16}-{number % 16}"
        identity = Identity(address, f"serial-{number}", "fingerprint")
        events.append(DeviceAdded(now, address, address, "usb"))
        events.append(
            DeviceReady(
                now, address, "host", identity, properties, "virtual", (), "1", 0, ready_after_s=4.5,
                memory_total_bytes=8 * 2**30, cpu_count=9,
            )
        )  # fmt: skip
        for at in (now - 1, now):
            values = {f"rail/S{rail}M_VDD_CPUCL{rail}/energy": at + rail / 7 for rail in range(RAILS)}
            values |= {f"thermal/zone-{zone}": 30 + zone / 3 for zone in range(ZONES)}
            values |= {"battery/current": -0.4, "battery/voltage": 4.1, "battery/temperature": 31.5}
            values |= {"battery/capacity": 0.5, "battery/charging": 0.0, "thermal/status": 1.0}
            values |= {"cpu0/frequency": 1.7e9, "memory/available": 3e9, "storage/available": 5e10}
            live.note(Reading(at, address, values | {"agent/rss": 1.3e8}, round(at * 1e9)))
        live.note(AttemptProgress(now, address, "attempt", "optimising", 3, 60, 1.0, 0.5, 99))
    return replay(events), live


class TheLibrarysWay(Collector):
    """As many samples as ours, with as many labels."""

    def __init__(self, phones: int, each: int) -> None:
        self._phones, self._each = phones, each

    def collect(self) -> Iterator[Metric]:
        for number in range(self._each):
            family = GaugeMetricFamily(f"metric_{number}", "help", labels=["device", "rail", "provenance"])
            for phone in range(self._phones):
                family.add_metric([f"usb:1-{phone}", "S2M_VDD_CPUCL2", "modelled"], 1.5)
            yield family


def milliseconds(function: Callable[[], object], repeats: int) -> dict[str, float]:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append((time.perf_counter() - began) * 1e3)
    return {"median_ms": round(statistics.median(times), 2), "maximum_ms": round(max(times), 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--phones", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    now = time.time()
    state, live = farm(options.phones, now)

    def snapshot() -> FarmSnapshot:
        return take_snapshot(
            state, live, [], now=now, accelerators=dict.fromkeys(state.devices, "cpu"), away_since={},
            moved_at={}, started_at=now, noise_floors={}, loop_lag_s=0.0,
        )  # fmt: skip

    taken = snapshot()
    text = render(taken)
    series = sum(not line.startswith("#") for line in text.splitlines())
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TheLibrarysWay(options.phones, round(series / options.phones)))
    report = {
        "phones": options.phones,
        "series": series,
        "bytes": len(text),
        "snapshot_on_the_loop": milliseconds(snapshot, options.repeats),
        "text_in_a_thread": milliseconds(lambda: render(taken).encode(), options.repeats),
        "prometheus_client_collector": milliseconds(lambda: generate_latest(registry), 3),
        "python": platform.python_version(),
        "processor": platform.machine(),
    }
    print(json.dumps(report, indent=2))
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
