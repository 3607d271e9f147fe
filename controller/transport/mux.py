"""Many streams on one ADB connection.

adb-shell holds one lock while it reads, drops CLSE packets of streams it has not seen yet and throws away
packets that come in an order it does not expect, so two streams at once break each other. Here one thread
reads all packets and sorts them into streams, and any thread may send.

What cannot happen, and why:

* The reading thread never sends and never waits for a consumer, so it cannot dead-lock with a phone that
  sends while it is sent to. The few answers that packets without an owner need go through a second thread.
* A queue cannot grow without bound: ADB allows one unacknowledged WRTE per stream, and a packet is
  acknowledged when the consumer takes it. A phone that breaks this rule loses its link.
* Nobody waits for a dead link: its loss wakes every waiting thread.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import Final

from mobifarm.controller.errors import DeviceError, LinkLost
from mobifarm.controller.transport.packets import (
    CLSE,
    OKAY,
    OPEN,
    WRTE,
    Packet,
    ProtocolViolationError,
    read_packet,
)
from mobifarm.controller.transport.wire import Wire

# Larger packets would keep the other streams waiting (about 8 ms on USB 2 at this size).
_WRITE_CHUNK_BYTES: Final = 256 * 1024
_UNACKNOWLEDGED_LIMIT: Final = 2
_UNOWNED_ANSWERS_LIMIT: Final = 64


class StreamTimeoutError(DeviceError):
    """The phone did not answer on a stream in time; the stream cannot be used any further."""


class MuxStream:
    """One stream of a :class:`Multiplexer`; an ``interface.ByteStream``."""

    def __init__(self, mux: Multiplexer, local_id: int, destination: str) -> None:
        self._mux = mux
        self._local_id = local_id
        self._destination = destination
        self._changed = threading.Condition()
        self._writer = threading.Lock()
        self._remote_id = 0
        self._received: deque[bytes] = deque()
        self._may_write = False
        self._ended_by_phone = False
        self._closed = False
        self._loss: str | None = None

    def read(self, timeout_s: float | None = None) -> bytes:
        """Some bytes; b"" at the end of the stream. What came before a loss of the link is delivered first.

        Raises:
            StreamTimeoutError: nothing came in time.
            LinkLost: the link went away.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._received or self._ended_by_phone or self._closed or self._loss, timeout_s
            )
            if self._received:
                data = self._received.popleft()
                acknowledge = not (self._ended_by_phone or self._closed or self._loss)
            elif self._ended_by_phone or self._closed:
                return b""
            elif self._loss:
                raise LinkLost(self._loss)
            else:
                raise StreamTimeoutError(
                    f"{self._mux.name}: nothing came from {self._destination} in {timeout_s:g} s"
                )
        if acknowledge:
            self._acknowledge()
        return data

    def write(self, data: bytes | bytearray | memoryview, timeout_s: float | None = None) -> None:
        """Send all of ``data``; waits while the phone does not take it.

        Raises:
            StreamTimeoutError: the phone did not take the data in time (part of it may have been sent).
            DeviceError: the stream is closed.
            LinkLost: the link went away.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        chunk_bytes = min(_WRITE_CHUNK_BYTES, self._mux.maximum_payload_bytes)
        view = memoryview(data)
        with self._writer:
            for start in range(0, len(view), chunk_bytes):
                self._take_permission(deadline)
                self._mux.send(
                    Packet(WRTE, self._local_id, self._remote_id, view[start : start + chunk_bytes])
                )

    def close(self) -> None:
        """End the stream; waiting readers get b"". Safe to call twice and on a dead link."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            remote_id, lost = self._remote_id, self._loss
            self._changed.notify_all()
        if remote_id:
            self._mux.forget(self._local_id)
            if not lost:
                # A CLSE of the phone is answered too: some phones free their end only then.
                self._mux.send_if_alive(Packet(CLSE, self._local_id, remote_id))
        elif self._ended_by_phone or lost:
            self._mux.forget(self._local_id)
        # Otherwise the OPEN is still unanswered: the stream stays known until the answer comes.

    def wait_open(self, timeout_s: float) -> None:
        """Wait for the answer to OPEN.

        Raises:
            DeviceError: the phone refused.
            StreamTimeoutError: no answer in time; a late one is answered with CLSE.
            LinkLost: the link went away.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._remote_id or self._ended_by_phone or self._loss, timeout_s)
            if self._remote_id:
                return
            refused, loss = self._ended_by_phone, self._loss
        self.close()
        if loss:
            raise LinkLost(loss)
        if refused:
            raise DeviceError(f"{self._mux.name}: the phone refused to open {self._destination}")
        raise StreamTimeoutError(
            f"{self._mux.name}: no answer to opening {self._destination} in {timeout_s:g} s"
        )

    def _take_permission(self, deadline: float | None) -> None:
        with self._changed:
            timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._changed.wait_for(
                lambda: self._may_write or self._ended_by_phone or self._closed or self._loss, timeout_s
            )
            if self._loss:
                raise LinkLost(self._loss)
            if self._closed or self._ended_by_phone:
                whose = "the phone" if self._ended_by_phone else "this side"
                raise DeviceError(f"{self._mux.name}: {whose} closed the stream to {self._destination}")
            if not self._may_write:
                raise StreamTimeoutError(f"{self._mux.name}: {self._destination} took no data in time")
            self._may_write = False

    def _acknowledge(self) -> None:
        self._mux.send_if_alive(Packet(OKAY, self._local_id, self._remote_id))

    # The following are called by the reading thread only, and never block.

    def on_okay(self, remote_id: int) -> bool:
        """True where nobody waits for this stream any more, so it has to be closed."""
        with self._changed:
            self._check_remote_id(remote_id)
            self._may_write = True
            self._changed.notify_all()
            return self._closed

    def on_data(self, remote_id: int, data: bytes) -> None:
        with self._changed:
            self._check_remote_id(remote_id)
            if self._closed:
                return
            if len(self._received) >= _UNACKNOWLEDGED_LIMIT:
                raise ProtocolViolationError(
                    f"it sent data on {self._destination} before the last was acknowledged"
                )
            self._received.append(data)
            self._changed.notify_all()

    def on_close(self) -> bool:
        """True where nobody waits for this stream any more."""
        with self._changed:
            self._ended_by_phone = True
            self._changed.notify_all()
            return self._closed

    def on_loss(self, message: str) -> None:
        with self._changed:
            self._loss = message
            self._changed.notify_all()

    def _check_remote_id(self, remote_id: int) -> None:
        if remote_id == 0 or self._remote_id not in (0, remote_id):
            raise ProtocolViolationError(f"it changed the id of the stream to {self._destination}")
        self._remote_id = remote_id


class Multiplexer:
    """Sorts the packets of one authenticated connection into streams."""

    def __init__(
        self, wire: Wire, name: str, maximum_payload_bytes: int = 4096, checksums: bool = False
    ) -> None:
        """Take over ``wire`` and start reading.

        Args:
            wire: an authenticated connection; it is closed with the multiplexer.
            name: of the phone, for messages.
            maximum_payload_bytes: the largest payload that the phone accepts.
            checksums: whether the phone is so old that it checks them.
        """
        self.name = name
        self.maximum_payload_bytes = maximum_payload_bytes
        self._wire = wire
        self._checksums = checksums
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._streams: dict[int, MuxStream] = {}
        self._next_id = 1
        self._loss: str | None = None
        self._lost = threading.Event()
        self._unowned_answers: queue.SimpleQueue[Packet | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_packets, name=f"adb-read {name}", daemon=True)
        self._answerer = threading.Thread(target=self._send_answers, name=f"adb-answer {name}", daemon=True)
        self._reader.start()
        self._answerer.start()

    def open(self, service: str, timeout_s: float) -> MuxStream:
        """Open a stream to a service of the phone, e.g. ``sync:`` or ``localabstract:NAME``.

        Raises:
            DeviceError: the phone refused, or did not answer in time.
            LinkLost: the link is lost.
        """
        with self._lock:
            if self._loss:
                raise LinkLost(self._loss)
            local_id = self._next_id
            self._next_id = self._next_id % 0xFFFFFFFF + 1
            stream = self._streams[local_id] = MuxStream(self, local_id, service)
        self.send(Packet(OPEN, local_id, 0, service.encode() + b"\0"))
        stream.wait_open(timeout_s)
        return stream

    def send(self, packet: Packet) -> None:
        """Send one packet; a failure ends the link for everybody.

        Raises:
            LinkLost: the link is lost.
        """
        with self._sending:
            if self._loss:
                raise LinkLost(self._loss)
            try:
                self._wire.write(packet.header(self._checksums), packet.data)
            except LinkLost as error:
                self._lose(str(error))
                raise LinkLost(self.loss_reason) from error

    def send_if_alive(self, packet: Packet) -> None:
        """Send a packet that does not matter any more once the link is lost."""
        try:
            self.send(packet)
        except LinkLost:
            return

    def forget(self, local_id: int) -> None:
        """Drop a stream: later packets for it are ignored, as ADB asks for unknown streams."""
        with self._lock:
            self._streams.pop(local_id, None)

    @property
    def loss_reason(self) -> str:
        """Why the link is lost or closed, with the phone's name; "" while it is up."""
        return self._loss or ""

    def wait_closed(self, timeout_s: float | None = None) -> bool:
        """Block until the link is lost or closed; False at the timeout."""
        return self._lost.wait(timeout_s)

    def close(self) -> None:
        """End the link and all its streams; returns when the wire is closed."""
        self._lose("the link was closed")
        if threading.current_thread() not in (self._reader, self._answerer):
            self._reader.join()
            self._answerer.join()

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._loss:
                return
            self._loss = f"{self.name}: {reason}"
            streams = list(self._streams.values())
            self._streams.clear()
        self._wire.interrupt()
        for stream in streams:
            stream.on_loss(self._loss)
        self._unowned_answers.put(None)
        self._lost.set()

    def _read_packets(self) -> None:
        try:
            while True:
                self._dispatch(read_packet(self._wire.read_exactly))
        except DeviceError as error:
            self._lose(str(error))
        except BaseException:
            self._lose("a fault in MobiFarm ended the link")
            raise
        finally:
            with self._sending:
                self._wire.close()

    def _dispatch(self, packet: Packet) -> None:
        if packet.command == OPEN:
            # Only a reverse forward may do this, and none is ever asked for.
            self._answer(Packet(CLSE, 0, packet.arg0))
            return
        with self._lock:
            stream = self._streams.get(packet.arg1)
        if stream is None:
            return
        if packet.command == OKAY:
            if stream.on_okay(packet.arg0):
                self.forget(packet.arg1)
                self._answer(Packet(CLSE, packet.arg1, packet.arg0))
        elif packet.command == WRTE:
            stream.on_data(packet.arg0, bytes(packet.data))
        elif packet.command == CLSE:
            if stream.on_close():
                self.forget(packet.arg1)
        else:
            raise ProtocolViolationError(f"it sent an unexpected {packet.command!r} packet")

    def _answer(self, packet: Packet) -> None:
        if self._unowned_answers.qsize() < _UNOWNED_ANSWERS_LIMIT:
            self._unowned_answers.put(packet)

    def _send_answers(self) -> None:
        while (packet := self._unowned_answers.get()) is not None:
            self.send_if_alive(packet)
