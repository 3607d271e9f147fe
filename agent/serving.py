"""Puts the agent together, announces it, and takes it down in order."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnxruntime

import mobifarm
from mobifarm.agent.errors import AgentError
from mobifarm.agent.execution import Execution
from mobifarm.agent.fence import Fence
from mobifarm.agent.home import AgentHome, default_address
from mobifarm.agent.journal import Journal
from mobifarm.agent.kept import KeptEdits
from mobifarm.agent.metrics import serve_metrics
from mobifarm.agent.process import processors
from mobifarm.agent.properties import read_properties
from mobifarm.agent.runner import EditRunner
from mobifarm.agent.samples import SampleFiles
from mobifarm.agent.sensors import cpu_governors, memory_total_bytes, probe
from mobifarm.agent.service import AgentServer, AgentService, Identity
from mobifarm.agent.sources import android_services
from mobifarm.agent.telemetry import IdleSampler, boottime_ns

_log = logging.getLogger(__name__)


class AddressError(AgentError):
    """The agent cannot listen where it was told to."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of one start.

    Attributes:
        address: where to listen; None takes an abstract socket named after the phone.
        sys_root: folder that holds ``sys`` and ``proc``.
        stop_s: how long a stop may wait for the running edit.
        metrics_port: where on loopback the agent's own metrics are served; None for nowhere.
    """

    address: str | None
    sys_root: Path
    stop_s: float
    metrics_port: int | None = None


async def serve(home: AgentHome, settings: Settings, runner: EditRunner) -> bool:
    """Serve until SIGTERM or SIGINT; ``home`` is taken already.

    Args:
        runner: does the edits.

    Returns:
        Whether everything ended; False where a running edit did not stop in time.

    Raises:
        AddressError: the address cannot be had.
        MetricsError: see serve_metrics.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    properties = read_properties()
    sensors = probe(settings.sys_root, home.root, android_services())
    idle = IdleSampler(sensors.read)
    identity = Identity(
        session_id=secrets.token_hex(16),
        properties=properties,
        cpu_count=processors(),
        memory_total_bytes=memory_total_bytes(settings.sys_root) or 0,
        onnxruntime_version=onnxruntime.__version__,
        methods=tuple(runner.methods),
    )
    execution = Execution(
        runner=runner,
        journal=Journal(home.journal),
        kept=KeptEdits(home.edits, runner.edit_shape),
        fence=Fence(home.fencing_token),
        read_sensors=sensors.read,
        samples=partial(SampleFiles, home.journal),
        idle=idle,
        services_cpu_s=lambda: sensors.services_cpu_s,
    )
    service = AgentService(
        execution, identity, sensors, idle, governors=partial(cpu_governors, settings.sys_root)
    )
    server = AgentServer(service, home.make_token())
    address = settings.address or default_address(home.root, properties.get("ro.serialno", ""))
    metrics = None
    if settings.metrics_port is not None:
        metrics = serve_metrics(settings.metrics_port, sensors.descriptions, execution.held)
    try:
        port = await server.start(address)
    except RuntimeError:
        raise AddressError(
            f"the agent cannot listen on {address}: it is taken or not allowed here, give another --address"
        ) from None
    if address.startswith("127."):
        address = f"127.0.0.1:{port}"
    idle.start()
    home.announce(
        address=address,
        agent_version=mobifarm.__version__,
        session_id=identity.session_id,
        started_boottime_ns=boottime_ns(),
    )
    _log.info("version %s listens on %s", mobifarm.__version__, address)
    print(f"listening on {address}", flush=True)
    if metrics:
        print(f"metrics at http://127.0.0.1:{metrics.port}/metrics", flush=True)

    await stop.wait()
    if metrics:
        await asyncio.to_thread(metrics.stop)
    _log.info("stopping")
    home.withdraw()
    await server.refuse()
    await asyncio.to_thread(idle.stop)
    ended = await execution.stop(settings.stop_s)
    await server.stop(1.0)
    return ended
