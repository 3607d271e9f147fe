"""The agent's own Prometheus metrics, for who looks into the agent itself; off unless asked for.

Scraping wakes the phone, so the farm does not: it has the phone's readings from telemetry. Needs
prometheus-client, which the agent's install does not bring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mobifarm
from mobifarm.agent.errors import AgentError

if TYPE_CHECKING:
    from mobifarm.agent.attempts import Attempt
    from mobifarm.agent.sensors import SensorDescription


class MetricsError(AgentError):
    """The metrics cannot be served as asked for."""


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """Answers at ``http://127.0.0.1:PORT/metrics`` from a thread until ``stop``."""

    port: int
    stop: Callable[[], None]


def serve_metrics(
    port: int, sensors: Sequence[SensorDescription], held: Callable[[], Sequence[Attempt]]
) -> MetricsServer:
    """Serve on loopback; port 0 takes a free one. ``held`` tells the attempts that the phone holds.

    Raises:
        MetricsError: prometheus-client is not installed, or the port cannot be had.
    """
    try:
        from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, start_http_server
    except ImportError:
        raise MetricsError(
            "--metrics-port needs prometheus-client: pip install 'mobifarm[agent-metrics]'"
        ) from None
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)

    def gauge(name: str, help_: str, label: str) -> Gauge:
        return Gauge(name, help_, [label], registry=registry)

    gauge("mobifarm_agent_info", "Always 1.", "version").labels(mobifarm.__version__).set(1)
    found = gauge("mobifarm_agent_sensors", "Sensors by whether they can be read.", "readable")
    for readable in (True, False):
        number = sum(sensor.readable is readable for sensor in sensors)
        found.labels(str(readable).lower()).set(number)
    attempts = gauge("mobifarm_agent_attempts", "Attempts that the phone holds.", "state")
    attempts.labels("running").set_function(lambda: sum(each.result is None for each in held()))
    attempts.labels("finished").set_function(lambda: sum(each.result is not None for each in held()))

    server: Any
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise MetricsError(
            f"port {port} of this phone cannot be used for metrics ({error.strerror}): give another"
        ) from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return MetricsServer(server.server_port, stop)
