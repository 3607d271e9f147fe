"""A full disk under the farm's store: the farm stops with one sentence, and goes on once there is space."""

from __future__ import annotations

from typing import Any

import pytest

from mobifarm.controller.core.events import DeviceAdded, DeviceDrained
from mobifarm.controller.errors import HostError


async def test_what_was_durable_is_there_and_nothing_that_was_not(start: Any) -> None:
    async with start() as farm:
        await farm.farm.apply(DeviceAdded(1.0, "a", "tcp:127.0.0.1:9", "test"))
        connection = farm.store._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        # SQLite's own full disk: the same error as of a file system that has no space.
        connection.execute(f"PRAGMA max_page_count = {pages}")
        written, failure = 0, None
        while failure is None and written < 1000:
            try:
                await farm.farm.apply(DeviceDrained(2.0, "a", f"{written} " + "x" * 400))
                written += 1
            except HostError as error:
                failure = error
        assert "is full): check the disk" in str(failure)
        with pytest.raises(HostError):
            await farm.farm.apply(DeviceDrained(3.0, "a", "later"))
    async with start() as farm:
        drained = [int(event.reason.split()[0]) for event in farm.events(DeviceDrained)]
        assert drained == list(range(written)), "all that was acknowledged, and nothing after the gap"
        await farm.farm.apply(DeviceDrained(4.0, "a", "1000 with space again"))
        assert farm.farm.state.devices["a"].drained == "an operator drains it; 1000 with space again"
