"""Watches every source of phones and tells, on the event loop, what was plugged in and what was unplugged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from mobifarm.controller.discovery.debounce import Debouncer, News, NewsKind
from mobifarm.controller.discovery.sighting import Scan, Trouble, Watcher, compare

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
STOP_DEADLINE_S: Final = 5.0


class Listener(Protocol):
    """Is told on the event loop. ``seen_at`` is monotonic time."""

    def arrived(self, address: str, source: str, seen_at: float, observed: bool) -> None:
        """A phone is plugged in. ``observed``: it was plugged in before our eyes, not found at the start."""
        ...

    def departed(self, address: str, source: str) -> None: ...

    def settling(self, address: str, source: str, arrivals: int, left_s: float) -> None:
        """It goes in and out; it is left alone until it has been calm for ``left_s``."""
        ...

    def looked(self, source: str) -> None:
        """The first look is over: a phone that it did not show is told by no departure."""
        ...

    def trouble(self, source: str, trouble: Trouble | None) -> None:
        """Phones cannot be seen there, or (None) can be; told after the first look and with every change."""
        ...


class Discovery:
    """One thread per watcher, so that one that is stuck delays no other. Use it from one event loop."""

    def __init__(
        self,
        watchers: Sequence[Watcher],
        listener: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watches = [_Watch(watcher, listener, clock) for watcher in watchers]

    def is_absent(self, address: str, source: str) -> bool:
        """Whether a watcher that must see this phone has looked and did not; see :meth:`Watcher.covers`."""
        return any(watch.is_absent(address, source) for watch in self._watches)

    async def close(self) -> None:
        await asyncio.gather(*(watch.close() for watch in self._watches))


class _Watch:
    """One watcher with its thread, what it last saw, and its debouncer."""

    def __init__(self, watcher: Watcher, listener: Listener, clock: Callable[[], float]) -> None:
        self._watcher = watcher
        self._listener = listener
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._debouncer = Debouncer()
        self._phones: Mapping[str, str] | None = None  # None before the first look
        self._told: Trouble | Literal[""] | None = ""  # before anything was told
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"discovery {watcher.source}", daemon=True)
        self._thread.start()

    def is_absent(self, address: str, source: str) -> bool:
        covered = self._watcher.covers(address, source)
        return self._phones is not None and covered and address not in self._phones

    async def close(self) -> None:
        self._stopped.set()
        if self._timer:
            self._timer.cancel()
        self._watcher.interrupt()
        await asyncio.to_thread(self._thread.join, STOP_DEADLINE_S)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    scan = self._watcher.scan()
                except Exception as error:
                    # A fault in one look must not end the watch: phones on TCP and later plugs go on.
                    logger.exception("looking for phones (%s)", self._watcher.source)
                    scan = Scan(None, Trouble(f"unexpected {type(error).__name__}: {error}", "see farm.log"))
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._take, scan, self._clock())
                self._watcher.wait(PERIOD_S)
        finally:
            self._watcher.close()

    def _take(self, scan: Scan, now: float) -> None:
        if self._stopped.is_set():
            return
        if scan.trouble != self._told:
            self._told = scan.trouble
            self._listener.trouble(self._watcher.source, scan.trouble)
        if scan.phones is None:
            return
        observed = self._phones is not None
        difference = compare(self._phones or {}, scan.phones)
        self._phones = dict(scan.phones)
        for address in difference.departed:
            self._tell(self._debouncer.depart(address, now), now, observed)
        for address in difference.arrived:
            self._tell(self._debouncer.arrive(address, now), now, observed)
        if not observed:
            self._listener.looked(self._watcher.source)
        self._tell_due()

    def _tell_due(self) -> None:
        now = self._clock()
        for news in self._debouncer.due(now):
            self._tell(news, now, observed=True)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if (due := self._debouncer.next_due()) is not None:
            self._timer = self._loop.call_later(max(0.0, due - now) + 0.01, self._tell_due)

    def _tell(self, news: News | None, now: float, observed: bool) -> None:
        source = self._watcher.source
        if news is None:
            return
        match news.kind:
            case NewsKind.ARRIVED:
                logger.info("%s: %s was plugged in", source, news.place)
                self._listener.arrived(news.place, source, news.seen_at, observed)
            case NewsKind.DEPARTED:
                logger.info("%s: %s was unplugged", source, news.place)
                self._listener.departed(news.place, source)
            case NewsKind.SETTLING:
                self._listener.settling(news.place, source, news.arrivals, news.until - now)
