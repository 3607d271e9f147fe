"""A farm in this process over real virtual phones, and the faults that tests switch in from outside.

The real core, store, host, transport and agents, without Ray: that has its own tests beside the whole farm's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from mobifarm.controller.core.check import check
from mobifarm.controller.core.due import LeaseSettings
from mobifarm.controller.core.events import Event
from mobifarm.controller.core.policies.fifo import FifoPolicy
from mobifarm.controller.core.state import JobState
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.host_link import Order
from mobifarm.controller.farm.requests import FarmRequests
from mobifarm.controller.host.phones import HostConfiguration, PhoneHost
from mobifarm.controller.host.reports import Report
from mobifarm.controller.store.projection import Record
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.store.sqlite import SqliteStore
from mobifarm.controller.transport.direct import DirectTransport, connect_direct
from mobifarm.simulator.virtual_phones import VirtualPhones
from mobifarm.v1 import agent_pb2
from mobifarm.workloads.datasets import load_records
from mobifarm.workloads.records import record_to_mapping
from mobifarm.workloads.spec import parse_spec

DEADLINE_S = 240.0


class FollowedStore(SqliteStore):
    """A store that tells when all that was appended has been written."""

    _last_append: Future[int] | None = None

    def append_records(self, records: Sequence[Record]) -> Future[int]:
        self._last_append = super().append_records(records)
        return self._last_append

    def flushed(self) -> None:
        """Return when everything appended so far is on disk, or was refused."""
        if self._last_append is not None:
            self._last_append.exception(DEADLINE_S)


class HostInProcess:
    """A HostLink without Ray in between."""

    name = "here"

    def __init__(self, phones: PhoneHost) -> None:
        self._phones = phones
        self._last_report = 0

    async def attach(self, device_id: str, address: str, source: str) -> None:
        self._phones.attach(device_id, address, source)

    async def begin(self) -> None:
        """It never forgets its phones."""

    async def carry_out(self, orders: Sequence[Order]) -> None:
        for method, *arguments in orders:
            getattr(self._phones, method)(*arguments)

    async def reports(self) -> Sequence[Report]:
        self._last_report, reports = await self._phones.reports(self._last_report, 10.0)
        return reports

    def __getattr__(self, name: str) -> Any:
        return getattr(self._phones, name)


class FarmInProcess:
    """One farm from its start to its end; the next one over the same folder takes up where it was."""

    def __init__(
        self, home: Path, bundle: Path, interceptors: Sequence[grpc.aio.ClientInterceptor], grace_s: float
    ) -> None:
        self.home = home
        self._bundle = bundle
        self.skipped_s = 0.0
        scratch = Path(tempfile.mkdtemp(prefix="mobifarm-"))
        self._end = contextlib.ExitStack()
        self._end.callback(shutil.rmtree, scratch, ignore_errors=True)
        self.store = self._end.enter_context(contextlib.closing(FollowedStore(home / "farm.sqlite")))
        self.host = PhoneHost(
            HostConfiguration("here", home / "adbkey", scratch, home / "computer", allow_reboot=True),
            interceptors,
        )
        numbers = itertools.count()
        self.farm = Farm(
            store=self.store,
            host=HostInProcess(self.host),
            policy=FifoPolicy(),
            settings=LeaseSettings(lost_grace_s=grace_s, attempt_limit_s=3600.0),
            clock=self._now,
            identifier=self._name,
            paranoid=True,
        )
        self._numbers = numbers
        self.requests = FarmRequests(self.farm, clock=self._now, identifier=self._name)

    def _now(self) -> float:
        return time.time() + self.skipped_s

    def _name(self, prefix: str) -> str:
        return f"{prefix}-{self.store.epoch}-{next(self._numbers)}"

    async def skip(self, seconds: float) -> None:
        """Let time pass for the farm, so that no test waits for a back-off."""
        self.skipped_s += seconds
        await self.farm.apply()

    async def add(self, *addresses: str) -> None:
        for address in addresses:
            await self.requests.add_device(address, "test")
        await self.until(
            lambda: all(self.farm.state.devices[address].connected for address in addresses), "ready phones"
        )

    async def submit(self, edits: int, settings: Mapping[str, Any], **more: Any) -> str:
        spec = {
            "name": "faults",
            "model": str(self._bundle),
            "dataset": {"builtin": "personal-facts", "limit": edits},
            "methods": [{"name": "forward", "settings": dict(settings)}],
            **more,
        }
        records = load_records(parse_spec(spec).dataset, self.home)
        answer = await self.requests.submit(spec, [record_to_mapping(record) for record in records], "me")
        return str(answer["job_id"])

    async def until(self, condition: Callable[[], Any], what: str, *, skipping: bool = False) -> Any:
        """Wait for the state to become so; ``skipping``: no back-off of a trial is waited for."""
        ends = time.monotonic() + DEADLINE_S
        while not (found := condition()):
            if skipping and self.farm.state.backing_off and not self.farm.state.leases:
                await self.skip(60)
            if time.monotonic() > ends:
                devices = [(d.device_id, d.state, d.reason) for d in self.farm.state.devices.values()]
                raise AssertionError(f"{what} did not happen in {DEADLINE_S} s: {devices}")
            await asyncio.sleep(0.02)
        return found

    async def running(self, job_id: str) -> Any:
        """A lease whose edit has begun."""
        leases = self.farm.state.leases
        return await self.until(
            lambda: next((a for a in leases.values() if a.job_id == job_id and a.state == "running"), None),
            "a running attempt",
        )

    async def done(self, job_id: str) -> None:
        await self.until(lambda: self.farm.state.jobs[job_id].state is JobState.DONE, "the end of the job")

    def events(self, kind: type[Event]) -> list[Any]:
        """Those in the log that led to the state as it is: the state is ahead of the disk by some commits."""
        self.store.flushed()
        with StoreReader(self.home / "farm.sqlite") as reader:
            return [event for _, event in reader.events() if isinstance(event, kind)]

    async def nothing_lost_nothing_doubled(self, job_id: str) -> None:
        """Every trial has exactly one result, of the attempt that the farm says; the state holds together."""
        state = self.farm.state
        check(state)
        trials = [state.trials[trial_id] for trial_id in state.jobs[job_id].trial_ids]
        wanted = sorted((trial.trial_id, trial.result_attempt_id) for trial in trials)
        self.store.flushed()
        with StoreReader(self.home / "farm.sqlite") as reader:
            found = sorted((result.trial_id, result.attempt_id) for result in reader.results(job_id))
        assert found == wanted

    async def phones_hold_nothing(self) -> None:
        """Every result was acknowledged: no phone keeps any, once all are idle."""
        sessions = self.host._sessions.values()
        for session in sessions:
            await self.until(lambda session=session: session._phone is not None, "a connected phone")  # type: ignore[misc]
            async with asyncio.timeout(DEADLINE_S):
                while (await session.phone.stub.Describe(agent_pb2.DescribeRequest(), timeout=20)).attempts:
                    await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self.host.close()
        await asyncio.to_thread(self._end.close)


class Cable:
    """A TCP relay between the farm and a phone: what a cable does, and what it may do wrong."""

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("tcp:").rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"
        self.delay_s = 0.0  # for every piece of data, each way
        self._dead: set[socket.socket] = set()
        self._open: list[socket.socket] = []
        self._clear = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def go_half_open(self) -> None:
        """What is open now stays open and carries nothing any more; new connections work."""
        self._dead |= set(self._open)

    def close(self) -> None:
        self._clear.set()
        for end in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if source in self._dead:
                    continue
                if self.delay_s:
                    self._clear.wait(self.delay_s)
                sink.sendall(data)
        if source not in self._dead:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def phones() -> Iterator[VirtualPhones]:
    """Two virtual phones for all tests of a module; each test leaves them plugged in and sound."""
    with VirtualPhones(2, profiles=("pixel-8", "galaxy-s24")) as running:
        yield running


@pytest.fixture(scope="session")
def adb_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "adbkey"


@pytest.fixture
def shell(adb_key: Path) -> Callable[[str, str], str]:
    """Runs a command on the phone at an address over a link of its own."""

    def run(address: str, command: str) -> str:
        link: DirectTransport = connect_direct(address, key_path=adb_key)
        try:
            return link.shell(command).stdout
        finally:
            link.close()

    return run


Start = Callable[..., contextlib.AbstractAsyncContextManager[FarmInProcess]]


@pytest.fixture
def start(tmp_path: Path, tiny_bundle_path: Path) -> Start:
    """Starts a farm over one folder, again and again if wanted."""
    (tmp_path / "farm").mkdir()

    @contextlib.asynccontextmanager
    async def running(
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (), grace_s: float = 600.0
    ) -> AsyncIterator[FarmInProcess]:
        made = FarmInProcess(tmp_path / "farm", tiny_bundle_path, interceptors, grace_s)
        task = asyncio.create_task(made.farm.run())
        try:
            await made.farm.started.wait()
            yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ExceptionGroup):
                await task
            await made.close()

    return running


@pytest.fixture
def cables() -> Iterator[Callable[[str], Cable]]:
    """Lays relays to phones; pulled out with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda target: stack.enter_context(contextlib.closing(Cable(target)))
