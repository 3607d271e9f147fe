"""Model bundles on this machine; a host that joined fetches those that it lacks from the farm's machine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import fcntl
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mobifarm.controller.cache import mark_used
from mobifarm.controller.errors import HostError, WorkloadError
from mobifarm.controller.host.farm_door import FarmDoor
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.catalogue import MANIFEST, bundle_files, find_bundle, verify_copy
from mobifarm.workloads.paths import fetched_bundles_directory

logger = logging.getLogger(__name__)

FETCH_DEADLINE_S: Final = 3600.0
TRIES: Final = 5  # in a row without a byte; what has come stays for the next one
RETRY_FIRST_S: Final = 1.0
LOCK_LOOK_S: Final = 0.5

Progress = Callable[[int, int], None]
"""Bytes that are here, and bytes in all."""


class Bundles:
    """Finds the folder of a bundle; several phones that want the same one share its way here.

    Args:
        door: opens that of the farm which this machine joined; None on the farm's own machine.
        threads: for the transfers.
    """

    def __init__(self, door: Callable[[], FarmDoor] | None, threads: concurrent.futures.Executor) -> None:
        self._door = door
        self._threads = threads
        self._fetching: dict[str, asyncio.Future[Path]] = {}
        self._listeners: dict[str, list[Progress]] = {}
        self._stop = threading.Event()

    async def folder(self, model: str, bundle_hash: str, progress: Progress) -> Path:
        """The folder of exactly this bundle on this machine.

        Raises:
            WorkloadError: it is not on the farm's machine, or was built anew since.
            HostError: it cannot be had from there.
        """
        try:
            return find_bundle(model, bundle_hash)
        except WorkloadInputError as error:
            if self._door is None:
                raise WorkloadError(str(error)) from error
        fetching = self._fetching.get(bundle_hash)
        if fetching is None or fetching.done():
            fetching = self._fetching[bundle_hash] = self._start(self._door, model, bundle_hash)
        listeners = self._listeners.setdefault(bundle_hash, [])
        listeners.append(progress)
        try:
            return await asyncio.shield(fetching)  # an attempt that ends takes it from no other
        finally:
            listeners.remove(progress)

    def _start(self, door: Callable[[], FarmDoor], model: str, bundle_hash: str) -> asyncio.Future[Path]:
        loop = asyncio.get_running_loop()

        def tell(done: int, total: int) -> None:
            for listener in self._listeners.get(bundle_hash, ()):
                listener(done, total)

        def progress(done: int, total: int) -> None:
            with contextlib.suppress(RuntimeError):  # the host ends
                loop.call_soon_threadsafe(tell, done, total)

        def note_end(ended: asyncio.Future[Path]) -> None:
            if not ended.cancelled() and (error := ended.exception()):
                logger.warning("the bundle %s (%s): %s", model, bundle_hash, error)

        def fetch() -> Path:
            with contextlib.closing(door()) as opened:
                return fetch_bundle(opened, model, bundle_hash, progress, self._stop)

        fetching = loop.run_in_executor(self._threads, fetch)
        fetching.add_done_callback(note_end)
        return fetching

    def close(self) -> None:
        """End transfers; what has come stays for the next time."""
        self._stop.set()


def fetch_bundle(
    door: FarmDoor, model: str, bundle_hash: str, progress: Progress, stop: threading.Event
) -> Path:
    """Have this bundle below :func:`fetched_bundles_directory`, from the farm where it is not there. Blocks.

    What an earlier call has brought is gone on with. The folder appears whole and verified, or not at all.

    Raises:
        WorkloadError: it is not on the farm's machine, or was built anew since.
        HostError: it does not come, comes damaged, or cannot be written; or ``stop`` was set.
    """
    target = fetched_bundles_directory() / bundle_hash
    part = target.with_name(f"{bundle_hash}.part")
    transfer = _Transfer(door, model, bundle_hash, stop)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part.with_suffix(".lock"), transfer.check):
            if target.is_dir():
                mark_used(target)
                return target
            part.mkdir(exist_ok=True)
            _fetch_into(part, transfer, progress)
            part.rename(target)
    except OSError as error:
        raise HostError(
            f"the model bundle {model} cannot be kept in {target.parent} ({error.strerror}): free space there"
        ) from error
    return target


def _fetch_into(part: Path, transfer: _Transfer, progress: Progress) -> None:
    (part / MANIFEST).unlink(missing_ok=True)  # small
    transfer.file(MANIFEST, part / MANIFEST, lambda size: None)
    try:
        files = bundle_files(part, transfer.bundle_hash)
        total = sum(files.values())
        done = sum((part / name).stat().st_size for name in files if (part / name).exists())

        def more(size: int) -> None:
            nonlocal done
            done += size
            progress(done, total)

        for name in files:
            transfer.file(name, part / name, more)
        verify_copy(part, transfer.bundle_hash)
    except WorkloadInputError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise HostError(f"the model bundle {transfer.model} came damaged from the farm: {error}") from error


class _Transfer:
    """Brings files of one bundle, with patience, until the deadline or the stop."""

    def __init__(self, door: FarmDoor, model: str, bundle_hash: str, stop: threading.Event) -> None:
        self.model = model
        self.bundle_hash = bundle_hash
        self._door = door
        self._stop = stop
        self._until = time.monotonic() + FETCH_DEADLINE_S

    def check(self) -> None:
        """Raises HostError once there is no time left."""
        if self._stop.is_set():
            raise HostError(f"the transfer of the model bundle {self.model} was stopped")
        if time.monotonic() > self._until:
            raise HostError(f"the model bundle {self.model} did not come in {FETCH_DEADLINE_S:.0f} s")

    def file(self, name: str, target: Path, more: Callable[[int], None]) -> None:
        failures = 0

        def arrived(size: int) -> None:
            nonlocal failures
            failures = 0
            more(size)
            self.check()

        while True:
            self.check()
            try:
                self._door.fetch(self.model, self.bundle_hash, name, target, arrived)
                return
            except HostError:
                failures += 1
                if failures >= TRIES:
                    raise
            self._stop.wait(RETRY_FIRST_S * 2 ** (failures - 1))


@contextlib.contextmanager
def _alone(path: Path, check: Callable[[], None]) -> Iterator[None]:
    """While no other transfer, of whichever process, does the same; ``check`` raises when waiting is over."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check()
                time.sleep(LOCK_LOOK_S)
        yield
