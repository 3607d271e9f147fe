"""How many trials a controller carries: many phones without a model; host, Ray, policy and store are real.

    python tests/bench/load.py --phones 100,1000 --trials 20000 --work-ms 50 --json load.json

The agents are light: they wait instead of editing. ADB is left out: a thousand virtual phones would measure
the simulator. Everything from the host actor on is the product's: Ray, the farm's loop, the policy, the log
on disk with its tables.

``--agent-processes N``: the agents are N processes that speak the agents' gRPC protocol over unix sockets,
one channel per phone. ``--agent-processes 0``: they are called inside the host actor, without gRPC: what is
left is what the farm itself costs. On a real shelf each phone pays for its own agent; here they share this
machine's cores with the farm, so ``cpu_ms_per_trial`` tells who used them, beside the rate. The time in
which phones connect does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import itertools
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from mobifarm.controller.collection import collect_rarely
from mobifarm.controller.core.due import LeaseSettings
from mobifarm.controller.core.events import DeviceAdded, DeviceState, JobSubmitted, TrialPlan
from mobifarm.controller.core.policies.fifo import FifoPolicy
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.farm.cluster import Cluster
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.ray_host import RayHost
from mobifarm.controller.host.actor import HostActor
from mobifarm.controller.host.phones import HostConfiguration, PhoneHost
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.store.choose import open_store
from mobifarm.v1 import agent_pb2, agent_pb2_grpc

INSIDE = "inside"  # the address of agents that are called in the host actor
PHONE = "phone"  # the metadata that tells which of its phones an agent process is asked as
PAYLOAD = {
    "model": "none",
    "bundle_hash": "0" * 64,
    "method": "forward",
    "seed": 0,
    "settings": {"step_limit": 20, "step_size": 0.1, "stop_probability": 0.9},
    "record": {
        "record_id": "fact-1",
        "subject": "The owner of this phone",
        "prompt": "The owner of this phone lives in",
        "target_new": " Trondheim",
        "target_true": " Paris",
        "paraphrases": ["The city where the owner of this phone lives is called"] * 2,
        "neighbours": [{"prompt": "The owner of that boat lives in", "answer": " Bergen"}] * 4,
        "portability": [{"prompt": "The owner of this phone lives by a fjord called", "answer": " T"}],
    },
}


# --- the agents: processes of their own -------------------------------------------------------------------


class LightAgent(agent_pb2_grpc.AgentServiceServicer):
    """Many phones in one process: each keeps its results until they are acknowledged, as an agent does."""

    def __init__(self, work_s: float) -> None:
        self._work_s = work_s
        self._running: dict[tuple[str, str], asyncio.Future[agent_pb2.EditResult]] = {}
        self._tokens: dict[str, int] = {}

    async def Describe(self, request: Any, context: Any) -> agent_pb2.DescribeResponse:  # noqa: N802
        return agent_pb2.DescribeResponse(
            agent_version="1",
            session_id="1",
            fencing_token=self._tokens.get(_phone(context), 0),
            methods=["forward"],
        )

    async def CheckBundle(self, request: Any, context: Any) -> agent_pb2.CheckBundleResponse:  # noqa: N802
        return agent_pb2.CheckBundleResponse(bundle_hash=request.bundle_hash)

    async def Run(self, request: Any, context: Any) -> Any:  # noqa: N802
        phone = _phone(context)
        if request.fencing_token < self._tokens.get(phone, 0):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the token is old")
        self._tokens[phone] = request.fencing_token
        key = phone, request.attempt_id
        if key not in self._running:
            loop = asyncio.get_running_loop()
            self._running[key] = ended = loop.create_future()
            loop.call_later(self._work_s, self._end, request, ended)
        yield agent_pb2.RunResponse(
            progress=agent_pb2.EditProgress(phase=agent_pb2.EDIT_PHASE_OPTIMISING, loss=math.nan)
        )
        yield agent_pb2.RunResponse(result=await asyncio.shield(self._running[key]))

    async def Acknowledge(self, request: Any, context: Any) -> agent_pb2.AcknowledgeResponse:  # noqa: N802
        self._running.pop((_phone(context), request.attempt_id), None)
        return agent_pb2.AcknowledgeResponse()

    async def Cancel(self, request: Any, context: Any) -> agent_pb2.CancelResponse:  # noqa: N802
        return agent_pb2.CancelResponse()

    def _end(self, request: Any, ended: asyncio.Future[agent_pb2.EditResult]) -> None:
        answer = agent_pb2.AnswerScore(log_probability=-1.5, tokens=2, tokens_argmax=1)
        scores = [
            agent_pb2.ProbeScore(
                kind=agent_pb2.PROBE_KIND_EFFICACY,
                prompt=request.record.prompt,
                wanted=request.record.target_new,
                wanted_before=answer,
                wanted_after=answer,
            )
            for _ in range(8)
        ]
        ended.set_result(
            agent_pb2.EditResult(
                attempt_id=request.attempt_id,
                status=agent_pb2.EDIT_STATUS_CONVERGED,
                scores=scores,
                cost=agent_pb2.EditCost(steps=12, loss_evaluations=24, edit_s=self._work_s),
            )
        )


def _phone(context: Any) -> str:
    return str(dict(context.invocation_metadata())[PHONE])


async def _serve_agents(address: str, work_s: float) -> None:
    server = grpc.aio.server()
    agent_pb2_grpc.add_AgentServiceServicer_to_server(LightAgent(work_s), server)
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)  # ends with its parent
    await server.stop(0)


# --- the host: the product's, but for how a phone is connected ----------------------------------------------


class LightPhone:
    """See :class:`mobifarm.controller.host.phone.ConnectedPhone`."""

    properties: Mapping[str, str] = {"ro.product.model": "light"}
    fingerprint = "light"
    execution = "virtual"

    def __init__(
        self, number: str, stub: Any, description: Any, close: Callable[[], Awaitable[None]]
    ) -> None:
        self.serial = number
        self.stub = stub
        self.description = description
        self.close = close

    async def push_bundle(self, folder: Path, bundle_hash: str, progress: Any) -> tuple[str, ...]:
        return ()

    async def wait_lost(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def check_health(self, timeout_s: float) -> None:
        pass


class _InnerStub:
    """An agent that is called in this process; also the context of its own calls."""

    def __init__(self, agent: LightAgent, number: str) -> None:
        self._agent = agent
        self._metadata = ((PHONE, number),)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)

    async def ReadSensors(self, request: Any, timeout: float) -> None:  # noqa: N802
        await self.abort(grpc.StatusCode.UNIMPLEMENTED, "a light agent has no sensors")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._agent, name)
        return lambda request, timeout=None: method(request, self)


class _Stub:
    """The agent's stub, with the phone's number in the metadata of each call."""

    def __init__(self, channel: grpc.aio.Channel, number: str) -> None:
        self._stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        self._metadata = ((PHONE, number),)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._stub, name)

        def with_phone(request: Any, timeout: float | None = None) -> Any:
            return call(request, timeout=timeout, metadata=self._metadata)

        return with_phone


class LightHostActor(HostActor):
    """The host actor with light phones; reports what it has used of the machine."""

    def __init__(self, configuration: HostConfiguration, work_s: float) -> None:
        super().__init__(configuration)
        self._agent = LightAgent(work_s)

    def _host(self) -> PhoneHost:
        if self._phones is None:
            host = super()._host()
            connect: Callable[..., Awaitable[LightPhone]] = self._connect_light
            host._connect_phone = connect  # type: ignore[assignment]
            host._bundles.folder = _no_folder  # type: ignore[method-assign]
        return super()._host()

    async def _connect_light(
        self,
        address: str,
        stage: Callable[[DeviceState], None],
        transfer: Callable[[str, int, int], None],
    ) -> LightPhone:
        target, _, number = address.rpartition("#")
        stub: Any
        if target == INSIDE:
            stub, close = _InnerStub(self._agent, number), _nothing
        else:
            channel = grpc.aio.insecure_channel(
                target, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.keepalive_time_ms", 10_000)]
            )
            stub, close = _Stub(channel, number), channel.close
        description = await stub.Describe(agent_pb2.DescribeRequest(), timeout=60)
        return LightPhone(number, stub, description, close)

    async def usage(self) -> dict[str, float]:
        return _usage()


async def _nothing() -> None:
    pass


async def _no_folder(model: str, bundle_hash: str, progress: Any) -> Path:
    return Path("/")


def _usage() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"cpu_s": used.ru_utime + used.ru_stime, "rss_bytes": float(pages * resource.getpagesize())}


# --- the measurement --------------------------------------------------------------------------------------


async def _measure(
    arguments: argparse.Namespace, phone_count: int, agents: dict[str, int], actor: Any, home: Path
) -> dict[str, Any]:
    store = open_store(FarmPaths(home), arguments.store)
    commits = 0
    commit = store._database.commit

    def count_commit() -> None:
        nonlocal commits
        commit()
        commits += 1

    store._database.commit = count_commit  # type: ignore[method-assign]
    numbers = itertools.count()
    farm = Farm(
        store=store,
        host=RayHost("bench", actor),
        policy=FifoPolicy(),
        settings=LeaseSettings(attempt_limit_s=3600.0),
        clock=time.time,
        identifier=lambda prefix: f"{prefix}-{next(numbers):08x}",
    )
    collect_rarely()
    running = asyncio.create_task(farm.run())
    await farm.started.wait()
    addresses = list(agents) or [INSIDE]
    phones = [f"{addresses[number % len(addresses)]}#{number}" for number in range(phone_count)]
    connect_from = time.monotonic()
    await farm.apply(*(DeviceAdded(time.time(), phone, phone, "bench") for phone in phones))
    await asyncio.gather(*(farm.attach(phone, phone) for phone in phones))
    async with asyncio.timeout(arguments.limit_s):
        while True:
            change = farm.next_change()  # taken before looking, so that nothing falls in between
            if sum(device.connected for device in farm.state.devices.values()) >= phone_count:
                break
            await change.wait()
    connect_s = time.monotonic() - connect_from
    plans = tuple(
        TrialPlan(f"job/{number:06}", "fact", PAYLOAD, "forward") for number in range(arguments.trials)
    )
    job = JobSubmitted(time.time(), "job", "load", "bench", {}, plans, DeviceSelector(), 0, 3)
    others = Background(time.monotonic())
    host_before = await actor.usage.remote()
    agents_before = _cpu_s_of(list(agents.values()))
    before, commits_before, from_s = _usage(), commits, time.monotonic()
    await farm.apply(job)
    submit_s = time.monotonic() - from_s
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(arguments.limit_s):
            while True:
                change = farm.next_change()
                if not farm.state.jobs["job"].open:
                    break
                await change.wait()
    duration_s = time.monotonic() - from_s
    after, host_after = _usage(), await actor.usage.remote()
    agents_s = _cpu_s_of(list(agents.values())) - agents_before
    machine_s, machine_share = others.used(time.monotonic())
    done = sum(attempt.state.value == "done" for attempt in farm.state.attempts.values())
    broken = sum(attempt.state.value in ("broken", "expired") for attempt in farm.state.attempts.values())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    store.close()
    ideal = phone_count / (arguments.work_ms / 1000)
    cpu_s = {
        "controller": after["cpu_s"] - before["cpu_s"],
        "host_actor": host_after["cpu_s"] - host_before["cpu_s"],
        "agents": agents_s,
    }
    return {
        "phones": phone_count,
        "trials_done": done,
        "attempts_broken": broken,
        "duration_s": duration_s,
        "trials_per_s": done / duration_s,
        "ideal_trials_per_s": ideal,
        "share_of_ideal": done / duration_s / ideal,
        "connect_s": connect_s,
        "submit_s": submit_s,
        "commits_per_s": (commits - commits_before) / duration_s,
        "cpu_ms_per_trial": {name: 1000 * used / max(done, 1) for name, used in cpu_s.items()},
        "cores_used": {name: used / duration_s for name, used in cpu_s.items()}
        | {"other_processes": (machine_s - sum(cpu_s.values())) / duration_s},
        "share_of_cores_busy": machine_share,
        "rss_bytes": {"controller": after["rss_bytes"], "host_actor": host_after["rss_bytes"]},
    }


class Background:
    """How busy all cores of the machine were since this was made."""

    def __init__(self, at: float) -> None:
        self._at = at
        self._busy_s = _busy_s()

    def used(self, at: float) -> tuple[float, float]:
        """Processor seconds of all processes, and their share of what the cores could have given."""
        busy_s = _busy_s() - self._busy_s
        return busy_s, busy_s / ((at - self._at) * (os.cpu_count() or 1))


def _busy_s() -> float:
    user, nice, system, _idle, _wait, *others = (
        int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
    )
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def _cpu_s_of(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _start_agents(arguments: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> dict[str, int]:
    """The processes' ids by their addresses."""
    addresses = {}
    for number in range(arguments.agent_processes):
        address = f"unix:{folder}/agents{number}"
        command = [sys.executable, __file__, "--serve", address, "--work-ms", str(arguments.work_ms)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        stack.callback(process.wait, 30)
        stack.callback(process.stdin.close)
        assert process.stdout.readline() == "ready\n"
        addresses[address] = process.pid
    return addresses


def _measure_one(
    arguments: argparse.Namespace, phone_count: int, profiler: cProfile.Profile | None
) -> dict[str, Any]:
    """With agents, a host actor and a log of its own."""
    import ray

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mobifarm-load-")))
        agents = _start_agents(arguments, folder, stack)
        configuration = HostConfiguration("bench", folder / "adbkey", folder, folder)
        actor = (
            ray.remote(LightHostActor)
            .options(num_cpus=0, max_concurrency=5000)
            .remote(configuration, arguments.work_ms / 1000)
        )
        stack.callback(ray.kill, actor)
        if profiler:
            profiler.enable()
        try:
            return asyncio.run(_measure(arguments, phone_count, agents, actor, folder))
        finally:
            if profiler:
                profiler.disable()


def _phone_counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--phones", type=_phone_counts, default=[100, 1000], help="one run each")
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--work-ms", type=float, default=50.0)
    parser.add_argument("--agent-processes", type=int, default=2)
    parser.add_argument("--limit-s", type=float, default=120.0, help="give up after so long")
    parser.add_argument("--store", help="an empty database postgresql://… in place of a file; for one run")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--profile", type=Path, help="write the controller's cProfile there")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.serve:
        asyncio.run(_serve_agents(arguments.serve, arguments.work_ms / 1000))
        return
    profiler = cProfile.Profile() if arguments.profile else None
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mobifarm-load-")))
        token = folder / "ray-token"
        token.write_text("0" * 64)
        cluster = Cluster.start(token)
        stack.callback(cluster.stop)
        runs = [_measure_one(arguments, count, profiler) for count in arguments.phones]
    if profiler:
        profiler.dump_stats(arguments.profile)
    figures = {
        "work_ms": arguments.work_ms,
        "agent_processes": arguments.agent_processes,
        "store": "postgresql" if arguments.store else "sqlite",
        "cores": os.cpu_count(),
        "load_average_after": os.getloadavg()[0],
        "python": platform.python_version(),
        "runs": runs,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
