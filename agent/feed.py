"""From one running attempt to every stream that listens to it, on the event loop.

A stream that is slower than the attempt (a tunnel that hangs) costs bounded memory: it gets the newest
progress and the newest telemetry, and always the end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from mobifarm.v1.agent_pb2 import EditProgress, EditResult, RunResponse, TelemetryBatch

_UNSENT_BATCHES = 600  # ten minutes at one batch a second


class Feed:
    """What an attempt tells. ``close`` is called once, at its end."""

    def __init__(self) -> None:
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

    def telemetry(self, batch: TelemetryBatch) -> None:
        """Tell what the sensors showed; nobody hears it later."""
        for listener in self._listeners:
            listener.batches.append(batch)
            listener.wake.set()

    def close(self, result: EditResult | None, error: Exception | None = None) -> None:
        """End every stream: with ``result`` if there is one, then with ``error`` if there is one."""
        self._result, self._error, self._closed = result, error, True
        for listener in self._listeners:
            listener.wake.set()

    async def listen(self) -> AsyncGenerator[RunResponse, None]:
        """Everything from now on; ends after the result, or raises what the attempt ended with."""
        listener = _Listener(self._progress)
        self._listeners.add(listener)
        try:
            while True:
                closed = self._closed
                for message in listener.take():
                    yield message
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
    def __init__(self, progress: EditProgress | None) -> None:
        self.wake = asyncio.Event()
        self.progress = progress
        self.batches: deque[TelemetryBatch] = deque(maxlen=_UNSENT_BATCHES)

    def take(self) -> list[RunResponse]:
        messages = [RunResponse(telemetry=batch) for batch in self.batches]
        self.batches.clear()
        if self.progress is not None:
            messages.insert(0, RunResponse(progress=self.progress))
            self.progress = None
        return messages
