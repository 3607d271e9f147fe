"""All phones of one USB host. Independent of Ray: the host actor is a thin shell around this class."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import grpc.aio

from mobifarm.controller.core.selector import COMPUTER
from mobifarm.controller.discovery.adb_server import AdbServerWatcher
from mobifarm.controller.discovery.debounce import SETTLING_ACTION, settling_reason
from mobifarm.controller.discovery.discovery import Discovery
from mobifarm.controller.discovery.folder import FolderWatcher
from mobifarm.controller.discovery.sighting import Trouble, Watcher
from mobifarm.controller.discovery.usb import UsbWatcher
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import HostError
from mobifarm.controller.host.buffer import ReportBuffer
from mobifarm.controller.host.bundles import Bundles
from mobifarm.controller.host.computer import ComputerConnector
from mobifarm.controller.host.connection import Connector
from mobifarm.controller.host.edits import EditsRequest
from mobifarm.controller.host.farm_door import FarmDoor
from mobifarm.controller.host.mending import Mender
from mobifarm.controller.host.phone import PhoneSession
from mobifarm.controller.host.reports import DiscoveryNotice, PhoneSeen, PhoneSettling, Report, SamplesPiece
from mobifarm.controller.provisioning.removal import Removal, remove_from_phone
from mobifarm.controller.transport.adb_server import AdbServer

UNPLUGGED: Final = "it was unplugged"
NOT_PLUGGED_IN: Final = "it is not plugged in"


@dataclass(frozen=True, slots=True)
class HostConfiguration:
    """What a host needs to know.

    ``scratch`` is a short folder (mode 0700) for sockets, ``computer`` that of the agent on this machine.
    ``usb``: look for phones on USB. ``announcements``: folder in which phones on TCP are announced, or None.
    ``adb_server``: (host, port) of the adb server that owns the phones; None talks to them directly.
    ``allow_reboot``: a phone in trouble that nothing else helps may be rebooted.
    """

    ENVIRONMENT_NAME: ClassVar[str] = "MOBIFARM_HOST_CONFIGURATION"

    name: str
    adb_key: Path
    scratch: Path
    computer: Path
    usb: bool = False
    announcements: Path | None = None
    adb_server: tuple[str, int] | None = None
    allow_reboot: bool = False
    farm: str | None = None  # ADDRESS[:PORT] of the door of the farm that this machine joined
    farm_token: Path | None = None  # the file with its token

    @classmethod
    def from_environment(cls) -> HostConfiguration:
        """What `mobifarm join` left for the processes that Ray starts on its machine.

        Raises:
            HostError: it left nothing.
        """
        try:
            values = json.loads(os.environ[cls.ENVIRONMENT_NAME])
        except KeyError:
            raise HostError("this machine was not made a host by `mobifarm join`") from None
        return cls(
            values["name"],
            Path(values["adb_key"]),
            Path(values["scratch"]),
            Path(values["computer"]),
            usb=values["usb"],
            announcements=Path(values["announcements"]) if values["announcements"] else None,
            adb_server=tuple(values["adb_server"]) if values["adb_server"] else None,
            allow_reboot=values["allow_reboot"],
            farm=values["farm"],
            farm_token=Path(values["farm_token"]) if values["farm_token"] else None,
        )

    def to_environment(self) -> dict[str, str]:
        """The variable that :meth:`from_environment` reads on this machine."""
        return {self.ENVIRONMENT_NAME: json.dumps(asdict(self), default=str)}


class PhoneHost:
    """Owns the phones of this machine; every phone has its own task, so that a bad one harms no other."""

    def __init__(
        self, configuration: HostConfiguration, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()
    ) -> None:
        self._configuration = configuration
        self._reports: ReportBuffer[Report] = ReportBuffer(
            size=lambda report: len(report.data) if isinstance(report, SamplesPiece) else 0
        )
        self._sessions: dict[str, PhoneSession] = {}
        self._sources: dict[str, str] = {}  # of the phones with a session: where the farm has them from
        # Blocking ADB calls: each phone may hold a few threads (link watch, push, shell) at a time.
        self._threads = concurrent.futures.ThreadPoolExecutor(max_workers=512, thread_name_prefix="adb")
        server = AdbServer(*configuration.adb_server) if configuration.adb_server else None
        self._connect_phone = Connector(
            configuration.adb_key, configuration.scratch, self._threads, server, interceptors
        )
        self._connect_computer = ComputerConnector(
            configuration.name, configuration.computer, configuration.scratch, self._threads
        )
        self._bundles = Bundles(_door(configuration), self._threads)
        self._seen_at: dict[str, float] = {}  # phones that are plugged in, by address; inf: then forgotten
        self._discovery = Discovery(_watchers(configuration, server), self)

    def attach(self, device_id: str, address: str, source: str = "") -> None:
        """Keep the phone at ``address`` connected from now on; attaching it again changes nothing.

        ``source``: where the farm has it from; of one that discovery found, discovery knows when it is away.
        """
        if device_id not in self._sessions:
            self._sources[device_id] = source
            self._sessions[device_id] = PhoneSession(
                device_id,
                address,
                host=self._configuration.name,
                connect=self._connect_computer if address == COMPUTER else self._connect_phone,
                bundle_folder=self._bundles.folder,
                emit=self._reports.put,
                clock=time.time,
                mend=None if address == COMPUTER else self._mender(address),
            )
            if address in self._seen_at:
                self._seen_at[address] = min(self._seen_at[address], time.monotonic())
                self._sessions[device_id].plugged(self._seen_at[address])
            elif self._discovery.is_absent(address, source):
                self._sessions[device_id].unplugged(NOT_PLUGGED_IN)

    def _mender(self, address: str) -> Mender:
        return Mender(
            address,
            self._threads,
            open_link=lambda: self._connect_phone.open_briefly(address),
            allow_reboot=self._configuration.allow_reboot,
        )

    async def detach(self, device_id: str) -> None:
        if device_id in self._seen_at:  # nobody waits for a forgotten phone: it counts from its being added
            self._seen_at[device_id] = math.inf
        self._sources.pop(device_id, None)
        if session := self._sessions.pop(device_id, None):
            await session.stop()

    def dispatch(
        self, device_id: str, attempt_id: str, fencing_token: int, payload: Mapping[str, Any]
    ) -> None:
        self._session(device_id).dispatch(attempt_id, fencing_token, payload)

    def cancel(self, device_id: str, attempt_id: str) -> None:
        self._session(device_id).cancel(attempt_id)

    def acknowledge(self, device_id: str, attempt_id: str) -> None:
        self._session(device_id).acknowledge(attempt_id)

    def check_health(self, device_id: str, check_id: str, fencing_token: int) -> None:
        self._session(device_id).check_health(check_id, fencing_token)

    async def edits(self, device_id: str, request: EditsRequest) -> Mapping[str, Any]:
        return await self._session(device_id).edits(request)

    async def examine(self, device_id: str) -> list[Finding]:
        """Probe what the phone can do. Raises FarmError."""
        return await self._session(device_id).phone.examine()

    async def identify(self, device_id: str) -> None:
        """Show a person which phone it is. Raises FarmError."""
        await self._session(device_id).phone.identify()

    async def clean(self, address: str, keep_edits: bool) -> Removal:
        """Take what the farm left off a phone that is attached no more. Raises FarmError."""

        def clean() -> Removal:
            with contextlib.closing(self._connect_phone.open_briefly(address)) as opened:
                return remove_from_phone(opened, keep_edits=keep_edits)

        return await asyncio.get_running_loop().run_in_executor(self._threads, clean)

    async def reports(self, after: int, timeout_s: float) -> tuple[int, list[Report]]:
        """Reports newer than number ``after``, see :class:`ReportBuffer`."""
        return await self._reports.read(after, timeout_s)

    # --- discovery's listener -----------------------------------------------------------------------------

    def arrived(self, address: str, source: str, seen_at: float, observed: bool) -> None:
        # Where an adb server has a phone on TCP, two watchers see it, one after the other.
        seen_at = self._seen_at.setdefault(address, seen_at)
        self._reports.put(PhoneSeen(time.time(), self._configuration.name, address, source, observed))
        if session := self._sessions.get(address):
            session.plugged(seen_at)

    def departed(self, address: str, source: str) -> None:
        self._seen_at.pop(address, None)
        if session := self._sessions.get(address):
            session.unplugged(UNPLUGGED)

    def settling(self, address: str, source: str, arrivals: int, left_s: float) -> None:
        if session := self._sessions.get(address):
            session.settling(settling_reason(), SETTLING_ACTION)
            now = time.time()
            self._reports.put(PhoneSettling(now, address, now + left_s))

    def looked(self, source: str) -> None:
        # They were attached before the first look, and went while nobody looked: there is no departure.
        for device_id, session in self._sessions.items():
            if self._sources[device_id] == source and self._discovery.is_absent(device_id, source):
                session.unplugged(NOT_PLUGGED_IN)

    def trouble(self, source: str, trouble: Trouble | None) -> None:
        reason, action = (trouble.reason, trouble.action) if trouble else ("", "")
        self._reports.put(DiscoveryNotice(time.time(), self._configuration.name, source, reason, action))

    async def close(self) -> None:
        await self._discovery.close()
        self._bundles.close()
        await asyncio.gather(*(self.detach(device_id) for device_id in list(self._sessions)))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _session(self, device_id: str) -> PhoneSession:
        try:
            return self._sessions[device_id]
        except KeyError:
            raise HostError(f"{self._configuration.name} does not own the phone {device_id}") from None


def _door(configuration: HostConfiguration) -> Callable[[], FarmDoor] | None:
    """Opens the door of the farm that this machine joined; None on the farm's own."""
    farm, token = configuration.farm, configuration.farm_token
    if farm is None or token is None:
        return None
    return lambda: FarmDoor(farm, token.read_text())


def _watchers(configuration: HostConfiguration, server: AdbServer | None) -> list[Watcher]:
    watchers: list[Watcher] = []
    if server:
        watchers.append(AdbServerWatcher(server))
    elif configuration.usb:
        watchers.append(UsbWatcher())
    if configuration.announcements:
        watchers.append(FolderWatcher(configuration.announcements))
    return watchers
