"""From one running attempt to every stream that listens to it, on the event loop.

A stream hears every sample of the attempt that the phone keeps, also those from before it attached, and the
newest progress. One that is slower than the attempt (a tunnel that hangs) costs no memory: it reads on in the
log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from mobifarm.agent.samples import SampleLog
from mobifarm.v1.agent_pb2 import EditProgress, EditResult, RunResponse

_BATCHES_AT_ONCE = 50


class Feed:
    """What an attempt tells. ``close`` is called once, at its end."""

    def __init__(self, log: SampleLog) -> None:
        self._log = log
        self._listeners: set[_Listener] = set()
        self._progress: EditProgress | None = None
        self._result: EditResult | None = None
        self._error: Exception | None = None
        self._closed = False

    def progress(self, progress: EditProgress) -> None:
        """Tell how far the attempt is; whoever attaches later hears the newest."""
        self._progress = progress
        for listener in self._listeners:
            listener.progress = progress
            listener.wake.set()

    def telemetry(self) -> None:
        """There is more in the log."""
        for listener in self._listeners:
            listener.wake.set()

    def close(self, result: EditResult | None, error: Exception | None = None) -> None:
        """End every stream: with ``result`` if there is one, then with ``error`` if there is one."""
        self._result, self._error, self._closed = result, error, True
        self.telemetry()

    async def listen(self) -> AsyncGenerator[RunResponse, None]:
        """The samples so far, then everything as it comes; ends after the result, or raises how it ended."""
        listener = _Listener(self._log, self._progress)
        self._listeners.add(listener)
        try:
            while True:
                closed = self._closed
                messages = listener.take()
                for message in messages:
                    yield message
                if messages:
                    continue
                if closed:
                    break
                await listener.wake.wait()
                listener.wake.clear()
            if self._result is not None:
                yield RunResponse(result=self._result)
            if self._error is not None:
                raise self._error
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self, log: SampleLog, progress: EditProgress | None) -> None:
        self.wake = asyncio.Event()
        self.progress = progress
        self._log = log
        self._next = 0
        self._replayed_until = log.end

    def take(self) -> list[RunResponse]:
        """What is new; not all of a long log at once."""
        first = self._next
        self._next, batches = self._log.since(self._next, _BATCHES_AT_ONCE)
        first = self._next - len(batches)
        messages = []
        for number, batch in enumerate(batches, first):
            batch.replayed = number < self._replayed_until
            messages.append(RunResponse(telemetry=batch))
        if self.progress is not None:
            messages.insert(0, RunResponse(progress=self.progress))
            self.progress = None
        return messages
