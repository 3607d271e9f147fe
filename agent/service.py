"""The gRPC face of the agent: turns calls into work and errors into statuses, nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

import mobifarm
from mobifarm.agent import errors
from mobifarm.agent.authentication import TokenInterceptor
from mobifarm.agent.conversion import kept_bundle
from mobifarm.agent.execution import Execution
from mobifarm.agent.sensors import Sensors
from mobifarm.agent.telemetry import IdleSampler, boottime_ns
from mobifarm.v1 import agent_pb2 as pb
from mobifarm.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server

_log = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AgentService"].full_name

# The farm pings through a tunnel that may hang; the defaults would answer its pings with GOAWAY, and would
# take a minute to notice a dead tunnel.
_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 4_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 16 << 20),  # an exported file of edits, see stack.SIZE_LIMIT_BYTES
)

_SAMPLES_PER_MESSAGE = 2  # of an idle phone: what is shown of it is at most two seconds old
_UNSENT_SAMPLES = 60  # for a caller that does not read

# First match counts: subclasses stand before their bases.
_STATUSES: tuple[tuple[type[errors.AgentError], grpc.StatusCode], ...] = (
    (errors.InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.BundleNotFound, grpc.StatusCode.NOT_FOUND),
    (errors.BundleError, grpc.StatusCode.DATA_LOSS),
    (errors.DamagedEdits, grpc.StatusCode.DATA_LOSS),
    (errors.Busy, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Fenced, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.NotHeld, grpc.StatusCode.NOT_FOUND),
    (errors.StillRunning, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Stopping, grpc.StatusCode.UNAVAILABLE),
)

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays the same as long as the agent runs. ``memory_total_bytes`` is 0 where it is unknown."""

    session_id: str
    properties: dict[str, str]
    cpu_count: int
    memory_total_bytes: int
    onnxruntime_version: str
    methods: tuple[str, ...]


