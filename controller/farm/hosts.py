"""Finds the machines that joined Ray's cluster and has the farm follow each as a host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mobifarm.controller.core.events import DeviceState, HostJoined
from mobifarm.controller.core.state import FarmState, Host, HostState
from mobifarm.controller.errors import HostError
from mobifarm.controller.farm.door import Door
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.host_link import HostLink

logger = logging.getLogger(__name__)

LOOK_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class JoinedNode:
    """A living node of the cluster that says it is a host."""

    node_id: str
    host: str
    join_id: str
    address: str


class Nodes(Protocol):
    """What is needed of the cluster."""

    def host_nodes(self) -> list[JoinedNode]:
        """The living nodes that say they are hosts. Blocks shortly. Raises HostError."""
        ...

    def joined_host(self, node: JoinedNode) -> HostLink:
        """A link to the host actor on this node, which is made if it is not there."""
        ...


async def watch_hosts(farm: Farm, door: Door, nodes: Nodes, clock: Callable[[], float]) -> None:
    """Follow every host that the door admitted while its node lives, until cancelled."""
    following: dict[str, asyncio.Task[None]] = {}

    async def follow(node: JoinedNode, versions: Mapping[str, str]) -> None:
        try:
            await farm.follow(nodes.joined_host(node), HostJoined(clock(), node.host, node.address, versions))
        except HostError as error:
            logger.info("the host %s does not answer yet: %s", node.host, error)
        except Exception:  # the other hosts are none of its business
            logger.exception("following the host %s", node.host)

    try:
        while True:
            try:
                found = await asyncio.to_thread(nodes.host_nodes)
            except HostError as error:
                logger.warning("%s", error)
                found = []
            for node in found:
                admission = door.admissions.get(node.host)
                task = following.get(node.host)
                if admission is None or admission.join_id != node.join_id:
                    continue  # of an earlier time, or nobody let it in
                if task is None or task.done():
                    following[node.host] = asyncio.create_task(follow(node, admission.versions))
            await asyncio.sleep(LOOK_PERIOD_S)
    finally:
        for task in following.values():
            task.cancel()
        await asyncio.gather(*following.values(), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class HostView:
    """A machine with phones as it is shown; ``phones`` counts places, ``connected`` those with a phone."""

    host: str
    own: bool  # the controller's machine
    state: str  # a HostState
    reason: str
    address: str
    versions: Mapping[str, str]
    changed_at: float | None  # unix time; None for the controller's machine
    phones: int
    connected: int


def host_rows(state: FarmState, own_name: str, own_versions: Mapping[str, str]) -> list[HostView]:
    """All hosts, the controller's machine first, as rows."""

    def row(name: str, state_: HostState, host: Host | None = None) -> HostView:
        places = [
            device
            for device in state.devices.values()
            if device.joined_host == (host.name if host else "") and device.stage is not DeviceState.RETIRED
        ]
        return HostView(
            host=name,
            own=host is None,
            state=state_.value,
            reason=host.reason if host else "",
            address=host.address if host else "",
            versions=dict(host.versions if host else own_versions),
            changed_at=host.changed_at if host else None,
            phones=len(places),
            connected=sum(device.connected for device in places),
        )

    joined = [row(host.name, host.state, host) for host in state.hosts.values()]
    return [row(own_name, HostState.JOINED), *joined]
