"""How late the event loop comes: while it does something else, telemetry waits and leases run out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

PERIOD_S: Final = 0.5
PROBES: Final = 30


class LoopLag:
    """Sleeps again and again and notes by how much longer it slept than it meant to."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lags: deque[float] = deque(maxlen=PROBES)

    async def run(self) -> NoReturn:
        """Probe until cancelled."""
        while True:
            due = self._clock() + PERIOD_S
            await self._sleep(PERIOD_S)
            self._lags.append(max(0.0, self._clock() - due))

    @property
    def worst_s(self) -> float:
        """The longest of the last probes, some 15 seconds; 0 before the first."""
        return max(self._lags, default=0.0)
