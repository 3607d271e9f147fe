"""The farm's state as Prometheus text. Base units, no job or record ids in labels.

A phone that is away keeps ``mobifarm_device_up 0`` and loses all other series at once: an old reading is
never repeated as if it were new.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.state import FarmState, TrialState
from mobifarm.controller.farm.live import LiveView


class FarmCollector(Collector):
    """Reads the farm's state at each scrape; holds nothing."""

    def __init__(self, state: FarmState, live: LiveView) -> None:
        self._state = state
        self._live = live

    def collect(self) -> Iterator[Metric]:
        devices = [
            device for device in self._state.devices.values() if device.stage is not DeviceState.RETIRED
        ]
        up = GaugeMetricFamily("mobifarm_device_up", "1 while the phone is connected", labels=["device"])
        info = InfoMetricFamily("mobifarm_device", "what the phone is", labels=["device"])
        leased = GaugeMetricFamily(
            "mobifarm_device_leased", "1 while an edit has the phone", labels=["device"]
        )
        probability = GaugeMetricFamily(
            "mobifarm_edit_target_probability_ratio",
            "probability of the new target in the running edit",
            labels=["device"],
        )
        ready_after = GaugeMetricFamily(
            "mobifarm_device_ready_after_seconds",
            "from plugging the phone in to its being ready, the last time that both were seen",
            labels=["device"],
        )
        sensors = GaugeMetricFamily(
            "mobifarm_device_sensor",
            "newest reading of a sensor in the unit that its description on the phone gives",
            labels=["device", "sensor"],
        )
        for device in devices:
            up.add_metric([device.device_id], float(device.connected))
            if not device.connected:
                continue
            if device.ready_after_s is not None:
                ready_after.add_metric([device.device_id], device.ready_after_s)
            leased.add_metric([device.device_id], float(device.attempt_id is not None))
            info.add_metric(
                [device.device_id],
                {
                    "host": device.host,
                    "model": device.properties.get("ro.product.model", ""),
                    "soc": device.properties.get("ro.soc.model", ""),
                    "execution": device.execution or "",
                },
            )
            current = self._live.devices().get(device.device_id)
            if current and current.progress and current.progress.target_probability is not None:
                probability.add_metric([device.device_id], current.progress.target_probability)
            if current and current.reading:
                for name, value in current.reading.values.items():
                    sensors.add_metric([device.device_id, name], value)
        trials = GaugeMetricFamily("mobifarm_trials", "trials by state", labels=["state"])
        for state in TrialState:
            trials.add_metric([str(state)], sum(job.counts[state] for job in self._state.jobs.values()))
        yield from (up, info, leased, ready_after, probability, sensors, trials)


def render_metrics(state: FarmState, live: LiveView) -> bytes:
    """The exposition of this moment, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FarmCollector(state, live))
    return generate_latest(registry)
