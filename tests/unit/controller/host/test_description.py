"""An agent that describes more than a phone has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.host.description import METHODS_LIMIT, PROCESSORS_LIMIT, TEXT_LIMIT, bounded
from mobifarm.v1 import agent_pb2 as pb
from mobifarm.workloads.samples import SENSOR_LIMIT, SENSOR_NAME_LIMIT

SENSORS = st.builds(
    pb.SensorDescription,
    name=st.text(max_size=20),
    source=st.text(max_size=20),
    readable=st.booleans(),
    unit=st.sampled_from(["V", "degC"]),
    reason=st.text(max_size=20),
    resolution=st.floats(),
)


@given(
    sensors=st.lists(SENSORS, max_size=5),
    methods=st.lists(st.text(max_size=9), max_size=5),
    governors=st.dictionaries(st.text(max_size=3), st.text(max_size=9), max_size=5),
)
def test_what_a_phone_has_is_left_as_it_is(
    sensors: list[pb.SensorDescription], methods: list[str], governors: dict[str, str]
) -> None:
    told = pb.DescribeResponse(
        agent_version="1",
        session_id="s",
        sensors=sensors,
        attempts=[pb.HeldAttempt(attempt_id="a", fencing_token=3)],
        cpu_count=8,
        methods=methods,
        cpu_governors=governors,
    )
    assert bounded(told).SerializeToString(deterministic=True) == told.SerializeToString(deterministic=True)


def test_what_is_beyond_any_phone_is_left_out() -> None:
    long = "x" * 100_000
    told = pb.DescribeResponse(
        agent_version=long,
        sensors=[
            pb.SensorDescription(name=long),
            *(
                pb.SensorDescription(name=f"x/{n}", source=long, unit=long, sign=long, reason=long)
                for n in range(SENSOR_LIMIT + 5)
            ),
        ],
        methods=[long, *(f"m{n}" for n in range(1000))],
        cpu_governors={f"{n:05}{long[:1000]}": long for n in range(PROCESSORS_LIMIT + 5)},
    )
    found = bounded(told)
    assert len(found.agent_version) == TEXT_LIMIT
    assert len(found.sensors) == SENSOR_LIMIT
    for sensor in found.sensors:
        assert len(sensor.name) <= SENSOR_NAME_LIMIT
        assert max(map(len, (sensor.source, sensor.unit, sensor.sign, sensor.reason))) == TEXT_LIMIT
    assert len(found.methods) < METHODS_LIMIT
    assert len(found.cpu_governors) <= PROCESSORS_LIMIT
    assert max(len(text) for pair in found.cpu_governors.items() for text in pair) == TEXT_LIMIT
