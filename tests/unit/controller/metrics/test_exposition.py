from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.state import TrialState
from mobifarm.controller.farm.vitals import Vitals
from mobifarm.controller.host.reports import AttemptProgress
from mobifarm.controller.metrics import families as f
from mobifarm.controller.metrics.exposition import NAMES_LIMIT, head, label, render
from mobifarm.controller.metrics.snapshot import DeviceSnapshot, FarmSnapshot

INFO = dict.fromkeys(f.INFO.labels[1:], "x") | {"provenance": "modelled", "model": 'M"1\\'}
PHONE = DeviceSnapshot(
    "a",
    DeviceState.LEASED,
    True,
    False,
    leased=True,
    leases=3,
    ready_after_s=4.25,
    memory_total_bytes=8 * 2**30,
    info=INFO,
    vitals=Vitals(
        at=1.0,
        power_watts=1.5,
        power_source="rails",
        rail_watts={"CPU": 1.0, "rail-1/Other": 0.5},
        battery_watts=-1.25,
        battery=0.5,
        charging=False,
        temperature_celsius=31.5,
        thermal_status=2,
        clock_hertz=2.9e9,
        agent_rss_bytes=2.0**27,
    ),
    values={
        "rail/CPU/energy": 100.25,
        "rail-1/Other/energy": 1e-7,
        "thermal/BIG": 44.5,
        "thermal/status": 2.0,
        "memory/available": 2.0**30,
        "storage/available": 1e18,
    },
    progress=AttemptProgress(1.0, "a", "attempt-1", "optimising", 3, 60, 1.0, 0.5, 99),
    npu_fallback=False,
)
FARM = FarmSnapshot(
    devices=(PHONE,),
    hosts={"here": True, "hub": False},
    jobs={"queued": 1, "running": 2},
    trials={state: number for number, state in enumerate(TrialState)},
    queue_oldest_s=12.5,
    standstill_s=0.0,
    noise_floors={"seconds_per_edit": 0.07},
    loop_lag_s=0.001,
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(family: f.Family, farm: FarmSnapshot = FARM, **labels: str) -> float | None:
    return samples(render(farm)).get((family.name, tuple(sorted(labels.items()))))


def test_a_phone_shows_its_readings_under_one_label_of_where_they_come_from() -> None:
    modelled = {"device": "a", "provenance": "modelled"}
    assert of(f.POWER, rail="CPU", **modelled) == 1.0
    assert of(f.POWER, rail="rail-1/Other", **modelled) == 0.5
    assert of(f.ENERGY, rail="CPU", **modelled) == 100.25
    assert of(f.ENERGY, rail="rail-1/Other", **modelled) == 1e-7
    assert of(f.TEMPERATURE, zone="BIG", **modelled) == 44.5
    assert of(f.TEMPERATURE, zone="status", **modelled) is None
    assert of(f.THERMAL_STATUS, **modelled) == 2
    assert of(f.BATTERY_POWER, **modelled) == -1.25
    assert of(f.CLOCK, **modelled) == 2.9e9
    assert of(f.CHARGING, **modelled) == 0
    assert of(f.STORAGE, device="a") == 1e18
    assert of(f.PHASE, device="a", phase="optimising") == 1
    assert of(f.INFO, device="a", **INFO) == 1


def test_a_phone_without_rails_has_the_battery_as_its_one_rail() -> None:
    vitals = Vitals(at=1.0, power_watts=2.0, power_source="battery", battery_watts=-2.0)
    farm = replace(FARM, devices=(replace(PHONE, vitals=vitals, values={}),))
    assert of(f.POWER, farm, device="a", rail="battery", provenance="modelled") == 2.0
    nothing = replace(FARM, devices=(replace(PHONE, vitals=Vitals(at=1.0), values={}),))
    assert f.POWER.name not in render(nothing)


def test_a_phone_that_is_away_is_down_and_nothing_else() -> None:
    farm = replace(FARM, devices=(DeviceSnapshot("a", DeviceState.LOST, False, True),))
    assert [line for line in render(farm).splitlines() if 'device="a"' in line] == [
        'mobifarm_device_up{device="a"} 0'
    ]


def test_a_phone_that_was_never_connected_is_neither_up_nor_down() -> None:
    farm = replace(FARM, devices=(DeviceSnapshot("a", DeviceState.AWAITING_AUTHORISATION, False, False),))
    assert [line for line in render(farm).splitlines() if 'device="a"' in line] == [
        'mobifarm_device_state{device="a",state="awaiting_authorisation"} 1'
    ]


def test_no_id_of_work_is_a_label() -> None:
    assert "attempt-1" not in render(FARM)
    assert not {"job", "trial", "attempt", "record"} & {
        name for each in f.ALL_FAMILIES for name in each.labels
    }


def test_what_is_not_a_number_is_left_out() -> None:
    values = {"thermal/nan": float("nan"), "thermal/inf": float("inf")}
    text = render(replace(FARM, devices=(replace(PHONE, values=values),)))
    assert f.TEMPERATURE.name not in text


def test_one_phone_cannot_fill_prometheus() -> None:
    values = {f"thermal/{number:05d}": 20.0 for number in range(1000)}
    text = render(replace(FARM, devices=(replace(PHONE, values=values),)))
    assert text.count(f"\n{f.TEMPERATURE.name}{{") == NAMES_LIMIT


def test_the_farm_as_a_whole() -> None:
    assert of(f.HOST_UP, host="hub") == 0
    assert of(f.OPEN_TRIALS, state="leased") == 1
    assert of(f.TRIALS, outcome="failed") == 3
    assert of(f.QUEUE_AGE) == 12.5
    assert of(f.NOISE_FLOOR, measure="seconds_per_edit") == 0.07


@given(st.text(max_size=100), st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_any_number_arrive_as_they_are(text: str, value: float) -> None:
    vitals = Vitals(at=1.0, temperature_celsius=value)
    phone = replace(PHONE, device_id=text, vitals=vitals)
    found = samples(render(replace(FARM, devices=(phone,))))
    key = (f.BODY_TEMPERATURE.name, (("device", text), ("provenance", "modelled")))
    assert found[key] == value


def test_the_renderer_says_what_the_library_would_say() -> None:
    """The same samples through prometheus-client's own text, read by its parser."""
    text = render(FARM)
    parsed = list(text_string_to_metric_families(text))

    class Again(Collector):
        def collect(self) -> list[Metric]:
            made: list[Metric] = []
            for family in f.DEVICE_FAMILIES + f.FARM_FAMILIES:  # type: ignore[operator]
                kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
                metric = kind(family.name, family.help, labels=family.labels)
                for (name, labels), value in samples(text).items():
                    if name == family.name:
                        by_name = dict(labels)
                        metric.add_metric([by_name[label] for label in family.labels], value)
                if metric.samples:
                    made.append(metric)
            return made

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Again())
    theirs = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert {metric.name: metric for metric in parsed} == {metric.name: metric for metric in theirs}


@pytest.mark.parametrize("family", f.ALL_FAMILIES, ids=lambda family: family.name)
def test_every_family_is_named_and_explained_as_prometheus_wants(family: f.Family) -> None:
    assert family.name.startswith("mobifarm_")
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert family.help.endswith(".")
    assert "\n" not in family.help


def test_names_occur_once() -> None:
    names = [family.name for family in f.ALL_FAMILIES]
    assert len(set(names)) == len(names)


def test_help_and_labels_are_escaped() -> None:
    assert head(f.Family("n", "gauge", "a\\b\nc")) == "# HELP n a\\\\b\\nc\n# TYPE n gauge\n"
    assert label("l", 'a"b\\c\n') == 'l="a\\"b\\\\c\\n"'
