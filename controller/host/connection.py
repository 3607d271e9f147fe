"""Opens the link to one phone and starts its agent, reporting each stage on the way."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import grpc.aio

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.doctor.phone import examine
from mobifarm.controller.host.description import bounded
from mobifarm.controller.provisioning.agent import AgentEndpoint
from mobifarm.controller.provisioning.connection import AgentConnection, connect_agent
from mobifarm.controller.provisioning.identify import identify
from mobifarm.controller.provisioning.install import (
    bundles_by_size,
    compiled_graphs,
    install_bundle,
    install_compiled,
    remove_bundle,
)
from mobifarm.controller.provisioning.phone import cpu_abi, run
from mobifarm.controller.provisioning.provision import ProvisionedPhone, provision
from mobifarm.controller.transport.adb_server import AdbServer
from mobifarm.controller.transport.direct import connect_direct
from mobifarm.controller.transport.interface import DeviceTransport
from mobifarm.controller.transport.server import connect_server
from mobifarm.v1 import agent_pb2, agent_pb2_grpc
from mobifarm.workloads.paths import cache_directory

Result = TypeVar("Result")

CONNECT_DEADLINE_S = 10.0
# A person may need a while to find the phone and tap Allow; closing the link would cancel the prompt.
AUTHORISATION_DEADLINE_S = 120.0


class Phone:
    """A phone with a running agent and an open tunnel to it."""

    def __init__(
        self,
        transport: DeviceTransport,
        provisioned: ProvisionedPhone,
        connection: AgentConnection,
        description: agent_pb2.DescribeResponse,
        threads: concurrent.futures.Executor,
    ) -> None:
        self._transport = transport
        self._provisioned = provisioned
        self._connection = connection
        self._threads = threads
        self.description = description

    @property
    def stub(self) -> agent_pb2_grpc.AgentServiceAsyncStub:
        return self._connection.agent

    @property
    def properties(self) -> Mapping[str, str]:
        return self._provisioned.properties

    @property
    def serial(self) -> str:
        return self.properties.get("ro.serialno") or self.properties.get("ro.boot.serialno") or "unknown"

    @property
    def fingerprint(self) -> str:
        return self.properties.get("ro.build.fingerprint") or "unknown"

    @property
    def execution(self) -> str:
        """What kind of machine this is, as the phone itself says."""
        if self.properties.get("ro.boot.mobifarm.virtual") != "1":
            return "phone"
        emulated = (
            self.properties.get("ro.boot.mobifarm.emulator") and cpu_abi(self.properties) == "arm64-v8a"
        )
        return "qemu_arm64" if emulated else "virtual"

    async def push_bundle(
        self, folder: Path, bundle_hash: str, progress: Callable[[int, int], None]
    ) -> Sequence[str]:
        """See :class:`mobifarm.controller.host.attempts.ReachablePhone`."""
        loop = asyncio.get_running_loop()

        def on_progress(done: int, total: int) -> None:
            loop.call_soon_threadsafe(progress, done, total)

        installed = await _blocking(
            self._threads,
            lambda: install_bundle(self._transport, self._provisioned.home, folder, bundle_hash, on_progress),
        )
        removed = installed.removed
        soc = self.properties.get("ro.soc.model", "")
        if compiled := compiled_graphs(folder, bundle_hash, soc):
            graphs = await _blocking(
                self._threads,
                lambda: install_compiled(self._transport, self._provisioned.home, compiled, bundle_hash, soc),
            )
            removed += graphs.removed
        return removed

    async def wait_lost(self) -> str:
        """Return the reason once the link is gone."""
        await _blocking(self._threads, self._transport.wait_closed)
        return self._transport.loss_reason or "the link to the phone was lost"

    async def check_health(self, timeout_s: float) -> None:
        await self._connection.check_health(timeout_s)

    async def stored_bundles(self) -> Sequence[str]:
        """See :class:`mobifarm.controller.host.health.CheckablePhone`."""
        return await self.blocking(lambda link: bundles_by_size(link, self._provisioned.home))

    async def remove_bundle(self, bundle_hash: str) -> None:
        await self.blocking(lambda link: remove_bundle(link, self._provisioned.home, bundle_hash))

    async def examine(self) -> list[Finding]:
        """See :func:`mobifarm.controller.doctor.phone.examine`."""
        return await self.blocking(examine)

    async def identify(self) -> None:
        """See :func:`mobifarm.controller.provisioning.identify.identify`."""
        await self.blocking(identify)

    async def blocking(self, call: Callable[[DeviceTransport], Result]) -> Result:
        """Run something that blocks over the open link, in a thread of its own."""
        return await _blocking(self._threads, lambda: call(self._transport))

    async def close(self) -> None:
        await self._connection.close()
        await _blocking(self._threads, self._transport.close)


class Connector:
    """Connects, provisions and starts the agent; one farm key and one scratch folder for all phones.

    ``server``: the adb server that owns the phones; None talks to them directly.
    """

    def __init__(
        self,
        adb_key: Path,
        scratch: Path,
        threads: concurrent.futures.Executor,
        server: AdbServer | None = None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        self._adb_key = adb_key
        self._server = server
        self._scratch = scratch
        self._threads = threads
        self._interceptors = interceptors
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by serial number

    async def __call__(
        self,
        address: str,
        stage: Callable[[DeviceState], None],
        transfer: Callable[[str, int, int], None],
    ) -> Phone:
        """See :class:`mobifarm.controller.host.phone.Connect`."""
        loop = asyncio.get_running_loop()
        stage(DeviceState.CONNECTING)

        def on_authorisation() -> None:
            loop.call_soon_threadsafe(stage, DeviceState.AWAITING_AUTHORISATION)

        def on_transfer(what: str, done: int, total: int) -> None:
            loop.call_soon_threadsafe(transfer, what, done, total)

        opening = self._threads.submit(self._open, address, on_authorisation)
        try:
            transport = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            # The thread goes on, with its deadline; nobody else would close the link that it may yet open.
            self._threads.submit(lambda: opening.result().close())
            raise
        try:
            stage(DeviceState.PROVISIONING)
            serial = await _blocking(
                self._threads, lambda: run(transport, "getprop ro.serialno", "read its serial number").stdout
            )
            # One phone at two places is provisioned by one at a time: both would unpack into one folder.
            async with self._turns[serial.strip()]:
                provisioned = await _blocking(
                    self._threads,
                    lambda: provision(transport, cache=cache_directory(), bundles={}, progress=on_transfer),
                )
            stage(DeviceState.CALIBRATING)
            return await self._meet(transport, provisioned)
        except BaseException:
            # Ends a provisioning that goes on in its thread, too.
            await _blocking(self._threads, transport.close)
            raise

    def open_briefly(self, address: str) -> DeviceTransport:
        """A link of its own, for repairs; blocks. A phone that would ask a person first is not waited for."""
        return self._open(address, lambda: None, authorisation_deadline_s=CONNECT_DEADLINE_S)

    def _open(
        self,
        address: str,
        on_authorisation: Callable[[], None],
        authorisation_deadline_s: float = AUTHORISATION_DEADLINE_S,
    ) -> DeviceTransport:
        if self._server:
            return connect_server(address, self._server)
        return connect_direct(
            address,
            key_path=self._adb_key,
            timeout_s=CONNECT_DEADLINE_S,
            authorisation_timeout_s=authorisation_deadline_s,
            on_authorisation=on_authorisation,
        )

    async def _meet(self, transport: DeviceTransport, provisioned: ProvisionedPhone) -> Phone:
        endpoint: AgentEndpoint = provisioned.endpoint
        connection = await connect_agent(transport, endpoint, self._scratch, interceptors=self._interceptors)
        try:
            description = await connection.describe()
        except BaseException:
            await connection.close()
            raise
        return Phone(transport, provisioned, connection, bounded(description), self._threads)


async def _blocking(threads: concurrent.futures.Executor, call: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, call)
