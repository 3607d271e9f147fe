"""Joules of one edit: exact where the power is known, and an honest budget around it."""

from __future__ import annotations

import json
import math
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.v1 import agent_pb2 as pb
from mobifarm.workloads.energy import QUIET_S, edit_energy
from mobifarm.workloads.samples import Samples, compress, pack, unpack

RAILS = [{"name": f"rail/{name}/energy", "unit": "J", "resolution": 1e-6} for name in ("big", "little")]
GAUGE = [
    {"name": "battery/current", "unit": "A", "resolution": 1e-3},
    {"name": "battery/voltage", "unit": "V", "resolution": 1e-6},
]
IDLE_S, LOADED_S, EDIT_S, AFTER_S = 10.0, 2.0, 5.0, 1.0
BEGIN_S = 100.0  # of the phone's clock
CACHING_S = BEGIN_S + IDLE_S + LOADED_S
WRITTEN_S = CACHING_S + EDIT_S
END_S = WRITTEN_S + AFTER_S


def phase_at(time_s: float) -> str:
    if time_s < BEGIN_S + IDLE_S:
        return "idle"
    if time_s < CACHING_S:
        return "loading"
    return "optimising" if time_s < WRITTEN_S else "evaluating_after"


def summary(**changes: Any) -> dict[str, Any]:
    starts = {"loading": BEGIN_S + IDLE_S, "caching": CACHING_S, "evaluating_after": WRITTEN_S}
    return {
        "samples": 81,
        "idle_samples": int(IDLE_S),
        "phases": [{"phase": name, "monotonic_ns": round(at * 1e9)} for name, at in starts.items()],
        "ended_ns": round(END_S * 1e9),
        "sampling_cpu_s": 0.08,
        "process_cpu_s": 8.0,
        **changes,
    }


def times() -> list[float]:
    idle = [BEGIN_S + second for second in range(int(IDLE_S))]
    return idle + [
        BEGIN_S + IDLE_S + tenth / 10 for tenth in range(round((END_S - BEGIN_S - IDLE_S) * 10) + 1)
    ]


def samples(values: dict[str, Any]) -> Samples:
    """``values``: sensor to a function of the time."""
    at = times()
    return Samples(
        monotonic_ns=np.array([round(time * 1e9) for time in at]),
        phase=tuple(phase_at(time) for time in at),
        step=np.zeros(len(at), dtype=np.int64),
        step_s=np.full(len(at), np.nan),
        values={name: np.array([float(of(time)) for time in at]) for name, of in values.items()},
    )


def watts(idle: float, edit: float) -> Any:
    """Energy counted since the begin at ``idle`` watts, and ``edit`` watts during the edit."""
    return lambda time: idle * (time - BEGIN_S) + (edit - idle) * min(max(time - CACHING_S, 0.0), EDIT_S)


def on_battery(power: Any, **more: Any) -> dict[str, Any]:
    return {
        "battery/voltage": lambda time: 4.0,
        "battery/current": lambda time: -power(time) / 4.0,
        "battery/charging": lambda time: 0.0,
        "usb/online": lambda time: 0.0,
        **more,
    }


def test_rails_tell_exactly_what_the_edit_took_above_idle() -> None:
    found = edit_energy(
        samples({"rail/big/energy": watts(0.0, 3.0), "rail/little/energy": watts(0.5, 1.0)}),
        summary(),
        RAILS,
        provenance="measured",
    )
    assert found["source"] == "rails"
    assert found["provenance"] == "measured"
    assert found["baseline_watts"] == pytest.approx(0.5)
    assert found["gross_joules"] == pytest.approx(4.0 * EDIT_S)
    assert found["joules"] == pytest.approx(3.5 * EDIT_S)
    assert found["duration_s"] == pytest.approx(EDIT_S)
    assert found["reason"] is None
    assert found["terms"]["integration"] == 0.0
    assert found["terms"]["telemetry"] == pytest.approx(0.01 * 3.5 * EDIT_S)
    assert found["uncertainty_joules"] == pytest.approx(math.hypot(*found["terms"].values()))
    whole = found["attempt"]
    assert whole["duration_s"] == pytest.approx(END_S - BEGIN_S - IDLE_S)
    assert whole["gross_joules"] == pytest.approx(4.0 * EDIT_S + 0.5 * (LOADED_S + AFTER_S))
    assert whole["joules"] == pytest.approx(3.5 * EDIT_S)


def test_what_the_phone_did_in_its_idle_time_is_not_idle_power() -> None:
    """A bundle that is pushed before the first edit costs power, too."""
    quiet = watts(0.5, 3.0)

    def pushed(time: float) -> float:
        return float(quiet(time)) + 4.0 * min(max(time - BEGIN_S, 0.0), IDLE_S - QUIET_S - 1.0)

    found = edit_energy(samples({"rail/big/energy": pushed}), summary(), RAILS, provenance="measured")
    assert found["baseline_watts"] == pytest.approx(0.5)
    assert found["joules"] == pytest.approx(2.5 * EDIT_S)


