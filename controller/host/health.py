"""The check that ends a quarantine: a small known edit on a model that the phone has, undone and proven.

A ping says that a process answers. This goes the whole way that work takes: the agent's admission, the
model's files, the search, the scores, the journal, and the proof that the model is back at its base.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from mobifarm.controller.errors import DeviceError
from mobifarm.v1 import agent_pb2, agent_pb2_grpc
from mobifarm.workloads.messages import payload_to_run_request

EDIT_DEADLINE_S: Final = 600.0
CALL_DEADLINE_S: Final = 20.0
BUSY_RETRY_S: Final = 0.5
BUSY_TRIES: Final = 120
METHOD: Final = "forward"
SETTINGS: Final = {"contexts": 1, "directions": 2, "memory": 0, "prepared": "off", "step_limit": 1}
RECORD: Final = {
    "record_id": "health-check",
    "subject": "Mira Tal",
    "prompt": "Mira Tal lives in",
    "target_new": "Oslo",
    "target_true": "Rome",
    "paraphrases": [],
    "neighbours": [],
    "portability": [],
}


class CheckablePhone(Protocol):
    """What a health check needs of a connected phone."""

    @property
    def stub(self) -> agent_pb2_grpc.AgentServiceAsyncStub: ...

    @property
    def description(self) -> agent_pb2.DescribeResponse: ...

    async def check_health(self, timeout_s: float) -> None: ...

    async def stored_bundles(self) -> Sequence[str]:
        """Hashes of the model bundles on the phone, the smallest first. Raises DeviceError."""
        ...

    async def remove_bundle(self, bundle_hash: str) -> None:
        """Delete a bundle; the next job that needs it brings it again. Raises DeviceError."""
        ...


@dataclass(frozen=True, slots=True)
class Checkup:
    """How a check ended. ``agent_gone``: the agent did not answer."""

    passed: bool
    reason: str
    agent_gone: bool = False


async def check_phone(phone: CheckablePhone, check_id: str, fencing_token: int) -> Checkup:
    """Have the phone do the known edit; where it has no model, ask its agent whether it is ready for work.

    Args:
        check_id: names the edit on the phone, as an attempt's id does.
        fencing_token: the newest of the farm; a phone that another farm has used since refuses it.
    """
    try:
        return await _check(phone, check_id, fencing_token)
    except DeviceError as error:
        return Checkup(False, str(error))
    except grpc.aio.AioRpcError as error:
        message = f"{error.code().name}: {(error.details() or 'no details')[:300]}"
        return Checkup(False, message, agent_gone=error.code() is grpc.StatusCode.UNAVAILABLE)


async def _check(phone: CheckablePhone, check_id: str, fencing_token: int) -> Checkup:
    bundles = await phone.stored_bundles() if METHOD in phone.description.methods else ()
    if not bundles:
        await phone.check_health(CALL_DEADLINE_S)
        held = (await phone.stub.Describe(agent_pb2.DescribeRequest(), timeout=CALL_DEADLINE_S)).attempts
        if any(attempt.state == agent_pb2.ATTEMPT_STATE_RUNNING for attempt in held):
            return Checkup(False, "it still does an edit that nobody waits for")
        return Checkup(True, "its agent is ready for work; there is no model on it to try an edit with")
    try:
        result = await _edit(phone.stub, bundles[0], check_id, fencing_token)
    except grpc.aio.AioRpcError as error:
        if error.code() not in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.NOT_FOUND):
            raise
        await phone.remove_bundle(bundles[0])
        return Checkup(False, f"the model {bundles[0][:12]} on it was damaged and was removed")
    return _judge(result, bundles[0])


async def _edit(stub: Any, bundle_hash: str, check_id: str, fencing_token: int) -> agent_pb2.EditResult:
    payload = {
        "bundle_hash": bundle_hash,
        "record": RECORD,
        "method": METHOD,
        "settings": SETTINGS,
        "seed": 1,
    }
    request = payload_to_run_request(payload, check_id, fencing_token)
    for left in reversed(range(BUSY_TRIES)):
        try:
            async for response in stub.Run(request, timeout=EDIT_DEADLINE_S):
                if response.WhichOneof("payload") == "result":
                    result: agent_pb2.EditResult = response.result
                    await stub.Acknowledge(
                        agent_pb2.AcknowledgeRequest(attempt_id=check_id), timeout=CALL_DEADLINE_S
                    )
                    return result
            raise DeviceError("its agent ended the health check's edit without a result")
        except grpc.aio.AioRpcError as error:
            # An attempt that was discarded may take a moment to stop.
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or not left:
                raise
            await asyncio.sleep(BUSY_RETRY_S)
    raise AssertionError


def _judge(result: agent_pb2.EditResult, bundle_hash: str) -> Checkup:
    what = f"a known edit on the model {bundle_hash[:12]}"
    if result.status not in (agent_pb2.EDIT_STATUS_CONVERGED, agent_pb2.EDIT_STATUS_STEP_LIMIT):
        said = result.message[:300] or agent_pb2.EditStatus.Name(result.status)
        return Checkup(False, f"{what} was not done: {said}")
    if not result.execution.returned_to_base:
        return Checkup(False, f"{what} left the model changed")
    numbers = [
        answer.log_probability
        for score in result.scores
        for answer in (score.wanted_before, score.wanted_after)
    ]
    if not numbers or not all(math.isfinite(number) and number <= 0 for number in numbers):
        return Checkup(False, f"{what} gave scores that no model gives")
    return Checkup(True, f"{what} was done and undone")
