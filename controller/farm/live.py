"""The newest fleeting readings of each phone, for people and for Prometheus; not kept over a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mobifarm.controller.host.reports import (
    AttemptProgress,
    DiscoveryNotice,
    Fleeting,
    PhoneSettling,
    Reading,
    TransferProgress,
)


@dataclass(slots=True)
class LiveDevice:
    """What is known of one phone right now; None where nothing was heard since it connected."""

    progress: AttemptProgress | None = None
    transfer: TransferProgress | None = None
    reading: Reading | None = None
    settling: PhoneSettling | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress) if self.progress else None,
            "transfer": asdict(self.transfer) if self.transfer else None,
            "reading": {"at": self.reading.at, "values": dict(self.reading.values)} if self.reading else None,
            "settling_until": self.settling.until if self.settling else None,
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
                device.transfer = report
            case Reading():
                device.reading = report
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
