"""MobiFarm: a device farm for knowledge editing on phones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobifarm.controller.client import Client as Client
    from mobifarm.controller.errors import DeviceError as DeviceError
    from mobifarm.controller.errors import FarmError as FarmError
    from mobifarm.controller.errors import HostError as HostError
    from mobifarm.controller.errors import UserError as UserError

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later write a device id into the user's cache and can send usage data when imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    if name == "Client":  # the agent on a phone has no controller
        from mobifarm.controller.client import Client

        return Client
    if name in ("DeviceError", "FarmError", "HostError", "UserError"):
        from mobifarm.controller import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
