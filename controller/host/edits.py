"""What a host can do with the edits that a phone keeps: list, undo, export, import.

The phone's own file is their only record; nothing here is remembered.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from mobifarm.controller.errors import DeviceError, FarmError, UserError
from mobifarm.v1 import agent_pb2, agent_pb2_grpc

DEADLINE_S = 20.0
EXPORT_LIMIT_BYTES = 15 << 20  # the agent's own limit; gRPC refuses larger messages in words of its own

_USERS_MOVE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
)


@dataclass(frozen=True, slots=True)
class ListEdits:
    """Of every bundle that has kept edits."""


@dataclass(frozen=True, slots=True)
class ExportEdits:
    bundle_hash: str


@dataclass(frozen=True, slots=True)
class UndoEdits:
    """``edit_ids`` is None for all."""

    bundle_hash: str
    edit_ids: tuple[str, ...] | None
    fencing_token: int


@dataclass(frozen=True, slots=True)
class ImportEdits:
    """The file says for which bundle it is."""

    exported: bytes
    fencing_token: int


EditsRequest = ListEdits | ExportEdits | UndoEdits | ImportEdits


async def carry_out(
    device_id: str, stub: agent_pb2_grpc.AgentServiceAsyncStub, request: EditsRequest
) -> Mapping[str, Any]:
    """Ask the phone's agent; the answer is plain JSON, an exported file in base64.

    Raises:
        UserError: the agent refuses the request, or is busy.
        DeviceError: the agent does not answer, or what it keeps is damaged.
    """
    try:
        return await _call(stub, request)
    except grpc.aio.AioRpcError as error:
        raise _refusal(device_id, error) from error
    except asyncio.CancelledError:
        # A channel that is closed under a call cancels it, and nobody cancelled this task.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise DeviceError(f"the phone {device_id} went away: try again when it is back") from None


async def _call(stub: agent_pb2_grpc.AgentServiceAsyncStub, request: EditsRequest) -> Mapping[str, Any]:
    match request:
        case ListEdits():
            listed = await stub.ListEdits(agent_pb2.ListEditsRequest(), timeout=DEADLINE_S)
            return {"bundles": [_bundle(bundle) for bundle in listed.bundles]}
        case ExportEdits():
            export = await stub.ExportEdits(
                agent_pb2.ExportEditsRequest(bundle_hash=request.bundle_hash), timeout=DEADLINE_S
            )
            return {"exported": base64.b64encode(export.exported).decode("ascii")}
        case UndoEdits():
            left = await stub.UndoEdits(
                agent_pb2.UndoEditsRequest(
                    bundle_hash=request.bundle_hash,
                    edit_ids=request.edit_ids or (),
                    all=request.edit_ids is None,
                    fencing_token=request.fencing_token,
                ),
                timeout=DEADLINE_S,
            )
            return {"undone": list(left.undone), "kept": left.kept}
        case ImportEdits():
            imported = await stub.ImportEdits(
                agent_pb2.ImportEditsRequest(exported=request.exported, fencing_token=request.fencing_token),
                timeout=DEADLINE_S,
            )
            return {
                "bundle_hash": imported.bundle_hash,
                "imported": list(imported.imported),
                "kept": imported.kept,
            }


def _bundle(bundle: agent_pb2.KeptBundle) -> dict[str, Any]:
    return {
        "bundle_hash": bundle.bundle_hash,
        "bundle_name": bundle.bundle_name,
        "problem": bundle.problem,
        "edits": [
            {
                "edit_id": edit.edit_id,
                "subject": edit.subject,
                "prompt": edit.prompt,
                "target_new": edit.target_new,
                "method": edit.method,
            }
            for edit in bundle.edits
        ],
    }


def _refusal(device_id: str, error: grpc.aio.AioRpcError) -> FarmError:
    message = (error.details() or error.code().name)[:500]
    if error.code() in _USERS_MOVE:
        return UserError(f"the phone {device_id} refuses: {message}")
    if error.code() is grpc.StatusCode.DATA_LOSS:
        return DeviceError(f"the phone {device_id}: {message}")
    return DeviceError(f"the phone {device_id} does not answer ({error.code().name}): {message}")
