"""Every call must show the agent's token, health checks included."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

_REFUSAL = (
    "the agent's token is missing or wrong: read it anew from the agent's folder on the phone, "
    "it changes at every start"
)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without ``authorization: Bearer TOKEN`` with UNAUTHENTICATED."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Pass the call on, or answer it with a handler of the same cardinality that refuses."""
        handler = await continuation(handler_call_details)
        if self._is_authorised(handler_call_details):
            return handler
        if handler is not None and handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(_refuse_stream)
        return grpc.unary_unary_rpc_method_handler(_refuse)

    def _is_authorised(self, details: grpc.HandlerCallDetails) -> bool:
        metadata: Any = details.invocation_metadata or ()
        shown = [value for key, value in metadata if key == "authorization"]
        if len(shown) != 1:
            return False
        value = shown[0]
        return hmac.compare_digest(value.encode() if isinstance(value, str) else value, self._expected)


async def _refuse(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, _REFUSAL)


async def _refuse_stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, _REFUSAL)
    yield  # unreachable; makes this the asynchronous generator that a streaming handler must be
