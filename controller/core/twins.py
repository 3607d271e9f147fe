"""Places that lead to one phone, such as its cable and its address on the network: one gets work. Pure.

Both reach the same agent. Two leases at once would fence each other's attempts off, so the phone is used at
one place: the one that has a lease, else the first of those that are connected.
"""

from __future__ import annotations

from mobifarm.controller.core.state import Device, FarmState


def meet(state: FarmState, device: Device, agent_session: str) -> None:
    """Note which agent answers at a place; "" where an earlier version's log does not tell."""
    if device.agent_session != agent_session:
        places = state.places.get(device.agent_session, [])
        if device.device_id in places:
            places.remove(device.device_id)
            _settle(state, places)
        if not places:
            state.places.pop(device.agent_session, None)
        device.agent_session, device.same_as = agent_session, None
        if agent_session:
            state.places.setdefault(agent_session, []).append(device.device_id)
    settle(state, device)


def leases_of_phone(state: FarmState, device: Device) -> set[str]:
    """Attempts with a live lease at this place or at another one of the phone."""
    places = {device.device_id, *state.places.get(device.agent_session, ())}
    leases = (state.devices[place].attempt_id for place in places)
    return {attempt_id for attempt_id in leases if attempt_id is not None}


def other_place(state: FarmState, device: Device) -> str | None:
    """Where else the phone is connected now."""
    places = (state.devices[place] for place in state.places.get(device.agent_session, ()))
    return next((place.device_id for place in places if place is not device and place.connected), None)


def settle(state: FarmState, device: Device) -> None:
    """Choose anew between the places of this phone; to be called when its link or its lease changes."""
    _settle(state, state.places.get(device.agent_session, []))


def _settle(state: FarmState, places: list[str]) -> None:
    devices = [state.devices[place] for place in places]
    used = next((device for device in devices if device.attempt_id is not None), None)
    chosen = used or next((device for device in devices if device.connected), None)
    for device in devices:
        same_as = chosen.device_id if chosen and chosen is not device and device.connected else None
        if device.same_as != same_as:
            device.same_as = same_as
            state.changes.devices.add(device.device_id)