@given(
    idle=st.floats(0.05, 2.0),
    edit=st.floats(0.1, 12.0),
    update_s=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    shift_s=st.floats(0.0, 0.5),
)
def test_a_counter_that_is_updated_rarely_is_told_with_its_uncertainty(
    idle: float, edit: float, update_s: float, shift_s: float
) -> None:
    exact = watts(idle, edit)

    def stairs(time: float) -> float:
        return float(exact(math.floor((time - shift_s) / update_s) * update_s + shift_s))

    found = edit_energy(samples({"rail/big/energy": stairs}), summary(), RAILS, provenance="modelled")
    assert found["gross_joules"] is not None
    error = abs(found["gross_joules"] - edit * EDIT_S)
    # At most one update at each edge is in doubt, and the budget's standard uncertainty covers that.
    assert error <= 2 * (update_s + 0.1) * max(idle, edit) + 1e-6
    assert error <= 2 * math.sqrt(12) * found["gross_uncertainty_joules"] + 1e-6


def test_the_gauge_of_a_phone_on_battery_is_integrated() -> None:
    found = edit_energy(
        samples(on_battery(lambda time: 2.0 if CACHING_S <= time < WRITTEN_S else 0.5 + 0.001 * (time % 1))),
        summary(),
        GAUGE,
        provenance="measured",
    )
    assert found["source"] == "battery"
    assert found["gross_joules"] == pytest.approx(2.0 * EDIT_S, abs=0.2)
    assert found["terms"]["resolution"] == pytest.approx(1e-3 * 4.0 * EDIT_S / math.sqrt(12))
    assert abs(found["gross_joules"] - 2.0 * EDIT_S) <= 3 * found["gross_uncertainty_joules"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "lets no power rail and no fuel gauge"),
        (on_battery(lambda time: 1.0, **{"battery/charging": lambda time: 1.0}), "confounded by charging"),
        (on_battery(lambda time: 1.0, **{"usb/online": lambda time: 1.0}), "confounded by charging"),
        (on_battery(lambda time: 1.0, **{"battery/charging": lambda time: math.nan}), "is not known"),
        (on_battery(lambda time: -1.0), "not calibrated"),
        (on_battery(lambda time: 60.0), "not calibrated"),
        (on_battery(lambda time: 1.0 if time < CACHING_S else math.nan), "not read for more than 5 s"),
        ({"rail/big/energy": lambda time: 5.0}, "did not move"),
        ({"rail/big/energy": lambda time: -time}, "set back"),
        ({"rail/big/energy": lambda time: math.nan}, "were not read"),
        ({"rail/big/energy": lambda time: time if time > CACHING_S + 1 else math.nan}, "first sample came"),
    ],
)
def test_no_figure_is_given_without_its_grounds(values: dict[str, Any], words: str) -> None:
    found = edit_energy(samples(values), summary(), RAILS, provenance="measured")
    assert found["joules"] is None
    assert found["gross_joules"] is None
    assert words in found["reason"]


def test_rails_do_not_care_for_charging() -> None:
    values = {"rail/big/energy": watts(0.5, 2.0), "battery/charging": lambda time: 1.0}
    assert edit_energy(samples(values), summary(), RAILS, provenance="measured")["joules"] is not None


def test_without_idle_time_there_is_the_gross_figure_alone() -> None:
    whole = samples({"rail/big/energy": watts(0.5, 2.0)})
    busy = Samples(
        whole.monotonic_ns, tuple("loading" for _ in whole.phase), whole.step, whole.step_s, whole.values
    )
    found = edit_energy(busy, summary(idle_samples=0), RAILS, provenance="measured")
    assert found["joules"] is None
    assert found["baseline_watts"] is None
    assert found["gross_joules"] == pytest.approx(2.0 * EDIT_S)
    assert "idle_window_s" in found["reason"]


def test_an_edit_that_did_not_end_has_only_its_attempt() -> None:
    phases = summary()["phases"][:2]
    found = edit_energy(
        samples({"rail/big/energy": watts(0.5, 2.0)}), summary(phases=phases), RAILS, provenance="measured"
    )
    assert found["joules"] is None
    assert "write-back" in found["reason"]
    assert found["attempt"]["joules"] == pytest.approx(1.5 * EDIT_S)


numbers = st.floats(-1e3, 1e3) | st.just(math.nan) | st.floats(1e150, 1e308)
times_ns = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**11)


