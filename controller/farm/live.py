"""The newest fleeting readings of each phone, for people and for Prometheus; not kept over a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mobifarm.controller.host.reports import AttemptProgress, Reading, TransferProgress


@dataclass(slots=True)
class LiveDevice:
    """What is known of one phone right now; None where nothing was heard since it connected."""

    progress: AttemptProgress | None = None
    transfer: TransferProgress | None = None
    reading: Reading | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress) if self.progress else None,
            "transfer": asdict(self.transfer) if self.transfer else None,
            "reading": {"at": self.reading.at, "values": dict(self.reading.values)} if self.reading else None,
        }


class LiveView:
    """Newest readings by phone; a phone that goes away is dropped, so that no old value is repeated."""

    def __init__(self) -> None:
        self._devices: dict[str, LiveDevice] = {}

    def note(self, report: AttemptProgress | TransferProgress | Reading) -> None:
        device = self._devices.setdefault(report.device_id, LiveDevice())
        match report:
            case AttemptProgress():
                device.progress, device.transfer = report, None
            case TransferProgress():
                device.transfer = report
            case Reading():
                device.reading = report

    def finished(self, device_id: str) -> None:
        """The phone's attempt ended: its progress is no longer current."""
        if device := self._devices.get(device_id):
            device.progress = device.transfer = None

    def drop(self, device_id: str) -> None:
        self._devices.pop(device_id, None)

    def devices(self) -> Mapping[str, LiveDevice]:
        return self._devices
