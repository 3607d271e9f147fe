"""Runs virtual phones in the foreground: one process owns the cables, sensors and switches of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobifarm.simulator.adbd.process_tree import ProcessTimes, read_processes
from mobifarm.simulator.control import ControlServer, PhoneRecord
from mobifarm.simulator.emulation import EmulationUnavailableError, find_emulation
from mobifarm.simulator.image import ImageError
from mobifarm.simulator.machine import Folders, HostMachine, Machine
from mobifarm.simulator.neural_processor import snapdragon
from mobifarm.simulator.phone import Authorisation, Phone, PhoneError, PhoneSettings
from mobifarm.simulator.profile import load_profile, profile_names, serial_of
from mobifarm.simulator.programs import find_tools
from mobifarm.simulator.sandbox import SandboxMachine, SandboxUnavailableError, find_bubblewrap
from mobifarm.simulator.sensors.board import SensorBoard
from mobifarm.simulator.usb_port import free_controllers

log = logging.getLogger(__name__)

_SENSOR_PERIOD_S = 0.5
_SERIAL = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def default_home() -> Path:
    """``$MOBIFARM_HOME/virtual``, or below the user's state directory."""
    farm = os.environ.get("MOBIFARM_HOME")
    return (Path(farm) if farm else Path.home() / ".local" / "state" / "mobifarm") / "virtual"


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """What to run; ``profiles`` are used in turn, all that there are where it is empty."""

    home: Path
    count: int = 1
    profiles: Sequence[str] = ()
    port: int = 0
    unsandboxed: bool = False
    authorisation: Authorisation = "accept"
    serial: str = ""  # of all phones; "" gives each its own
    usb: bool = False  # phones are devices on USB, on the free controllers of this machine
    abi: str = ""  # of the programs that phones run; "" is the computer's
    npu: bool = False  # Snapdragon phones have their neural processor, emulated
    until_stdin_closes: bool = False


def plan_phones(settings: LaunchSettings, controllers: Sequence[str] = ()) -> list[PhoneSettings]:
    """Names, serials and ports of the phones to run; ``controllers`` are free for phones on USB.

    Raises UnknownProfileError, or PhoneError where there are too few controllers, ``npu`` has no chip, the
    serial number cannot be one, or a profile's file is where a phone announces itself.
    """
    if settings.serial and not _SERIAL.fullmatch(settings.serial):
        raise PhoneError("--serial has other characters than letters, digits and . _ : -, or more than 64")
    if settings.usb and len(controllers) < settings.count:
        raise PhoneError(
            f"{settings.count} phones on USB need as many free USB device controllers; this machine has "
            f"{len(controllers)} (`modprobe dummy_hcd num={settings.count}` makes some)"
        )
    profiles = list(settings.profiles) or ["pixel-8", *(n for n in profile_names() if n != "pixel-8")]
    shares = share_processors(sorted(os.sched_getaffinity(0)), settings.count)
    planned: list[PhoneSettings] = []
    for index in range(settings.count):
        profile = load_profile(profiles[index % len(profiles)])
        same = sum(phone.profile.name == profile.name for phone in planned)
        name = profile.name if same == 0 else f"{profile.name}-{same + 1}"
        port = settings.port + index if settings.port else 0
        planned.append(
            PhoneSettings(
                name,
                settings.serial or serial_of(name),
                profile,
                port,
                settings.authorisation,
                shares[index],
                usb_controller=controllers[index] if settings.usb else "",
                npu=settings.npu,
            )
        )
    for taken in {_registry(settings.home, phone.name).resolve() for phone in planned}:
        if any(taken == Path(profile).resolve() for profile in settings.profiles):
            raise PhoneError(
                f"{taken} is where its phone says that it runs: keep the profile in another folder, or "
                "choose another --home"
            )
    if settings.npu and not any(snapdragon(phone.profile.properties) for phone in planned):
        raise PhoneError(
            "none of these phones has a Snapdragon, whose neural processor --npu emulates: add one, such as "
            "--profile galaxy-s24"
        )
    return planned


