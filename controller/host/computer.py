"""The farm's own computer as a device: a process that speaks the phones' protocol and edits with torch."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.selector import COMPUTER
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.errors import DeviceError, HostError, UserError
from mobifarm.controller.provisioning.agent import AgentEndpoint
from mobifarm.controller.provisioning.connection import AgentConnection, connect_here
from mobifarm.v1 import agent_pb2, agent_pb2_grpc
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.methods import require_torch

SERVER: Final = "mobifarm.workloads.baselines.serve"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 8.0  # longer than the agent waits for its running edit


class Computer:
    """The running process with an open connection to it."""

    def __init__(
        self,
        process: subprocess.Popen[str],
        home: Path,
        name: str,
        connection: AgentConnection,
        description: agent_pb2.DescribeResponse,
        threads: concurrent.futures.Executor,
    ) -> None:
        self._process = process
        self._home = home
        self._connection = connection
        self._threads = threads
        self.serial = name
        # What its seconds depend on; a change starts a new measurement epoch, as a phone's build does.
        self.fingerprint = (
            f"{platform.platform()}; {_processor()} × {description.cpu_count}; "
            f"torch {importlib.metadata.version('torch')}"
        )
        self.description = description

    @property
    def stub(self) -> agent_pb2_grpc.AgentServiceAsyncStub:
        return self._connection.agent

    @property
    def properties(self) -> Mapping[str, str]:
        return {}

    @property
    def execution(self) -> str:
        return COMPUTER

    async def push_bundle(
        self, folder: Path, bundle_hash: str, progress: Callable[[int, int], None]
    ) -> Sequence[str]:
        """Link the bundle: it is on this machine already."""
        _link(self._home / "bundles" / bundle_hash, folder)
        return ()

    async def wait_lost(self) -> str:
        """Never: there is no cable. A process that dies is met as an agent's death is on a phone."""
        await asyncio.Event().wait()
        raise AssertionError

    async def check_health(self, timeout_s: float) -> None:
        """Ask the process; one that has ended need not be asked."""
        if (code := self._process.poll()) is not None:
            raise DeviceError(f"the computer's agent ended with exit code {code}")
        await self._connection.check_health(timeout_s)

    async def stored_bundles(self) -> Sequence[str]:
        """None: bundles are links here, and the methods of a phone's health check are none of its own."""
        return ()

    async def examine(self) -> list[Finding]:
        """Not here: `mobifarm doctor` looks at its own computer itself."""
        raise UserError("the farm's computer is no phone; `mobifarm doctor` without a name examines it")

    async def identify(self) -> None:
        """Not here: there is nothing to look for."""
        raise UserError("the farm's computer is no phone: it has no screen to blink with")

    async def remove_bundle(self, bundle_hash: str) -> None:
        """Remove the link."""
        (self._home / "bundles" / bundle_hash).unlink(missing_ok=True)

    async def close(self) -> None:
        """End the process."""
        await self._connection.close()
        await asyncio.get_running_loop().run_in_executor(self._threads, _end, self._process)


class ComputerConnector:
    """Starts the process; it ends with this one, because it reads its end from the pipe between them.

    Args:
        name: of the machine.
        home: folder of the agent: its token, its finished results, its log; made where it is missing.
        scratch: short folder (mode 0700) for its socket.
    """

    def __init__(self, name: str, home: Path, scratch: Path, threads: concurrent.futures.Executor) -> None:
        self._name = name
        self._home = home
        self._socket = scratch / "computer.sock"
        self._threads = threads

    async def __call__(
        self,
        address: str,
        stage: Callable[[DeviceState], None],
        transfer: Callable[[str, int, int], None],
    ) -> Computer:
        """See :class:`mobifarm.controller.host.phone.Connect`."""
        stage(DeviceState.CONNECTING)
        try:
            require_torch()
        except WorkloadInputError as error:
            raise HostError(str(error)) from error
        loop = asyncio.get_running_loop()
        stage(DeviceState.PROVISIONING)
        process = await loop.run_in_executor(self._threads, self._start)
        try:
            return await self._meet(process)
        except BaseException:
            await loop.run_in_executor(self._threads, _end, process)
            raise

    def _start(self) -> subprocess.Popen[str]:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        address = f"unix:{self._socket}"
        with (self._home / "start.log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", SERVER, "--home", str(self._home), "--address", address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    async def _meet(self, process: subprocess.Popen[str]) -> Computer:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                said = await asyncio.get_running_loop().run_in_executor(
                    self._threads, process.stdout.readline
                )
        except TimeoutError:
            raise DeviceError(f"the computer's agent did not start in {START_DEADLINE_S:.0f} s") from None
        if not said.startswith("listening"):
            words = (self._home / "start.log").read_text(errors="replace").strip()[-500:] or "no message"
            raise DeviceError(f"the computer's agent did not start: {words}")
        ready = json.loads((self._home / "agent" / "ready.json").read_text())
        endpoint = AgentEndpoint(
            pid=process.pid,
            address=str(ready["address"]),
            token=(self._home / "agent" / "token").read_text().strip(),
            agent_version=str(ready["agent_version"]),
            session_id=str(ready["session_id"]),
            reused=False,
        )
        connection = await connect_here(endpoint)
        try:
            description = await connection.describe()
        except BaseException:
            await connection.close()
            raise
        return Computer(process, self._home, self._name, connection, description, self._threads)


def _end(process: subprocess.Popen[str]) -> None:
    """Stop the process and wait for it; one that does not listen is killed."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def _link(link: Path, target: Path) -> None:
    beside = link.with_suffix(".new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target.resolve(), target_is_directory=True)
    beside.replace(link)


def _processor() -> str:
    """The processor's name as Linux tells it, or its kind."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
