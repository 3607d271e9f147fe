"""A virtual phone seen from outside: its cable, power switch and screen. adbd runs in another process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from mobifarm.simulator.adbd import cable
from mobifarm.simulator.adbd.keys import KeyFormatError, PublicKey, parse_public_key
from mobifarm.simulator.adbd.process_tree import ProcessTimes, descendants, is_stopped, read_processes
from mobifarm.simulator.machine import Folders, Machine
from mobifarm.simulator.neural_processor import NeuralProcessor, NeuralProcessorError, snapdragon
from mobifarm.simulator.profile import Profile
from mobifarm.simulator.sensors.board import SensorBoard
from mobifarm.simulator.sensors.model import AMBIENT_CELSIUS
from mobifarm.simulator.tcp_port import Port, PortError, TcpPort
from mobifarm.simulator.usb_port import UsbIdentity, UsbPort

log = logging.getLogger(__name__)

Authorisation = Literal["accept", "ask", "deny"]
AUTHORISATIONS: tuple[Authorisation, ...] = ("accept", "ask", "deny")

HOT_CELSIUS = 60.0

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_ASK_TIMEOUT_S = 30.0
_STOPPING_CHECK_S = 0.001
# As many hosts as one message to adbd can name.
_KEYS_MAX = 100
_IDENTITY = ("ro.product.name", "ro.product.model", "ro.product.device")


class PhoneError(Exception):
    """The phone cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PhoneSettings:
    """``port`` 0 takes a free one; it then stays the phone's port for its whole life. ``processors`` of the
    computer are all that the phone's processes may use. ``usb_controller`` of this machine makes the phone a
    device on USB; "" is for one on TCP. ``npu`` gives a Snapdragon its neural processor, emulated."""

    name: str
    serial: str
    profile: Profile
    port: int
    authorisation: Authorisation
    processors: frozenset[int]
    usb_controller: str = ""
    npu: bool = False