@given(
    rows=st.lists(st.tuples(times_ns, numbers, numbers, numbers), max_size=12),
    phases=st.lists(st.tuples(st.sampled_from(["loading", "caching", "evaluating_after"]), times_ns)),
    ended_ns=st.none() | times_ns,
    idle=st.integers(0, 20),
    rails=st.booleans(),
)
def test_no_phone_makes_it_fail_or_tell_what_is_no_number(
    rows: Any, phases: Any, ended_ns: int | None, idle: int, rails: bool
) -> None:
    rows.sort(key=lambda row: row[0])
    names = ["rail/a/energy", "rail/b/energy"] if rails else ["battery/current", "battery/voltage"]
    columns = {name: np.array([row[i + 1] for row in rows], dtype=float) for i, name in enumerate(names)}
    columns["battery/charging"] = np.array([row[3] for row in rows], dtype=float)
    given = Samples(
        np.array([row[0] for row in rows], dtype=np.int64),
        tuple("optimising" for _ in rows),
        np.zeros(len(rows), dtype=np.int64),
        np.zeros(len(rows)),
        columns,
    )
    telemetry = summary(
        idle_samples=idle,
        ended_ns=ended_ns,
        phases=[{"phase": phase, "monotonic_ns": time} for phase, time in phases],
    )
    with np.errstate(all="ignore"):
        found = edit_energy(given, telemetry, RAILS, provenance="measured")
    json.dumps(found, allow_nan=False)
    assert (found["joules"] is None) <= (found["reason"] is not None)


def test_an_agent_that_tells_no_phases_gives_no_energy() -> None:
    found = edit_energy(samples({}), {"samples": 3}, [], provenance="measured")
    assert "phases" in found["reason"]


def test_pieces_carry_every_sample() -> None:
    batches = [
        pb.TelemetryBatch(
            samples=[
                pb.TelemetrySample(
                    monotonic_ns=number,
                    values={f"x/{i}": float(np.sin(number * i)) for i in range(200)},
                    phase=pb.EDIT_PHASE_CACHING,
                    step=number,
                    step_s=0.5,
                )
            ]
        )
        for number in range(100)
    ]
    batches[3].samples[0].values["y/late"] = math.inf
    batches[4].samples[0].values["y/late"] = 2.0
    batches[4].samples[0].values["phase"] = 2.0
    pieces = pack(map(compress, batches))
    assert len(pieces) > 1
    assert all(len(piece) < 100_000 for piece in pieces)
    found = unpack(pieces)
    assert list(found.monotonic_ns) == list(range(100))
    assert found.values["x/7"][42] == np.sin(42 * 7)
    assert np.isnan(found.values["y/late"][3])
    assert found.values["y/late"][4] == 2.0
    assert "phase" not in found.values
    assert found.phase[0] == "caching"
    assert list(found.step) == list(range(100))
    with pytest.raises(ValueError, match="no telemetry"):
        unpack([b"\x0a\x03abc"])
    assert len(unpack([])) == 0


def test_a_resolution_that_cannot_be_gives_no_figure() -> None:
    sensors = [{"name": "battery/current", "resolution": 1e308}]
    found = edit_energy(samples(on_battery(lambda time: 2.0)), summary(), sensors, provenance="measured")
    json.dumps(found, allow_nan=False)
    assert found["joules"] is None
    assert "no phone" in found["reason"]


def test_what_unpacks_to_more_than_an_attempt_may_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobifarm.workloads.samples.BYTES_LIMIT", 1 << 20)
    bomb = pb.TelemetryLog(batches=[zlib.compress(bytes(1 << 24), 9)]).SerializeToString()
    halves = pb.TelemetryLog(batches=[zlib.compress(b"\x12\x80\x80\x28" + bytes(5 << 17), 9)] * 2)
    for pieces in ([bomb], [halves.SerializeToString()]):
        tracemalloc.start()
        with pytest.raises(ValueError, match="too much"):
            unpack(pieces)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 23
    monkeypatch.setattr("mobifarm.workloads.samples.SAMPLES_LIMIT", 10)
    many = compress(pb.TelemetryBatch(samples=[pb.TelemetrySample()] * 11))
    with pytest.raises(ValueError, match="too much"):
        unpack(pack([many]))


def test_samples_of_pieces_that_came_out_of_order_are_put_in_it() -> None:
    def batch(*times: int) -> bytes:
        made = [
            pb.TelemetrySample(monotonic_ns=time, step=time, values={f"x/{time}": time}) for time in times
        ]
        return compress(pb.TelemetryBatch(samples=made))

    found = unpack(pack([batch(3, 4), batch(1, 2)]))
    assert list(found.monotonic_ns) == list(found.step) == [1, 2, 3, 4]
    for time in range(1, 5):
        column = found.values[f"x/{time}"]
        assert column[time - 1] == time
        assert np.isnan(column).sum() == 3


def test_a_counter_that_is_updated_more_rarely_than_the_quiet_lasts_has_an_uncertainty() -> None:
    power = watts(0.5, 2.0)
    rail = {"rail/a/energy": lambda time: power(BEGIN_S + (time - BEGIN_S) // 4.5 * 4.5)}
    found = edit_energy(samples(rail), summary(), RAILS, provenance="measured")
    json.dumps(found, allow_nan=False)
    assert found["baseline_watts"] == pytest.approx(0.5)
    assert found["uncertainty_joules"] > 0