class AgentService(AgentServiceServicer):
    """Implements ``mobifarm.v1.AgentService``; the contract is in the .proto file."""

    def __init__(
        self,
        execution: Execution,
        identity: Identity,
        sensors: Sensors,
        idle: IdleSampler,
        governors: Callable[[], dict[str, str]],
    ) -> None:
        self._execution = execution
        self._identity = identity
        self._sensors = sensors
        self._idle = idle
        self._governors = governors

    async def Describe(self, request: pb.DescribeRequest, context: _Context) -> pb.DescribeResponse:  # noqa: N802
        """Tell what is known without reading the phone's sensors again."""
        identity = self._identity
        return pb.DescribeResponse(
            agent_version=mobifarm.__version__,
            session_id=identity.session_id,
            properties=identity.properties,
            sensors=[
                pb.SensorDescription(
                    name=sensor.name,
                    source=sensor.source,
                    readable=sensor.readable,
                    unit=sensor.unit,
                    sign=sensor.sign,
                    reason=sensor.reason,
                    resolution=sensor.resolution or 0.0,
                )
                for sensor in self._sensors.descriptions
            ],
            attempts=[
                pb.HeldAttempt(
                    attempt_id=attempt.attempt_id,
                    fencing_token=attempt.request.fencing_token,
                    state=pb.ATTEMPT_STATE_RUNNING if attempt.result is None else pb.ATTEMPT_STATE_FINISHED,
                )
                for attempt in self._execution.held()
            ],
            cpu_count=identity.cpu_count,
            memory_total_bytes=identity.memory_total_bytes,
            fencing_token=self._execution.fencing_token,
            onnxruntime_version=identity.onnxruntime_version,
            methods=identity.methods,
            cpu_governors=self._governors(),
        )

    async def CheckBundle(  # noqa: N802
        self, request: pb.CheckBundleRequest, context: _Context
    ) -> pb.CheckBundleResponse:
        """Hash the bundle's files beside whatever runs."""
        async with _answering(context):
            bundle = await self._execution.check_bundle(request.bundle_hash)
        return pb.CheckBundleResponse(
            bundle_hash=bundle.bundle_hash, name=bundle.name, size_bytes=bundle.size_bytes
        )

    async def Run(self, request: pb.RunRequest, context: _Context) -> AsyncIterator[pb.RunResponse]:  # noqa: N802
        """Stream an attempt."""
        async with _answering(context), aclosing(self._execution.run(request)) as messages:
            async for message in messages:
                yield message

    async def WatchSensors(  # noqa: N802
        self, request: pb.WatchSensorsRequest, context: _Context
    ) -> AsyncIterator[pb.WatchSensorsResponse]:
        """One sample at once, then two samples every two seconds; nothing while an attempt runs."""
        loop = asyncio.get_running_loop()
        samples: deque[pb.TelemetrySample] = deque(maxlen=_UNSENT_SAMPLES)
        enough = asyncio.Event()

        def take(sample: pb.TelemetrySample) -> None:
            samples.append(sample)
            if len(samples) >= _SAMPLES_PER_MESSAGE:
                enough.set()

        def hear(sample: pb.TelemetrySample) -> None:
            with suppress(RuntimeError):  # the loop is closed: the agent ends
                loop.call_soon_threadsafe(take, sample)

        async with _answering(context):
            if all(attempt.result is not None for attempt in self._execution.held()):
                monotonic_ns = boottime_ns()
                values = await asyncio.to_thread(self._sensors.read)
                sample = pb.TelemetrySample(
                    monotonic_ns=monotonic_ns, values=values, phase=pb.EDIT_PHASE_IDLE
                )
                yield pb.WatchSensorsResponse(batch=pb.TelemetryBatch(samples=[sample]))
            self._idle.listen(hear)
            try:
                while True:
                    await enough.wait()
                    enough.clear()
                    batch = pb.TelemetryBatch(samples=samples)
                    samples.clear()
                    yield pb.WatchSensorsResponse(batch=batch)
            finally:
                self._idle.forget(hear)

    async def ReadClock(self, request: pb.ReadClockRequest, context: _Context) -> pb.ReadClockResponse:  # noqa: N802
        """At once: the caller takes the time of the round trip."""
        return pb.ReadClockResponse(monotonic_ns=boottime_ns())

    async def Cancel(self, request: pb.CancelRequest, context: _Context) -> pb.CancelResponse:  # noqa: N802
        """Answer at once; the attempt's stream tells when it has stopped."""
        async with _answering(context):
            self._execution.cancel(request.attempt_id)
        return pb.CancelResponse()

    async def Acknowledge(  # noqa: N802
        self, request: pb.AcknowledgeRequest, context: _Context
    ) -> pb.AcknowledgeResponse:
        """May be repeated."""
        async with _answering(context):
            await self._execution.acknowledge(request.attempt_id)
        return pb.AcknowledgeResponse()

    async def ListEdits(self, request: pb.ListEditsRequest, context: _Context) -> pb.ListEditsResponse:  # noqa: N802
        """Read the kept edits beside whatever runs."""
        async with _answering(context):
            bundles = await self._execution.list_edits(request.bundle_hash)
        return pb.ListEditsResponse(bundles=[kept_bundle(bundle) for bundle in bundles])

    async def UndoEdits(self, request: pb.UndoEditsRequest, context: _Context) -> pb.UndoEditsResponse:  # noqa: N802
        """All or none of those named."""
        async with _answering(context):
            if request.all == bool(request.edit_ids):
                raise errors.InputError("give either edit_ids or all")
            edit_ids = None if request.all else list(request.edit_ids)
            undone, kept = await self._execution.undo_edits(
                request.bundle_hash, edit_ids, request.fencing_token
            )
        return pb.UndoEditsResponse(undone=undone, kept=kept)

    async def ExportEdits(  # noqa: N802
        self, request: pb.ExportEditsRequest, context: _Context
    ) -> pb.ExportEditsResponse:
        """Read the kept edits beside whatever runs."""
        async with _answering(context):
            exported = await self._execution.export_edits(request.bundle_hash)
        return pb.ExportEditsResponse(exported=exported)

    async def ImportEdits(  # noqa: N802
        self, request: pb.ImportEditsRequest, context: _Context
    ) -> pb.ImportEditsResponse:
        """All edits of the file or none."""
        async with _answering(context):
            kept, imported = await self._execution.import_edits(
                request.bundle_hash, request.exported, request.fencing_token
            )
        return pb.ImportEditsResponse(bundle_hash=kept.bundle_hash, imported=imported, kept=len(kept))


class AgentServer:
    """The service behind the token, with health checks."""

    def __init__(self, service: AgentService, token: str) -> None:
        self._server = grpc.aio.server(interceptors=[TokenInterceptor(token)], options=_SERVER_OPTIONS)
        self._health = HealthServicer()
        add_AgentServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, address: str) -> int:
        """Listen; returns the port for TCP. Raises RuntimeError where the address cannot be had."""
        port = self._server.add_insecure_port(address)
        await self._server.start()
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def refuse(self) -> None:
        """Tell whoever watches that the agent is about to stop."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Close the listener and, after ``grace_s``, every call."""
        await self._server.stop(grace_s)


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """Status code and message for the caller."""
    for kind, code in _STATUSES:
        if isinstance(error, kind):
            return code, str(error)
    if isinstance(error, errors.InternalError):
        return grpc.StatusCode.INTERNAL, str(error)
    if isinstance(error, OSError):
        return (
            grpc.StatusCode.INTERNAL,
            f"the agent's folder cannot be used ({error.strerror}): free space on the phone",
        )
    return grpc.StatusCode.INTERNAL, "internal error of the agent; its log on the phone has the details"


@asynccontextmanager
async def _answering(context: _Context) -> AsyncIterator[None]:
    """End the call with the status that fits what was raised."""
    try:
        yield
    except Exception as error:
        code, message = status_of(error)
        if code is grpc.StatusCode.INTERNAL and not isinstance(error, errors.InternalError):
            _log.exception("a call failed")
        await context.abort(code, message)
