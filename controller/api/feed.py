"""The same news for everybody who watches: made once a period, and only while somebody does."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final

logger = logging.getLogger(__name__)

PERIOD_S: Final = 0.5
KEPT_PER_WATCHER: Final = 4


class _Watcher:
    """What one watcher has not taken yet; a slow one loses the oldest."""

    def __init__(self) -> None:
        self.waiting: deque[str] = deque(maxlen=KEPT_PER_WATCHER)
        self.news = asyncio.Event()

    def offer(self, text: str) -> None:
        self.waiting.append(text)
        self.news.set()


class Feed:
    """Calls ``build`` with 1, 2, 3, … every ``period_s`` while it is watched."""

    def __init__(self, build: Callable[[int], str], period_s: float = PERIOD_S) -> None:
        self._build = build
        self._period_s = period_s
        self._watchers: set[_Watcher] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._number = 0

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    async def watch(self) -> AsyncGenerator[str]:
        """What is built from now on; ends with the feed, or where the caller closes it."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(self._tick(), name="live feed")
        ticker = self._ticker
        try:
            while not ticker.done():
                await watcher.news.wait()
                watcher.news.clear()
                while watcher.waiting:
                    yield watcher.waiting.popleft()
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                ticker.cancel()
                self._ticker = None

    async def _tick(self) -> None:
        try:
            while True:
                self._number += 1
                text = self._build(self._number)
                for watcher in self._watchers:
                    watcher.offer(text)
                await asyncio.sleep(self._period_s)
        except Exception:
            logger.exception("the live page's news could not be made")
        finally:
            for watcher in self._watchers:
                watcher.news.set()  # each sees that the ticker has ended
