"""The USB wire over a bus that misbehaves in the ways seen on real ones."""

from __future__ import annotations

from typing import Any

import pytest

from mobifarm.controller.errors import DeviceError, HostError, LinkLost
from mobifarm.controller.transport import usb
from mobifarm.controller.transport.holders import Holder

usb1 = pytest.importorskip("usb1", exc_type=OSError, reason="libusb is missing")
exceptions = pytest.importorskip("adb_shell.exceptions")
usb_transport = pytest.importorskip("adb_shell.transport.usb_transport")


class Endpoint:
    def getMaxPacketSize(self) -> int:  # noqa: N802 - libusb's name
        return 512


class Setting:
    def iterEndpoints(self) -> list[Endpoint]:  # noqa: N802 - libusb's name
        return [Endpoint(), Endpoint()]


class ClaimedDevice:
    def getBusNumber(self) -> int:  # noqa: N802 - libusb's name
        return 1

    def getDeviceAddress(self) -> int:  # noqa: N802 - libusb's name
        return 12


class Bus:
    """Stands in for adb-shell's transport: ``reads`` are served in turn, ``written`` collects transfers."""

    def __init__(self) -> None:
        self._setting = Setting()
        self._device: Any = None
        self.reads: list[bytes | Exception] = []
        self.written: list[bytes] = []
        self.connect_error: Exception | None = None
        self.taken_at_most = 1 << 30
        self.closed = False

    def connect(self, timeout_s: float) -> None:
        if self.connect_error:
            raise self.connect_error

    def bulk_read(self, size: int, timeout_s: float) -> bytes:
        item = self.reads.pop(0) if self.reads else timed_out()
        if isinstance(item, Exception):
            raise item
        assert len(item) <= size
        return item

    def bulk_write(self, data: bytes, timeout_s: float) -> int:
        self.written.append(data)
        return min(len(data), self.taken_at_most)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    fake = Bus()
    monkeypatch.setattr(usb, "refuse_foreign_adb_server", lambda port: None)
    monkeypatch.setattr(usb_transport.UsbTransport, "find_adb", lambda port_path: fake)
    return fake


def timed_out(received: bytes = b"") -> Exception:
    error = usb1.USBErrorTimeout()
    error.received = received
    return exceptions.UsbReadFailedError("timeout", error)  # type: ignore[no-any-return]


def test_reading_goes_on_after_timeouts_and_keeps_what_they_brought(bus: Bus) -> None:
    wire = usb.UsbWire("1-1")
    bus.reads = [timed_out(), b"he", timed_out(b"ll"), b"", b"o"]
    assert wire.read_exactly(5) == b"hello"


def test_what_was_meant_for_somebody_before_is_dropped(bus: Bus) -> None:
    bus.reads = [b"half a pack", b"x" * 16_384, timed_out(), b"hello"]
    assert usb.UsbWire("1-1").read_exactly(5) == b"hello"


def test_a_phone_that_never_falls_silent_is_not_waited_for(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usb, "_DRAIN_LIMIT_S", 0.0)
    bus.reads = [b"more"]
    assert usb.UsbWire("1-1").read_exactly(4) == b"more"


def test_an_unplugged_phone_is_a_lost_link(bus: Bus) -> None:
    wire = usb.UsbWire("1-1")
    bus.reads = [exceptions.UsbReadFailedError("gone", usb1.USBErrorNoDevice())]
    with pytest.raises(LinkLost, match="the USB connection broke"):
        wire.read_exactly(1)


def test_interrupting_ends_the_reader_at_its_next_look(bus: Bus) -> None:
    wire = usb.UsbWire("1-1")
    wire.interrupt()
    with pytest.raises(LinkLost, match="interrupted"):
        wire.read_exactly(1)
    wire.close()
    assert bus.closed


def test_a_deadline_holds_while_the_phone_is_silent(bus: Bus) -> None:
    wire = usb.UsbWire("1-1")
    wire.set_read_timeout(0)
    bus.reads = [timed_out() for _ in range(1000)]
    with pytest.raises(LinkLost, match="did not answer in time"):
        wire.read_exactly(1)


@pytest.mark.parametrize(
    ("payload", "transfers"),
    [(b"", [24]), (b"x" * 100, [24, 100]), (b"x" * 512, [24, 512, 0]), (b"x" * 1024, [24, 1024, 0])],
)
def test_whole_packets_are_ended_by_an_empty_one(bus: Bus, payload: bytes, transfers: list[int]) -> None:
    usb.UsbWire("1-1").write(b"h" * 24, memoryview(payload))
    assert [len(data) for data in bus.written] == transfers


def test_a_torn_packet_ends_the_link(bus: Bus) -> None:
    wire = usb.UsbWire("1-1")
    bus.taken_at_most = 10
    with pytest.raises(LinkLost, match="only part of a packet"):
        wire.write(b"h" * 24, b"")


@pytest.mark.parametrize(
    ("raised", "error", "advice"),
    [
        (usb1.USBErrorBusy(), HostError, "adb kill-server"),
        (usb1.USBErrorAccess(), HostError, "udev rules"),
        (usb1.USBErrorNoDevice(), DeviceError, "plug it in again"),
        (exceptions.UsbDeviceNotFoundError("x"), DeviceError, "check the cable"),
    ],
)
def test_a_phone_that_cannot_be_opened_says_what_to_do(
    bus: Bus, raised: Exception, error: type[Exception], advice: str
) -> None:
    bus.connect_error = raised
    with pytest.raises(error) as raised_error:
        usb.UsbWire("1-1")
    assert advice in f"{raised_error.value}; {raised_error.value.action}"


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        (Holder(7, "adb"), "an adb server (pid 7) holds the USB bus"),
        (Holder(8, "scrcpy"), "scrcpy (pid 8) uses the phone at usb:1-1"),
        (None, "another program uses the phone at usb:1-1"),
    ],
)
def test_a_claimed_phone_says_who_has_it(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, holder: Holder | None, words: str
) -> None:
    asked = []
    monkeypatch.setattr(usb, "holder_of_file", lambda path: asked.append(str(path)) or holder)
    bus._device = ClaimedDevice()
    bus.connect_error = usb1.USBErrorBusy()
    with pytest.raises(HostError) as refused:
        usb.UsbWire("1-1")
    assert asked == ["/dev/bus/usb/001/012"]
    assert str(refused.value) == words
    assert "adb kill-server" in refused.value.action
    assert "--adb-server" in refused.value.action


def test_listing_names_phones_by_their_place_on_the_bus(
    monkeypatch: pytest.MonkeyPatch, usb_device: Any
) -> None:
    devices = [
        usb_device([2, 4], serial="ABC"),
        usb_device([3], kind=9, serial="hub"),
        usb_device([1], serial=usb1.USBErrorAccess()),
    ]

    class Context:
        def __enter__(self) -> Context:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def getDeviceIterator(self, skip_on_error: bool) -> list[Any]:  # noqa: N802 - libusb's name
            return devices

    monkeypatch.setattr(usb1, "USBContext", Context)
    assert usb.list_usb() == usb.UsbScan((usb.UsbPhone("1-1", ""), usb.UsbPhone("1-2.4", "ABC")))
