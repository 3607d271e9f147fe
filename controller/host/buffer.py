"""Reports on their way from a host to the controller, read by long polling."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReportBuffer(Generic[Item]):
    """A numbered buffer: the reader names the last number it has, so that a lost answer loses no report.

    ``limit`` bounds the memory when nobody reads: the oldest are dropped. What mattered is met again
    when the phone next connects; its agent keeps results until they are acknowledged. An answer holds
    reports of ``answer_size`` bytes at most, by what ``size`` tells, or one.
    """

    def __init__(
        self,
        limit: int = 100_000,
        *,
        size: Callable[[Item], int] = lambda item: 0,
        answer_size: int = 100_000,
    ) -> None:
        self._size = size
        self._answer_size = answer_size
        self._items: deque[tuple[int, Item]] = deque(maxlen=limit)
        self._last = 0
        self._arrived = asyncio.Event()

    def put(self, item: Item) -> None:
        self._last += 1
        self._items.append((self._last, item))
        self._arrived.set()

    async def read(self, after: int, timeout_s: float) -> tuple[int, list[Item]]:
        """Reports newer than ``after`` and the number of the last one; waits for the first one.

        Reports up to ``after`` are forgotten. Returns an empty list at the timeout.
        """
        while self._items and self._items[0][0] <= after:
            self._items.popleft()
        if not self._items:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout_s)
            except TimeoutError:
                return after, []
        taken: list[Item] = []
        size = 0
        for number, item in self._items:
            size += self._size(item)
            if taken and size > self._answer_size:
                break
            taken.append(item)
            after = number
        return after, taken
