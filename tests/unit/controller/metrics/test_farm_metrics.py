from __future__ import annotations

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from mobifarm.controller.core.events import DeviceAdded, DeviceReady, Event, Identity
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import step
from mobifarm.controller.farm.hosts import HostView, host_rows
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.metrics import farm_metrics
from mobifarm.controller.metrics.families import ALL_FAMILIES
from mobifarm.controller.metrics.farm_metrics import FarmMetrics


class Stage:
    """What the metrics need of a farm."""

    def __init__(self) -> None:
        self.state, self.live = FarmState(), LiveView()
        self.watchers: list[Any] = []

    def follow(self, *events: Event) -> None:
        for event in events:
            self.state, _ = step(self.state, event)
            for watcher in self.watchers:
                watcher(event)


def metrics_of(stage: Stage) -> FarmMetrics:
    def hosts() -> Sequence[HostView]:
        return host_rows(stage.state, "here", {})

    no_store: Any = SimpleNamespace
    farm: Any = stage
    return FarmMetrics(farm, hosts=hosts, open_reader=no_store, clock=lambda: 10.0)


async def test_one_text_has_everything(monkeypatch: Any) -> None:
    stage = Stage()
    metrics = metrics_of(stage)
    stage.follow(
        DeviceAdded(1.0, "a", "a", "test"),
        DeviceReady(1.0, "a", "here", Identity("a", "s", "f"), {}, "virtual", (), "1", 0),
    )
    threads = []

    def rendered(snapshot: Any) -> str:
        threads.append(threading.current_thread())
        return original(snapshot)

    original = farm_metrics.render
    monkeypatch.setattr(farm_metrics, "render", rendered)
    text = (await metrics.text()).decode()
    assert threads != [threading.current_thread()]  # the event loop goes on
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"mobifarm_device_up", "mobifarm_host_up", "mobifarm_attempts"} <= names
    assert "process_resident_memory_bytes" in names
    ours = {name for name in names if name.startswith("mobifarm_")}
    assert ours <= {family.name.removesuffix("_total") for family in ALL_FAMILIES}
