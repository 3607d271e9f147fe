"""Which answers of a phone end its quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.host import health
from mobifarm.controller.host.health import check_phone
from mobifarm.v1 import agent_pb2 as pb

HASH = "ab" * 32


def rpc_error(code: grpc.StatusCode, details: str = "words") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


def result(
    status: pb.EditStatus = pb.EDIT_STATUS_STEP_LIMIT, *, returned: bool = True, after: float = -2.0
) -> pb.EditResult:
    score = pb.ProbeScore(
        wanted_before=pb.AnswerScore(log_probability=-3.0), wanted_after=pb.AnswerScore(log_probability=after)
    )
    return pb.EditResult(
        status=status, scores=[score], execution=pb.Execution(base_hash="h", returned_to_base=returned)
    )


class Stub:
    def __init__(self, outcomes: list[Any], held: list[pb.HeldAttempt]) -> None:
        self.outcomes, self.held = outcomes, held
        self.requests: list[pb.RunRequest] = []
        self.acknowledged: list[str] = []

    async def Run(self, request: pb.RunRequest, timeout: float) -> AsyncIterator[pb.RunResponse]:  # noqa: N802
        self.requests.append(request)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        yield pb.RunResponse(progress=pb.EditProgress())
        if outcome is not None:
            yield pb.RunResponse(result=outcome)

    async def Acknowledge(self, request: pb.AcknowledgeRequest, timeout: float) -> None:  # noqa: N802
        self.acknowledged.append(request.attempt_id)

    async def Describe(self, request: pb.DescribeRequest, timeout: float) -> pb.DescribeResponse:  # noqa: N802
        return pb.DescribeResponse(attempts=self.held)


class Phone:
    def __init__(
        self, *outcomes: Any, bundles: tuple[str, ...] = (HASH,), held: tuple[pb.HeldAttempt, ...] = ()
    ) -> None:
        self.stub: Any = Stub(list(outcomes), list(held))
        self.description = pb.DescribeResponse(methods=["forward"])
        self.bundles = list(bundles)
        self.healthy = True

    async def check_health(self, timeout_s: float) -> None:
        if not self.healthy:
            raise DeviceError("the agent does not answer")

    async def stored_bundles(self) -> list[str]:
        return list(self.bundles)

    async def remove_bundle(self, bundle_hash: str) -> None:
        self.bundles.remove(bundle_hash)


async def test_a_known_edit_that_is_done_and_undone_passes() -> None:
    phone = Phone(result(), bundles=(HASH, "cd" * 32))
    checkup = await check_phone(phone, "check-1", 7)
    assert checkup.passed, checkup.reason
    (request,) = phone.stub.requests
    assert (request.bundle_hash, request.fencing_token, request.keep) == (HASH, 7, pb.KEEP_NO)
    assert phone.stub.acknowledged == ["check-1"]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (result(pb.EDIT_STATUS_FAILED), "was not done"),
        (result(pb.EDIT_STATUS_CANCELLED), "was not done"),
        (result(returned=False), "left the model changed"),
        (result(after=float("nan")), "scores that no model gives"),
        (result(after=0.5), "scores that no model gives"),
        (pb.EditResult(status=1, execution=pb.Execution(returned_to_base=True)), "scores that no model"),
        (None, "without a result"),
        (rpc_error(grpc.StatusCode.INTERNAL, "no space"), "no space"),
        (rpc_error(grpc.StatusCode.FAILED_PRECONDITION, "fenced"), "fenced"),
    ],
)
async def test_anything_else_fails_with_the_reason(outcome: Any, words: str) -> None:
    checkup = await check_phone(Phone(outcome), "check-1", 7)
    assert not checkup.passed
    assert words in checkup.reason
    assert not checkup.agent_gone


async def test_an_agent_that_is_gone_is_told_apart() -> None:
    assert (await check_phone(Phone(rpc_error(grpc.StatusCode.UNAVAILABLE)), "check-1", 7)).agent_gone


@pytest.mark.parametrize("code", [grpc.StatusCode.DATA_LOSS, grpc.StatusCode.NOT_FOUND])
async def test_a_damaged_model_is_removed_so_that_the_next_job_brings_it_anew(code: grpc.StatusCode) -> None:
    phone = Phone(rpc_error(code))
    checkup = await check_phone(phone, "check-1", 7)
    assert not checkup.passed
    assert "was removed" in checkup.reason
    assert phone.bundles == []
    assert (await check_phone(phone, "check-2", 7)).passed


async def test_a_phone_that_still_stops_something_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "BUSY_RETRY_S", 0)
    busy = rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert (await check_phone(Phone(busy, busy, result()), "check-1", 7)).passed
    monkeypatch.setattr(health, "BUSY_TRIES", 2)
    assert not (await check_phone(Phone(busy, busy, result()), "check-1", 7)).passed


async def test_without_a_model_the_agents_readiness_counts() -> None:
    assert (await check_phone(Phone(bundles=()), "check-1", 7)).passed
    running = pb.HeldAttempt(attempt_id="old", state=pb.ATTEMPT_STATE_RUNNING)
    assert not (await check_phone(Phone(bundles=(), held=(running,)), "check-1", 7)).passed
    sick = Phone(bundles=())
    sick.healthy = False
    assert not (await check_phone(sick, "check-1", 7)).passed
