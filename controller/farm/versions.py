"""Which versions a host must share with the farm that it joins."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Final

from mobifarm import __version__
from mobifarm.v1 import agent_pb2

NAMES: Final = {"mobifarm": "MobiFarm", "python": "Python", "ray": "Ray", "protocol": "the agent protocol"}


def versions() -> dict[str, str]:
    """This machine's; ``protocol`` is a digest of the contract between host and phone."""
    return {
        "mobifarm": __version__,
        "python": platform.python_version(),
        "ray": importlib.metadata.version("ray"),
        "protocol": hashlib.sha256(agent_pb2.DESCRIPTOR.serialized_pb).hexdigest()[:12],
    }


def mismatch(farm: Mapping[str, str], host: Mapping[str, str]) -> str | None:
    """Why a host cannot join, in one sentence; None where all versions are the same."""
    different = [
        f"{label} is {host.get(name, 'unknown')} here and {farm[name]} on the farm"
        for name, label in NAMES.items()
        if host.get(name) != farm[name]
    ]
    if not different:
        return None
    return f"the versions do not match: {'; '.join(different)}; install the farm's versions on this machine"