def share_processors(available: Sequence[int], phones: int) -> list[frozenset[int]]:
    """A share of the computer's processors for each phone. Pure.

    Phones that all used every processor would wait for each other's threads. Shares are of equal size, at
    least one processor, and overlap only where there are more phones than processors.
    """
    size = max(1, len(available) // phones)
    return [
        frozenset(available[(phone * size + place) % len(available)] for place in range(size))
        for phone in range(phones)
    ]


def choose_machine(home: Path, unsandboxed: bool, abi: str = "") -> Machine:
    """The sandbox where it works, else (with a warning) the host itself.

    Raises PhoneError where phones of ``abi`` cannot be run here.
    """
    tools = find_tools()
    try:
        emulation = find_emulation(abi)
        if emulation:
            if unsandboxed:
                raise PhoneError(f"{abi} phones need their sandbox here; leave --unsandboxed out")
            return SandboxMachine(find_bubblewrap(), tools, home, emulation)
    except (EmulationUnavailableError, SandboxUnavailableError, ImageError) as error:
        raise PhoneError(f"no {abi} phone can be run here: {error}") from error
    if unsandboxed:
        return HostMachine(tools)
    try:
        return SandboxMachine(find_bubblewrap(), tools, home)
    except (SandboxUnavailableError, ImageError) as error:
        log.warning("no sandbox: %s", error)
        return HostMachine(tools)


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PhoneError(f"{name} already runs; stop its launcher or choose another --home") from error
        yield


async def run_phones(settings: LaunchSettings, on_running: Callable[[PhoneRecord], None]) -> None:
    """Run phones until SIGINT, SIGTERM or the end of stdin (where asked); everything started is ended.

    ``on_running`` gets each phone when it can be connected to. Raises :class:`PhoneError`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if settings.until_stdin_closes:

        def read_lifeline() -> None:
            if not os.read(sys.stdin.fileno(), 4096):
                loop.remove_reader(sys.stdin.fileno())
                stop.set()

        loop.add_reader(sys.stdin.fileno(), read_lifeline)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    machine = choose_machine(settings.home, settings.unsandboxed, settings.abi)
    for warning in machine.warnings:
        log.warning("%s", warning)
    phones: list[Phone] = []
    async with contextlib.AsyncExitStack() as stack:
        ticking = loop.create_task(_update_sensors(phones))
        stack.callback(ticking.cancel)
        for planned in plan_phones(settings, free_controllers()):
            folders = Folders(settings.home / planned.name)
            folders.home.mkdir(exist_ok=True, mode=0o700)
            stack.enter_context(_locked(folders.home / "lock", planned.name))
            folders.create(planned.profile.phone_properties(planned.serial))
            sensors = SensorBoard(
                planned.profile,
                folders.sys,
                folders.services,
                _now_s(),
                machine_cores=len(planned.processors),
            )
            phone = Phone(planned, folders, machine, sensors)
            phones.append(phone)
            stack.push_async_callback(phone.power_off)
            await phone.power_on()
            control = ControlServer(phone, folders.home / "control")
            await control.start()
            stack.callback(control.close)
            record = PhoneRecord(
                name=planned.name,
                serial=planned.serial,
                profile=planned.profile.name,
                address=phone.address,
                control=str(folders.home / "control"),
                pid=os.getpid(),
                sandboxed=machine.sandboxed,
            )
            stack.enter_context(_announced(phone, record, _registry(settings.home, planned.name)))
            on_running(record)
        await stop.wait()


def _registry(home: Path, name: str) -> Path:
    return home / f"{name}.json"


@contextlib.contextmanager
def _announced(phone: Phone, record: PhoneRecord, registry: Path) -> Iterator[None]:
    """Keep the phone's registry file true as long as the phone runs."""

    def write() -> None:
        now = replace(record, plugged=phone.connectable, plugs=phone.plugs)
        _write_whole(registry, now.to_json() + "\n")

    write()
    phone.on_cable = write
    try:
        yield
    finally:
        phone.on_cable = lambda: None
        registry.unlink(missing_ok=True)


async def _update_sensors(phones: Sequence[Phone]) -> None:
    while True:
        await asyncio.sleep(_SENSOR_PERIOD_S)
        update_sensors(phones, read_processes())


def update_sensors(phones: Sequence[Phone], processes: Mapping[int, ProcessTimes]) -> None:
    """Let every phone's sensors follow; a phone whose files cannot be written holds up no other."""
    for phone in phones:
        try:
            phone.update_sensors(_now_s(), processes)
        except OSError as error:
            if not phone.sensors_stand_still:
                log.warning("the sensors of %s stand still: %s", phone.settings.name, error)
            phone.sensors_stand_still = True
        else:
            phone.sensors_stand_still = False


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def running_phones(home: Path) -> list[PhoneRecord]:
    """Phones whose launcher lives, by name."""
    found: list[PhoneRecord] = []
    for path in sorted(home.glob("*.json")):
        try:
            record = PhoneRecord.from_json(path.read_text(encoding="utf-8"))
            os.kill(record.pid, 0)
        except (OSError, TypeError, ValueError):
            continue
        found.append(record)
    return found