class Phone:
    """One virtual phone. All methods belong to one event loop and may be called in any order."""

    def __init__(
        self, settings: PhoneSettings, folders: Folders, machine: Machine, sensors: SensorBoard
    ) -> None:
        self.settings = settings
        self.folders = folders
        self.machine = machine
        self.sensors = sensors
        self.plugged = True
        self.plugs = 0  # how often it became connectable
        self.on_cable: Callable[[], None] = lambda: None  # called when ``connectable`` changes
        self.hung = False
        self.sensors_stand_still = False  # since their files could not be written
        self.adbd_pid = 0
        self._port = self._make_port()
        self._neural_processor = self._make_neural_processor()
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._channel: socket.socket | None = None
        self._links: dict[int, socket.socket] = {}
        self._next_link = 1
        self._pending: dict[int, PublicKey] = {}
        self._messages: dict[str, Callable[[dict[str, Any]], None]] = {
            "ready": self._on_ready,
            "key_offered": self._on_key_offered,
            "link_closed": self._on_link_closed,
            "reboot": self._on_reboot,
        }
        self._asked = asyncio.Event()
        self._ready = asyncio.Event()
        self._switching = asyncio.Lock()
        self._reboot: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where hosts find the phone: ``tcp:127.0.0.1:PORT``, or ``usb`` where they know it by its serial."""
        return self._port.address

    @property
    def powered(self) -> bool:
        """True while adbd's process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def connectable(self) -> bool:
        """Whether its cable is in and its power on."""
        return self._port.is_open

    def status(self) -> dict[str, Any]:
        """What the control socket tells."""
        return {
            "name": self.settings.name,
            "serial": self.settings.serial,
            "profile": self.settings.profile.name,
            "address": self.address,
            "powered": self.powered,
            "plugged": self.plugged,
            "hung": self.hung,
            "sandboxed": self.machine.sandboxed,
            "links": len(self._links),
            "adbd_pid": self.adbd_pid,
            "neural_processor_pid": self._neural_processor.pid if self._neural_processor else 0,
            "pending_keys": [f"{key.fingerprint} {key.name}" for key in self._pending.values()],
            "modelled": self.sensors.summary(),
        }

    async def power_on(self) -> None:
        """Boot; returns when adbd serves. Raises :class:`PhoneError` where it does not start."""
        async with self._switching:
            if self.powered:
                return
            await self._forget_process()
            await self._start()
            await self._start_neural_processor()
            if self.plugged:
                self._open_port()

    async def power_off(self) -> None:
        """Kill every process of the phone; its files stay."""
        async with self._switching:
            self._close_port()
            await self._stop()
            if self._neural_processor is not None:
                await self._neural_processor.stop()

    async def reboot(self) -> None:
        """Switch off and on again."""
        await self.power_off()
        await self.power_on()

    def plug(self) -> None:
        """Connect the cable: listen on the phone's port again."""
        self.plugged = True
        if self.powered:
            self._open_port()

    def unplug(self) -> None:
        """Pull the cable: cut every link and listen no more. The phone runs on."""
        self.plugged = False
        self._close_port()
        for number in list(self._links):
            self._cut(number)

    async def hang(self) -> None:
        """Stop adbd: connections are taken and stay open, nothing answers. Returns when it stands still."""
        self._signal(signal.SIGSTOP)
        self.hung = True
        while self.powered and not is_stopped(self.adbd_pid):  # noqa: ASYNC110 - the kernel offers no event
            await asyncio.sleep(_STOPPING_CHECK_S)

    def resume(self) -> None:
        """Let a hung adbd go on."""
        if self.hung:
            self._signal(signal.SIGCONT)
        self.hung = False

    def fill_disk(self) -> None:
        """Let no process of the phone, nor any that it starts, make a file longer: writing fails."""
        self._limit_files(0)

    def free_disk(self) -> None:
        """End a full disk."""
        self._limit_files(resource.RLIM_INFINITY)

    def heat_up(self) -> None:
        """It has lain in the sun: die and body are hot, and lose their heat as slowly as ever."""
        self.sensors.set_temperature(HOT_CELSIUS)

    def cool_down(self) -> None:
        """It has lain in the air for hours."""
        self.sensors.set_temperature(AMBIENT_CELSIUS)

    def _limit_files(self, limit_bytes: int) -> None:
        if not self.powered:
            raise PhoneError(f"{self.settings.name} is powered off; use power-on first")
        for pid in {self.adbd_pid, *descendants(read_processes(), [self.adbd_pid])}:
            with contextlib.suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                soft = hard if limit_bytes == resource.RLIM_INFINITY else limit_bytes
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    async def authorise(self) -> None:
        """Accept every key on the phone's screen, waiting for the first. Raises :class:`PhoneError`."""
        try:
            await asyncio.wait_for(self._asked.wait(), _ASK_TIMEOUT_S)
        except TimeoutError as error:
            raise PhoneError(f"no unknown key waits on {self.settings.name}; connect a host first") from error
        for key in set(self._pending.values()):
            self._keep(key)
            self._tell_authorised(key)
        self._pending.clear()
        self._asked.clear()

    def update_sensors(self, now_s: float, processes: Mapping[int, ProcessTimes]) -> None:
        """Let the sensors follow the CPU time of the phone's processes; ``now_s`` is CLOCK_BOOTTIME."""
        root = self.adbd_pid if self.powered else 0
        members = descendants(processes, [root]) | {root} if root else set()
        cpu_s = sum(processes[pid].cpu_s for pid in members if pid in processes)
        self.sensors.update(now_s, cpu_s, plugged=self.plugged, powered=self.powered)

    def _signal(self, number: signal.Signals) -> None:
        if not self.powered:
            raise PhoneError(f"{self.settings.name} is powered off; use power-on first")
        os.kill(self.adbd_pid, number)

    # -- power --------------------------------

    async def _start(self) -> None:
        profile = self.settings.profile
        properties = {**profile.phone_properties(self.settings.serial), **self.machine.properties}
        self.folders.create(properties)
        self.sensors.create()
        view = self.machine.prepare(self.folders)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        information, information_theirs = os.pipe()
        try:
            with self.folders.open_log() as output:
                self._process = await asyncio.create_subprocess_exec(
                    *self.machine.command(self.folders, theirs.fileno(), information_theirs),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self.machine.environment,
                    pass_fds=(theirs.fileno(), information_theirs),
                    start_new_session=True,
                    # Inherited by all that runs on the phone, the agent among it.
                    preexec_fn=partial(os.sched_setaffinity, 0, self.settings.processors),
                )
        except BaseException:
            os.close(information)
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(information_theirs)
        ours.setblocking(False)
        self._channel = ours
        self._ready.clear()
        self._loop.add_reader(ours, self._on_message)
        configure = {
            "type": "configure",
            "identity": {name: properties[name] for name in _IDENTITY},
            "shell": view.shell_path,
            "directory": view.directory,
            "root": view.root,
            "environment": dict(view.environment),
            "known_keys": self._read_keys(),
        }
        cable.send(ours, configure)
        ready = self._loop.create_task(self._ready.wait())
        exited = self._loop.create_task(self._process.wait())
        try:
            await asyncio.wait({ready, exited}, timeout=_START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                await self._stop()
                raise PhoneError(
                    f"{self.settings.name} did not start; its log {self.folders.log} says: {self._log_tail()}"
                )
            self.adbd_pid = self._read_adbd_pid(information)
        finally:
            os.close(information)
            ready.cancel()
            exited.cancel()

    def _make_neural_processor(self) -> NeuralProcessor | None:
        chip = snapdragon(self.settings.profile.properties)
        if not self.settings.npu or not chip:
            return None
        return NeuralProcessor(
            chip, self.folders.data, self.folders.home / "npu.log", self.settings.processors
        )

    async def _start_neural_processor(self) -> None:
        """The phone goes on without it only where that was asked for."""
        if self._neural_processor is None:
            return
        try:
            await self._neural_processor.start()
        except NeuralProcessorError as error:
            await self._stop()
            raise PhoneError(f"{self.settings.name} has no neural processor: {error}") from error

    def _read_adbd_pid(self, information: int) -> int:
        if self._process is None:
            raise PhoneError(f"{self.settings.name} is powered off")
        if not self.machine.sandboxed:
            return self._process.pid
        # adbd has already spoken, so the sandbox wrote this before.
        match = re.search(rb'"child-pid"\s*:\s*(\d+)', os.read(information, 4096))
        if match is None:
            raise PhoneError("the sandbox did not tell adbd's process identifier")
        return int(match.group(1))

    async def _stop(self) -> None:
        if self.powered and self._process is not None:
            if self.hung:
                self.resume()
            if self.machine.sandboxed and self.adbd_pid:
                # adbd is process 1 of its namespace: the kernel ends the others with it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.adbd_pid, signal.SIGKILL)
            else:
                # Without its cable adbd ends, and ends its descendants first.
                self._close_channel()
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_TIMEOUT_S)
            except TimeoutError:
                log.error("%s did not power off in %g s; killing it", self.settings.name, _STOP_TIMEOUT_S)
                self._process.kill()
                await self._process.wait()
        await self._forget_process()

    async def _forget_process(self) -> None:
        self._close_channel()
        for number in list(self._links):
            self._cut(number)
        self._pending.clear()
        self._asked.clear()
        self._process = None
        self.adbd_pid = 0
        self.hung = False

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    def _log_tail(self) -> str:
        with open(self.folders.log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 500))
            return file.read().decode(errors="replace").strip() or "(empty)"

    # -- cable --------------------------------

    def _make_port(self) -> Port:
        settings = self.settings
        if not settings.usb_controller:
            return TcpPort(settings.port, self._take_link)
        properties = settings.profile.phone_properties(settings.serial)
        identity = UsbIdentity(
            properties["ro.product.manufacturer"], properties["ro.product.model"], settings.serial
        )
        return UsbPort(settings.usb_controller, identity, self.folders.home / "usb", self._take_link)

    def _open_port(self) -> None:
        if self._port.is_open:
            return
        try:
            self._port.open()
        except PortError as error:
            raise PhoneError(f"{self.settings.name}: {error}") from error
        self.plugs += 1
        self.on_cable()

    def _close_port(self) -> None:
        if self._port.is_open:
            self._port.close()
            self.on_cable()

    def _take_link(self, connection: socket.socket) -> None:
        number = self._next_link
        self._next_link += 1
        if self._tell({"type": "link", "link": number}, connection.fileno()):
            self._links[number] = connection
        else:
            connection.close()

    def _cut(self, number: int) -> None:
        connection = self._links.pop(number, None)
        if connection is not None:
            # adbd holds the same connection; closing our copy alone would leave it open.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    # -- messages --------------------------------

    def _tell(self, message: dict[str, Any], descriptor: int | None = None) -> bool:
        if self._channel is None:
            return False
        try:
            cable.send(self._channel, message, descriptor)
        except OSError as error:
            log.warning("%s does not take messages: %s", self.settings.name, error)
            return False
        return True

    def _on_message(self) -> None:
        if self._channel is None:
            return
        try:
            received = cable.receive(self._channel)
        except BlockingIOError:
            return
        except ConnectionError:
            received = None
        if received is None:
            self._on_crash()
            return
        message, _ = received
        self._messages[message["type"]](message)

    def _on_ready(self, message: dict[str, Any]) -> None:
        self._ready.set()

    def _on_link_closed(self, message: dict[str, Any]) -> None:
        self._cut(message["link"])
        # The dialogue goes away with the host that it is about.
        self._pending.pop(message["link"], None)
        if not self._pending:
            self._asked.clear()

    def _on_reboot(self, message: dict[str, Any]) -> None:
        if self._reboot is None or self._reboot.done():
            self._reboot = self._loop.create_task(self.reboot())

    def _on_crash(self) -> None:
        """adbd ended by itself: the phone is off until it is switched on again."""
        self._close_port()
        self._close_channel()
        for number in list(self._links):
            self._cut(number)

    # -- screen --------------------------------

    def _on_key_offered(self, message: dict[str, Any]) -> None:
        try:
            key = parse_public_key(message["key"])
        except KeyFormatError:
            return
        if self.settings.authorisation == "accept":
            # Not kept: it would be accepted the next time as well.
            self._tell_authorised(key)
        elif self.settings.authorisation == "ask":
            self._pending[message["link"]] = key
            self._asked.set()

    def _tell_authorised(self, key: PublicKey) -> None:
        self._tell({"type": "authorised", "key": f"{key.encoded} {key.name}"})

    def _keep(self, key: PublicKey) -> None:
        with open(os.open(self.folders.keys, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
            file.write(f"{key.encoded} {key.name}\n")

    def _read_keys(self) -> list[str]:
        try:
            return self.folders.keys.read_text(encoding="ascii").splitlines()[-_KEYS_MAX:]
        except FileNotFoundError:
            return []
