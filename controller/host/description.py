"""What an agent says of its phone, within bounds: parts of it go into every result. Pure."""

from __future__ import annotations

from typing import Final

from mobifarm.v1 import agent_pb2
from mobifarm.workloads.samples import SENSOR_LIMIT, SENSOR_NAME_LIMIT

TEXT_LIMIT: Final = 500  # characters
METHODS_LIMIT: Final = 64
PROCESSORS_LIMIT: Final = 1024


def bounded(description: agent_pb2.DescribeResponse) -> agent_pb2.DescribeResponse:
    """A copy with no more sensors, methods and text than a phone has; what is beyond is left out."""
    found = agent_pb2.DescribeResponse()
    found.CopyFrom(description)
    found.agent_version = description.agent_version[:TEXT_LIMIT]
    found.session_id = description.session_id[:TEXT_LIMIT]
    del found.sensors[:]
    for sensor in description.sensors:
        if len(found.sensors) < SENSOR_LIMIT and len(sensor.name) <= SENSOR_NAME_LIMIT:
            kept = found.sensors.add()
            kept.CopyFrom(sensor)
            kept.source, kept.unit = sensor.source[:TEXT_LIMIT], sensor.unit[:TEXT_LIMIT]
            kept.sign, kept.reason = sensor.sign[:TEXT_LIMIT], sensor.reason[:TEXT_LIMIT]
    del found.methods[:]
    found.methods.extend(
        method for method in description.methods[:METHODS_LIMIT] if len(method) <= TEXT_LIMIT
    )
    found.cpu_governors.clear()
    for processor in sorted(description.cpu_governors)[:PROCESSORS_LIMIT]:
        found.cpu_governors[processor[:TEXT_LIMIT]] = description.cpu_governors[processor][:TEXT_LIMIT]
    return found
