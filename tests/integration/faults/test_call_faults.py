"""Calls whose request or whose reply is lost, by interceptors around the farm's own calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from mobifarm.simulator.virtual_phones import VirtualPhones

QUICK = {"step_limit": 2}


def lost(what: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=f"the {what} was lost"
    )


def is_method(details: grpc.aio.ClientCallDetails, method: str) -> bool:
    name = details.method.decode() if isinstance(details.method, bytes) else str(details.method)
    return name.endswith(f"/{method}")


class LoseShortCalls(grpc.aio.UnaryUnaryClientInterceptor):
    """Loses the first calls of one method: before they are sent, or after they were answered."""

    def __init__(self, method: str, times: int, *, reply: bool) -> None:
        self.method, self.left, self.reply = method, times, reply

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        if self.left and is_method(client_call_details, self.method):
            self.left -= 1
            if self.reply:
                await (await continuation(client_call_details, request))
            raise lost("reply" if self.reply else "request")
        return await continuation(client_call_details, request)


class LoseRuns(grpc.aio.UnaryStreamClientInterceptor):
    """Loses the first Runs: before they are sent, or the stream after its first message."""

    def __init__(self, times: int, *, reply: bool) -> None:
        self.left, self.reply = times, reply

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        if not self.left or not is_method(client_call_details, "Run"):
            return await continuation(client_call_details, request)
        self.left -= 1
        if not self.reply:
            raise lost("request")
        call = await continuation(client_call_details, request)

        async def broken() -> AsyncIterator[Any]:
            async for message in call:
                yield message
                raise lost("reply")

        return broken()


@pytest.mark.parametrize(
    "interceptor",
    [
        LoseRuns(1, reply=False),
        LoseRuns(1, reply=True),
        LoseShortCalls("Acknowledge", 2, reply=False),
        LoseShortCalls("Acknowledge", 2, reply=True),
    ],
    ids=["run-request", "run-reply", "acknowledge-request", "acknowledge-reply"],
)
async def test_a_lost_call_loses_and_doubles_nothing(
    start: Any, phones: VirtualPhones, interceptor: Any
) -> None:
    async with start([interceptor]) as farm:
        await farm.add(phones.phones[0].address)
        job_id = await farm.submit(2, QUICK, attempts=5)

        job = farm.farm.state.jobs[job_id]
        await farm.until(lambda: not job.open, "the end of the job", skipping=True)
        await farm.nothing_lost_nothing_doubled(job_id)
        # The last result is let go of once it is kept, which is after the end of the job.
        await farm.until(lambda: interceptor.left == 0, "the fault")
    # What was not acknowledged is met again by the next farm, and then let go of.
    async with start() as farm:
        await farm.add(phones.phones[0].address)
        await farm.phones_hold_nothing()
        await farm.nothing_lost_nothing_doubled(job_id)
