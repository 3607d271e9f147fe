"""The tunnel to a phone's agent, and gRPC through it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.provisioning.agent import AgentEndpoint
from mobifarm.controller.transport.interface import DeviceTransport, Forward
from mobifarm.v1 import agent_pb2, agent_pb2_grpc

# Without ping_timeout a tunnel that swallows everything is noticed after 60 s only, whatever the rest says.
_CHANNEL_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 << 20),
)


class AgentConnection:
    """A channel to one agent that carries its token on every call."""

    def __init__(
        self, endpoint: AgentEndpoint, channel: grpc.aio.Channel, forward: Forward | None = None
    ) -> None:
        self.endpoint = endpoint
        self.channel = channel
        self.agent: agent_pb2_grpc.AgentServiceAsyncStub = agent_pb2_grpc.AgentServiceStub(channel)
        self._forward = forward

    async def check_health(self, timeout_s: float) -> None:
        """Ask the agent whether it serves.

        Raises:
            DeviceError: it does not, or does not answer in time.
        """
        health = health_pb2_grpc.HealthStub(self.channel)
        try:
            answer = await health.Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            raise agent_failure("the agent does not answer", error) from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise DeviceError("the agent runs but does not serve; restart it")

    async def describe(self, timeout_s: float = 10.0) -> agent_pb2.DescribeResponse:
        """Who the agent is and what it holds.

        Raises:
            DeviceError: it does not answer in time.
        """
        try:
            return await self.agent.Describe(agent_pb2.DescribeRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise agent_failure("the agent does not describe itself", error) from error

    async def close(self) -> None:
        """End all calls, then the tunnel. The agent goes on."""
        await self.channel.close()
        if self._forward:
            await asyncio.to_thread(self._forward.close)


def agent_failure(what: str, error: grpc.aio.AioRpcError) -> DeviceError:
    """A failed call as an error of the phone."""
    return DeviceError(f"{what}: {error.code().name}: {(error.details() or '')[:500]}")


async def connect_agent(
    transport: DeviceTransport,
    endpoint: AgentEndpoint,
    socket_directory: Path,
    timeout_s: float = 20.0,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> AgentConnection:
    """Open the tunnel to a running agent and check that it serves.

    Args:
        transport: link to the phone; stays the caller's.
        endpoint: from :func:`~mobifarm.controller.provisioning.agent.start_agent`.
        socket_directory: short path of a directory of this user alone, see :func:`default_socket_directory`.
        timeout_s: for the agent to answer.
        interceptors: around every call, outside of the token's.

    Raises:
        DeviceError: the agent does not answer or does not serve.
        HostError: the tunnel's socket cannot be made.
    """
    name = hashlib.sha256(f"{transport.address} {endpoint.session_id} {os.getpid()}".encode()).hexdigest()[
        :16
    ]
    # At once, not in a thread: a caller that is cancelled could not close what the thread makes.
    forward = transport.forward(endpoint.destination, socket_directory / f"{name}.sock")
    return await _connect(endpoint, f"unix:{forward.path}", forward, timeout_s, interceptors)


async def connect_here(endpoint: AgentEndpoint, timeout_s: float = 20.0) -> AgentConnection:
    """Connect to an agent on this machine, without a tunnel, and check that it serves.

    Raises:
        DeviceError: it does not answer or does not serve.
    """
    return await _connect(endpoint, endpoint.address, None, timeout_s)


async def _connect(
    endpoint: AgentEndpoint,
    target: str,
    forward: Forward | None,
    timeout_s: float,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> AgentConnection:
    channel = grpc.aio.insecure_channel(
        target,
        options=_CHANNEL_OPTIONS,
        interceptors=[*interceptors, _UnaryToken(endpoint.token), _StreamToken(endpoint.token)],
    )
    connection = AgentConnection(endpoint, channel, forward)
    try:
        await connection.check_health(timeout_s)
    except BaseException:
        await connection.close()
        raise
    return connection


def default_socket_directory() -> Path:
    """A short directory for sockets that only this user may enter (made by the first forward)."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and len(base) <= 40 and os.access(base, os.W_OK):
        return Path(base, "mobifarm")
    return Path(tempfile.gettempdir(), f"mobifarm-{os.getuid()}")


class _UnaryToken(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_token(client_call_details, self._token), request)


class _StreamToken(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_token(client_call_details, self._token), request)


def _with_token(details: grpc.aio.ClientCallDetails, token: str) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata.add("authorization", f"Bearer {token}")
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=details.timeout,
        metadata=metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )
