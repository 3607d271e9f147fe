"""Routes about phones. A phone's id may hold slashes, so that the routes with an ending come first.

A serial number stands for the id of the one phone that has it, or of the only one of them that is there.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends

from mobifarm.controller.api.bodies import (
    ChangedTags,
    DeviceId,
    DeviceNow,
    DeviceState,
    DeviceTags,
    ForgottenDevice,
    ImportedEdits,
    JsonObject,
    NewDevice,
    UndoneEdits,
    Why,
)
from mobifarm.controller.api.services import Farmhouse, Operator, Viewer
from mobifarm.controller.core.events import DeviceState as Stage
from mobifarm.controller.core.views import device_view
from mobifarm.controller.errors import UserError


def _place(device_id: str, farm: Farmhouse, _: Viewer) -> str:
    """The id of the phone that is meant by it, or by a serial number that no other phone has.

    Places where it was do not count where it is at another one now: a virtual phone has a new one after every
    start.
    """
    devices = farm.farm.state.devices
    known = [
        device
        for device in (devices.values() if device_id not in devices else ())
        if device.identity and device.identity.serial == device_id and device.stage is not Stage.RETIRED
    ]
    there = [device for device in known if device.connected]
    coming = [device for device in known if device.stage is not Stage.LOST]
    found = [device.device_id for device in there or coming or known]
    if len(found) > 1:
        places = " or ".join(found)
        raise UserError(f"several phones have the serial number {device_id}: name one by its place, {places}")
    return found[0] if found else device_id


Phone = Annotated[str, Depends(_place)]

router = APIRouter(prefix="/api/v1/devices", tags=["devices"])


@router.get("")
async def devices(farm: Farmhouse, _: Viewer) -> list[DeviceNow]:
    """Every place where a phone was seen, forgotten ones included, with what was heard of it last."""
    return [_now(farm, device_id) for device_id in sorted(farm.farm.state.devices)]


@router.post("")
async def add_device(body: NewDevice, farm: Farmhouse, _: Operator) -> DeviceId:
    """Keep the phone at this address connected from now on."""
    return DeviceId(**await farm.requests.add_device(body.address, "operator", body.host))


@router.post("/{device_id:path}/release")
async def release_device(device_id: Phone, farm: Farmhouse, _: Operator) -> DeviceState:
    """End a phone's quarantine."""
    return DeviceState(**await farm.requests.release_device(device_id))


@router.post("/{device_id:path}/quarantine")
async def quarantine_device(device_id: Phone, body: Why, farm: Farmhouse, _: Operator) -> DeviceState:
    """Give a phone no work until a person releases it; its running edit goes on."""
    return DeviceState(**await farm.requests.quarantine_device(device_id, body.reason))


@router.post("/{device_id:path}/drain")
async def drain_device(device_id: Phone, body: Why, farm: Farmhouse, _: Operator) -> DeviceState:
    """Let a phone finish what it does and give it nothing new, until undrained; the reason may be empty."""
    return DeviceState(**await farm.requests.drain_device(device_id, body.reason))


@router.post("/{device_id:path}/undrain")
async def undrain_device(device_id: Phone, farm: Farmhouse, _: Operator) -> DeviceState:
    """Give a drained phone work again."""
    return DeviceState(**await farm.requests.undrain_device(device_id))


@router.post("/{device_id:path}/doctor")
async def examine_device(device_id: Phone, farm: Farmhouse, _: Operator) -> JsonObject:
    """Probe what an idle phone can do: ``findings``, and a profile for a virtual phone."""
    return dict(await farm.requests.examine_device(device_id))


@router.post("/{device_id:path}/identify")
async def identify_device(device_id: Phone, farm: Farmhouse, _: Operator) -> DeviceState:
    """Have an idle phone blink with its screen a few times, so that a person finds it."""
    return DeviceState(**await farm.requests.identify_device(device_id))


@router.post("/{device_id:path}/tags")
async def tag_device(device_id: Phone, body: ChangedTags, farm: Farmhouse, _: Operator) -> DeviceTags:
    """Give a phone tags, take others away; the answer lists all that it has."""
    return DeviceTags(**await farm.requests.tag_device(device_id, body.add, body.remove))


@router.get("/{device_id:path}/edits")
async def list_edits(device_id: Phone, farm: Farmhouse, _: Viewer) -> JsonObject:
    """The edits that the phone keeps, by bundle; also while it does an edit."""
    return dict(await farm.requests.list_edits(device_id))


@router.get("/{device_id:path}/edits/export")
async def export_edits(device_id: Phone, farm: Farmhouse, _: Viewer, bundle: str = "") -> JsonObject:
    """The kept edits of a bundle as one file, ``exported`` in base64."""
    return dict(await farm.requests.export_edits(device_id, bundle))


@router.post("/{device_id:path}/edits/import")
async def import_edits(device_id: Phone, body: ImportedEdits, farm: Farmhouse, _: Operator) -> JsonObject:
    """Have a phone keep the edits of an exported file, beside those that it keeps, all or none."""
    return dict(await farm.requests.import_edits(device_id, body.exported))


@router.post("/{device_id:path}/edits/undo")
async def undo_edits(device_id: Phone, body: UndoneEdits, farm: Farmhouse, _: Operator) -> JsonObject:
    """Undo some or all kept edits of a bundle; the others stay bit for bit."""
    return dict(await farm.requests.undo_edits(device_id, body.bundle_hash, body.edit_ids))


@router.get("/{device_id:path}")
async def device(device_id: Phone, farm: Farmhouse, _: Viewer) -> DeviceNow:
    """One phone with what was heard of it last."""
    if device_id not in farm.farm.state.devices:
        raise UserError(f"there is no phone {device_id}; `mobifarm devices` lists them")
    return _now(farm, device_id)


@router.delete("/{device_id:path}")
async def forget_device(
    device_id: Phone, farm: Farmhouse, _: Operator, keep_edits: bool = False
) -> ForgottenDevice:
    """Take a phone out of the farm and the farm's files off it; its running edit is given to another one."""
    return ForgottenDevice(**await farm.requests.forget_device(device_id, keep_edits))


def _now(farm: Farmhouse, device_id: str) -> DeviceNow:
    live = farm.farm.live.devices().get(device_id)
    view = device_view(farm.farm.state, device_id)
    return DeviceNow(**asdict(view), live=live.to_json() if live else None)
