"""Rules for the machines that have joined the farm: a host that is lost takes all of its phones with it."""

from __future__ import annotations

from mobifarm.controller.core.commands import Command
from mobifarm.controller.core.events import DeviceState, HostJoined, HostLost
from mobifarm.controller.core.state import Device, FarmState, Host, HostState
from mobifarm.controller.core.transitions import set_stage
from mobifarm.controller.errors import Bug


def host_of(state: FarmState, device: Device) -> Host | None:
    """The joined host that owns the phone; None for a phone of the controller's own machine."""
    return state.hosts[device.joined_host] if device.joined_host else None


def is_there(state: FarmState, device: Device) -> bool:
    """Whether the phone can be reached as far as its host is concerned."""
    host = host_of(state, device)
    return host is None or host.state is HostState.JOINED


def joined(state: FarmState, event: HostJoined) -> tuple[Command, ...]:
    """The host is there; its phones report anew, so that none of them counts as connected until then."""
    _lose_phones(state, event.host, event.at, "its host has just joined")
    state.hosts[event.host] = Host(
        event.host, HostState.JOINED, event.address, event.versions, changed_at=event.at
    )
    return ()


def lost(state: FarmState, event: HostLost) -> tuple[Command, ...]:
    """Nothing is heard of the host any more.

    Raises:
        Bug: it has never joined.
    """
    host = state.hosts.get(event.host)
    if host is None:
        raise Bug(f"The host {event.host} was lost but has never joined.")
    host.state, host.reason, host.changed_at = HostState.LOST, event.reason, event.at
    _lose_phones(state, event.host, event.at, event.reason)
    return ()


def expect_all(state: FarmState, at: float) -> None:
    """The controller was restarted: hosts that had joined are waited for."""
    for host in state.hosts.values():
        if host.state is HostState.JOINED:
            host.state, host.changed_at = HostState.EXPECTED, at
            host.reason = "the controller was restarted, and the host has not joined again yet"


def _lose_phones(state: FarmState, host: str, at: float, reason: str) -> None:
    for device in state.devices.values():
        if device.joined_host == host and device.stage is not DeviceState.RETIRED:
            set_stage(state, device, DeviceState.LOST, at, reason)
