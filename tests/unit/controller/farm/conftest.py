"""A farm's log with one phone: ready for work, or at work."""

from __future__ import annotations

import pytest

from mobifarm.controller.core.events import (
    DeviceAdded,
    DeviceReady,
    Event,
    Identity,
    JobSubmitted,
    LeaseGranted,
    TrialPlan,
)
from mobifarm.controller.core.selector import DeviceSelector


@pytest.fixture
def ready_phone() -> list[Event]:
    """The phone ``a`` is ready; it has seen the fencing token 6."""
    return [
        DeviceAdded(1.0, "a", "tcp:h:1", "test"),
        DeviceReady(2.0, "a", "host", Identity("tcp:h:1", "S", "f"), {}, "virtual", (), "1", fencing_token=6),
    ]


@pytest.fixture
def leased_phone(ready_phone: list[Event]) -> list[Event]:
    """The phone ``a`` has the only trial of the job ``j``."""
    return [
        *ready_phone,
        JobSubmitted(3.0, "j", "facts", "me", {}, (TrialPlan("j/0", "fact", {}),), DeviceSelector(), 0, 3),
        LeaseGranted(4.0, "attempt", "j/0", "a", 7),
    ]
