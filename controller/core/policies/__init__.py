"""Which free phone gets which waiting trial: interchangeable rules behind one small protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mobifarm.controller.core.policies.base import Policy
from mobifarm.controller.core.policies.fair_share import FairSharePolicy
from mobifarm.controller.core.policies.fifo import FifoPolicy
from mobifarm.controller.core.policies.shortest_queue import ShortestQueuePolicy
from mobifarm.controller.core.policies.thermal import ThermalPolicy
from mobifarm.controller.errors import UserError

POLICIES: Final[Mapping[str, type[Policy]]] = {
    "fifo": FifoPolicy,
    "fair-share": FairSharePolicy,
    "shortest-queue": ShortestQueuePolicy,
    "thermal": ThermalPolicy,
}


def policy_named(name: str) -> Policy:
    """A new policy.

    Raises:
        UserError: there is none of this name.
    """
    if name not in POLICIES:
        raise UserError(f"there is no policy {name!r}: choose {', '.join(POLICIES)}")
    return POLICIES[name]()
