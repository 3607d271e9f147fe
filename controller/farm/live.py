"""The newest fleeting readings of each phone, for people and for Prometheus; not kept over a restart."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from mobifarm.controller.farm.vitals import Vitals, VitalsTracker
from mobifarm.controller.host.reports import (
    AttemptProgress,
    DiscoveryNotice,
    Fleeting,
    PhoneSettling,
    Reading,
    TransferProgress,
)

HISTORY_PERIOD_S: Final = 1.0
HISTORY_MOMENTS: Final = 180


@dataclass(frozen=True, slots=True)
class Moment:
    """One point of a phone's recent past; ``phase`` and ``attempt_id`` are "" while it has no edit."""

    vitals: Vitals
    attempt_id: str
    phase: str
    target_probability: float | None = None


@dataclass(slots=True)
class LiveDevice:
    """What is known of one phone right now; None where nothing was heard since it connected."""

    progress: AttemptProgress | None = None
    transfer: TransferProgress | None = None
    reading: Reading | None = None
    settling: PhoneSettling | None = None
    vitals: Vitals | None = None
    history: deque[Moment] = field(default_factory=lambda: deque(maxlen=HISTORY_MOMENTS))
    tracker: VitalsTracker = field(default_factory=VitalsTracker)

    def to_json(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress) if self.progress else None,
            "transfer": asdict(self.transfer) if self.transfer else None,
            "reading": {"at": self.reading.at, "values": dict(self.reading.values)} if self.reading else None,
            "settling_until": self.settling.until if self.settling else None,
            "vitals": asdict(self.vitals) if self.vitals else None,
        }


class LiveView:
    """Newest readings by phone; a phone that goes away is dropped, so that no old value is repeated."""

    def __init__(self) -> None:
        self._devices: dict[str, LiveDevice] = {}
        self._notices: dict[tuple[str, str], DiscoveryNotice] = {}

    def note(self, report: Fleeting) -> None:
        if isinstance(report, DiscoveryNotice):
            self._note_discovery(report)
            return
        device = self._devices.setdefault(report.device_id, LiveDevice())
        match report:
            case AttemptProgress():
                device.progress, device.transfer = report, None
            case TransferProgress():
                # Who waited for it may be gone, and then nothing else tells that it is over.
                complete = 0 < report.bytes_total <= report.bytes_done
                device.transfer = None if complete else report
            case Reading():
                device.reading = report
                _remember(device, report)
            case PhoneSettling():
                device.settling = report

    def _note_discovery(self, notice: DiscoveryNotice) -> None:
        if notice.reason:
            self._notices[notice.host, notice.source] = notice
        else:
            self._notices.pop((notice.host, notice.source), None)

    def finished(self, device_id: str) -> None:
        """The phone's attempt ended: its progress is no longer current."""
        if device := self._devices.get(device_id):
            device.progress = device.transfer = None

    def drop(self, device_id: str) -> None:
        self._devices.pop(device_id, None)

    def devices(self) -> Mapping[str, LiveDevice]:
        return self._devices

    def notices(self) -> list[DiscoveryNotice]:
        """Where phones cannot be seen now, and what to do."""
        return [self._notices[key] for key in sorted(self._notices)]


def _remember(device: LiveDevice, reading: Reading) -> None:
    """Bring the vitals and the recent past up to a reading."""
    device.vitals = device.tracker.offer(reading.at, reading.values, reading.monotonic_ns)
    if not device.history or reading.at - device.history[-1].vitals.at >= HISTORY_PERIOD_S:
        edit = device.progress
        moment = Moment(device.vitals, "", "")
        if edit:
            moment = Moment(device.vitals, edit.attempt_id, edit.phase, edit.target_probability)
        device.history.append(moment)
