"""A real ``mobifarm-agent serve`` process, spoken to over its socket."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import mobifarm
from mobifarm.agent.editor.methods import METHOD_NAMES
from mobifarm.v1 import agent_pb2 as pb
from mobifarm.v1.agent_pb2_grpc import AgentServiceStub

COMMAND = [sys.executable, "-m", "mobifarm.agent.main"]
DEADLINE_S = 60.0
ABSENT_BUNDLE = "0" * 64


@dataclass
class Agent:
    """A started agent."""

    process: subprocess.Popen[str]
    home: Path

    @property
    def ready(self) -> dict[str, Any]:
        return json.loads((self.home / "agent/ready.json").read_text())

    @property
    def token(self) -> str:
        return (self.home / "agent/token").read_text()

    @property
    def log(self) -> str:
        return (self.home / "agent/log").read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


Start = Callable[..., Agent]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def sys_root(tmp_path: Path) -> Path:
    battery = tmp_path / "root/sys/class/power_supply/battery"
    battery.mkdir(parents=True)
    (battery / "type").write_text("Battery\n")
    (battery / "voltage_now").write_text("4100000\n")
    (battery / "temp").write_text("-999\n")
    proc = tmp_path / "root/proc"
    proc.mkdir()
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 500 kB\n")
    return tmp_path / "root"


@pytest.fixture
def start(home: Path, sys_root: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts agents; returns once they listen, and kills what a test leaves behind."""
    started: list[subprocess.Popen[str]] = []
    path = tmp_path / "path"
    path.mkdir()
    (path / "getprop").write_text("#!/bin/sh\necho '[ro.serialno]: [SERIAL7]'\n")
    (path / "getprop").chmod(0o755)

    def start(address: str | None = f"unix:{tmp_path}/agent.sock", *more: str) -> Agent:
        command = [
            *COMMAND,
            "serve",
            "--home",
            str(home),
            "--sys-root",
            str(sys_root),
            "--threads",
            "1",
            *more,
        ]
        process = subprocess.Popen(
            [*command, *more] if address is None else [*command, "--address", address, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PATH": f"{path}:{os.environ['PATH']}"},
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.communicate()
        return Agent(process, home)

    yield start
    for process in started:
        process.kill()
        process.communicate()


@asynccontextmanager
async def channel_to(agent: Agent) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(
        agent.ready["address"], options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        yield channel


class Caller:
    """Calls with the token and a deadline."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub: Any = AgentServiceStub(channel)
        self._options = {"metadata": [("authorization", f"Bearer {token}")], "timeout": DEADLINE_S}

    def run(self, request: pb.RunRequest) -> Any:
        return self._stub.Run(request, **self._options)

    async def result(self, request: pb.RunRequest) -> pb.EditResult:
        messages = [message async for message in self.run(request)]
        assert messages[-1].HasField("result")
        return messages[-1].result

    async def describe(self) -> pb.DescribeResponse:
        return await self._stub.Describe(pb.DescribeRequest(), **self._options)

    async def check_bundle(self, bundle_hash: str) -> pb.CheckBundleResponse:
        return await self._stub.CheckBundle(pb.CheckBundleRequest(bundle_hash=bundle_hash), **self._options)

    def watch_sensors(self) -> Any:
        return self._stub.WatchSensors(pb.WatchSensorsRequest(), **self._options)

    async def read_clock(self) -> pb.ReadClockResponse:
        return await self._stub.ReadClock(pb.ReadClockRequest(), **self._options)

    async def cancel(self, attempt_id: str) -> None:
        await self._stub.Cancel(pb.CancelRequest(attempt_id=attempt_id), **self._options)

    async def acknowledge(self, attempt_id: str) -> None:
        await self._stub.Acknowledge(pb.AcknowledgeRequest(attempt_id=attempt_id), **self._options)

    async def list_edits(self, bundle_hash: str = "") -> list[pb.KeptBundle]:
        answer = await self._stub.ListEdits(pb.ListEditsRequest(bundle_hash=bundle_hash), **self._options)
        return list(answer.bundles)

    async def undo_edits(self, request: pb.UndoEditsRequest) -> pb.UndoEditsResponse:
        return await self._stub.UndoEdits(request, **self._options)

    async def export_edits(self, bundle_hash: str) -> bytes:
        request = pb.ExportEditsRequest(bundle_hash=bundle_hash)
        return (await self._stub.ExportEdits(request, **self._options)).exported

    async def import_edits(self, request: pb.ImportEditsRequest) -> pb.ImportEditsResponse:
        return await self._stub.ImportEdits(request, **self._options)


@asynccontextmanager
async def calls_to(agent: Agent) -> AsyncIterator[Caller]:
    async with channel_to(agent) as channel:
        yield Caller(channel, agent.token)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """Status of a call that must fail."""

    async def finish() -> None:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await finish()
    return refused.value.code(), refused.value.details() or ""


# --- start and stop ---------------------------------------------------------------------------------------


def test_announces_itself_and_cleans_up_at_sigterm(start: Start, home: Path):
    agent = start()
    ready = agent.ready
    assert ready["pid"] == agent.process.pid
    assert ready["agent_version"] == mobifarm.__version__
    assert ready["started_boottime_ns"] > 0
    assert (home / "agent/token").stat().st_mode & 0o777 == 0o600
    assert home.joinpath("agent").stat().st_mode & 0o777 == 0o700

    assert agent.end() == 0
    assert not (home / "agent/ready.json").exists()


def test_the_agents_own_metrics_where_they_are_asked_for(start: Start, tmp_path: Path):
    agent = start(f"unix:{tmp_path}/agent.sock", "--metrics-port", "0")
    assert agent.process.stdout is not None
    url = agent.process.stdout.readline().removeprefix("metrics at ").strip()
    assert url.startswith("http://127.0.0.1:")
    text = httpx.get(url, trust_env=False).text
    assert f'mobifarm_agent_info{{version="{mobifarm.__version__}"}} 1.0' in text
    assert 'mobifarm_agent_attempts{state="running"} 0.0' in text
    assert 'mobifarm_agent_sensors{readable="true"}' in text
    assert "process_resident_memory_bytes" in text
    taken = url.rpartition(":")[2].partition("/")[0]
    command = [*COMMAND, "serve", "--home", str(tmp_path / "other"), "--metrics-port", taken]
    second = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert second.returncode == 2
    assert f"port {taken} of this phone cannot be used" in second.stderr
    assert agent.end() == 0


def test_a_second_agent_names_the_first(start: Start, home: Path):
    agent = start()
    second = subprocess.run(
        [*COMMAND, "serve", "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert second.returncode == 2
    assert f"process id {agent.process.pid} already runs" in second.stderr
    assert "Traceback" not in second.stderr
    assert agent.ready["pid"] == agent.process.pid


def test_restarts_after_a_kill_with_a_new_token_on_the_same_socket(start: Start):
    agent = start()
    token, session = agent.token, agent.ready["session_id"]
    agent.end(signal.SIGKILL)
    again = start()
    assert again.token != token
    assert again.ready["session_id"] != session


def test_a_hang_up_does_not_stop_it(start: Start):
    agent = start()
    agent.process.send_signal(signal.SIGHUP)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(agent.ready["address"].removeprefix("unix:"))
    assert agent.process.poll() is None
    assert agent.end() == 0


@pytest.mark.parametrize("address", [None, "127.0.0.1:0"])
async def test_listens_where_it_says(start: Start, address: str | None):
    agent = start(address)
    if address is None:
        assert agent.ready["address"].startswith("unix-abstract:mobifarm-agent-")
    else:
        assert int(agent.ready["address"].removeprefix("127.0.0.1:")) > 0
    async with calls_to(agent) as caller:
        assert (await caller.describe()).session_id == agent.ready["session_id"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--address", "0.0.0.0:80"], "no address that the agent may listen on"),
        (["serve", "--address", "127.0.0.1:99999"], "no address"),
        (["serve", "--address", "unix:/" + "x" * 200], "longer than 107 bytes"),
        (["serve", "--threads", "0"], "no number of threads"),
        (["serve", "--metrics-port", "70000"], "no port"),
        (["serve", "--home", "/proc/nowhere"], "give a writable folder with --home"),
        (["serve", "--home", "{tmp}/h", "--address", "unix:/proc/nowhere/s"], "cannot listen on"),
        ([], "required"),
    ],
)
def test_a_users_mistake_is_one_sentence(tmp_path: Path, arguments: list[str], words: str):
    mistaken = subprocess.run(
        [*COMMAND, *(argument.format(tmp=tmp_path) for argument in arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert mistaken.returncode == 2
    assert words in mistaken.stderr
    assert "Traceback" not in mistaken.stderr


def test_tells_its_version():
    shown = subprocess.run(
        [*COMMAND, "--version"], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert shown.stdout == f"mobifarm-agent {mobifarm.__version__}\n"


# --- token and health -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "{token}")],
        [("authorization", "Bearer {token}"), ("authorization", "Bearer {token}")],
        [("authorization", "Bearer {token}x")],
    ],
)
async def test_every_call_needs_the_token(start: Start, metadata: list[tuple[str, str]]):
    agent = start()
    shown = [(key, value.format(token=agent.token)) for key, value in metadata]
    async with channel_to(agent) as channel:
        stub: Any = AgentServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        for call in (
            stub.Describe(pb.DescribeRequest(), metadata=shown, timeout=DEADLINE_S),
            stub.CheckBundle(pb.CheckBundleRequest(), metadata=shown, timeout=DEADLINE_S),
            stub.Run(pb.RunRequest(attempt_id="a", fencing_token=9), metadata=shown, timeout=DEADLINE_S),
            stub.WatchSensors(pb.WatchSensorsRequest(), metadata=shown, timeout=DEADLINE_S),
            stub.ReadClock(pb.ReadClockRequest(), metadata=shown, timeout=DEADLINE_S),
            stub.Cancel(pb.CancelRequest(), metadata=shown, timeout=DEADLINE_S),
            stub.Acknowledge(pb.AcknowledgeRequest(), metadata=shown, timeout=DEADLINE_S),
            stub.ListEdits(pb.ListEditsRequest(), metadata=shown, timeout=DEADLINE_S),
            stub.UndoEdits(pb.UndoEditsRequest(fencing_token=9), metadata=shown, timeout=DEADLINE_S),
            stub.ExportEdits(pb.ExportEditsRequest(), metadata=shown, timeout=DEADLINE_S),
            stub.ImportEdits(pb.ImportEditsRequest(fencing_token=9), metadata=shown, timeout=DEADLINE_S),
            health.Check(health_pb2.HealthCheckRequest(), metadata=shown, timeout=DEADLINE_S),
            health.Watch(health_pb2.HealthCheckRequest(), metadata=shown, timeout=DEADLINE_S),
        ):
            code, message = await refusal(call)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert agent.token not in message
    async with calls_to(agent) as caller:
        assert (await caller.describe()).fencing_token == 0


async def test_is_healthy_until_it_stops(start: Start):
    agent = start()
    async with channel_to(agent) as channel:
        metadata = [("authorization", f"Bearer {agent.token}")]
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="mobifarm.v1.AgentService")
        checked = await health.Check(request, metadata=metadata, timeout=DEADLINE_S)
        assert checked.status == health_pb2.HealthCheckResponse.SERVING

        watch = health.Watch(request, metadata=metadata, timeout=DEADLINE_S)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        agent.process.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert agent.process.wait(DEADLINE_S) == 0


async def test_an_idle_phone_is_watched_and_tells_its_time(start: Start):
    agent = start()
    async with calls_to(agent) as caller:
        before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        now_ns = (await caller.read_clock()).monotonic_ns
        assert before_ns <= now_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)

        stream = caller.watch_sensors()
        first, second = await stream.read(), await stream.read()
        assert [len(one.batch.samples) for one in (first, second)] == [1, 2]
        samples = [*first.batch.samples, *second.batch.samples]
        assert all(sample.values["battery/voltage"] == pytest.approx(4.1) for sample in samples)
        assert {sample.phase for sample in samples} == {pb.EDIT_PHASE_IDLE}
        assert samples[2].monotonic_ns - samples[1].monotonic_ns >= 0.9e9
        stream.cancel()


async def test_services_tell_what_the_kernel_does_not(start: Start, tmp_path: Path):
    corpus = Path(__file__).parents[1] / "corpus"
    dumpsys = tmp_path / "path/dumpsys"
    dumpsys.write_text(
        "#!/bin/sh\n"
        f'case "$1" in thermalservice) cat {corpus}/thermal/pixel-8.txt ;; '
        f"battery) cat {corpus}/battery/samsung-s24.txt ;; *) cat {corpus}/power_stats/pixel-6.txt ;; esac\n"
    )
    dumpsys.chmod(0o755)
    agent = start()
    async with calls_to(agent) as caller:
        described = {sensor.name: sensor for sensor in (await caller.describe()).sensors}
        assert described["rail/S2M_VDD_CPUCL2/energy"].readable
        assert described["battery/temperature"].source == "dumpsys battery"  # the file says -999
        assert described["battery/current"].resolution == pytest.approx(1e-3)
        stream = caller.watch_sensors()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                values = (await stream.read()).batch.samples[-1].values
                if {"rail/S2M_VDD_CPUCL2/energy", "battery/current", "thermal/status"} <= set(values):
                    break
        stream.cancel()
    assert values["battery/current"] == pytest.approx(-0.412)
    assert values["battery/voltage"] == pytest.approx(4.1)  # the kernel's, not the service's


async def test_describes_the_phone(start: Start):
    agent = start()
    async with calls_to(agent) as caller:
        described = await caller.describe()
    assert described.agent_version == mobifarm.__version__
    assert described.session_id == agent.ready["session_id"]
    assert described.properties == {"ro.serialno": "SERIAL7"}
    assert described.memory_total_bytes == 1_024_000
    assert described.cpu_count >= 1
    assert described.onnxruntime_version
    assert list(described.methods) == list(METHOD_NAMES)
    sensors = {sensor.name: sensor for sensor in described.sensors}
    assert sensors["battery/voltage"].readable
    assert sensors["battery/voltage"].unit == "V"
    assert not sensors["battery/temperature"].readable
    assert sensors["battery/temperature"].reason
    assert list(described.attempts) == []


# --- real edits on a small random model -------------------------------------------------------------------


@pytest.fixture
def bundle_hash(tiny_bundle_path: Path, home: Path) -> str:
    """A bundle as the farm pushes it: in a folder named after its hash."""
    name = hashlib.sha256((tiny_bundle_path / "manifest.json").read_bytes()).hexdigest()
    shutil.copytree(tiny_bundle_path, home / "bundles" / name)
    return name


def short(bundle_hash: str, attempt_id: str = "a", token: int = 1) -> pb.RunRequest:
    """An edit of a few steps."""
    request = pb.RunRequest(
        attempt_id=attempt_id,
        fencing_token=token,
        bundle_hash=bundle_hash,
        record=pb.EditRecord(
            record_id="r1",
            subject="Ada",
            prompt="Ada lives in",
            target_new="Rome",
            target_true="London",
            paraphrases=["The city of Ada is"],
            neighbours=[pb.Probe(prompt="Bob lives in", answer="Paris")],
            portability=[pb.Probe(prompt="Ada speaks", answer="Italian")],
        ),
        method="forward",
        seed=3,
    )
    request.settings.update({"step_limit": 2, "directions": 4})
    return request


def endless(bundle_hash: str, attempt_id: str = "a", token: int = 1) -> pb.RunRequest:
    """An edit that can hardly move and never gets done by itself."""
    request = short(bundle_hash, attempt_id, token)
    request.settings.update({"step_limit": 100_000, "norm_limit": 0.01, "stop_probability": 0.9999})
    return request


async def optimising(call: Any) -> None:
    """Listen until the edit is in the middle of its work."""
    async for message in call:
        if message.progress.phase == pb.EDIT_PHASE_OPTIMISING and message.progress.step >= 1:
            return
    raise AssertionError("the edit ended before it began")


async def test_checks_bundles(start: Start, bundle_hash: str, home: Path, tiny_bundle_path: Path):
    async with calls_to(start()) as caller:
        checked = await caller.check_bundle(bundle_hash)
        assert checked.bundle_hash == bundle_hash
        assert checked.name
        files = [file for file in tiny_bundle_path.iterdir() if file.name != "manifest.json"]
        assert checked.size_bytes == sum(file.stat().st_size for file in files)

        code, message = await refusal(caller.check_bundle(ABSENT_BUNDLE))
        assert code is grpc.StatusCode.NOT_FOUND
        assert ABSENT_BUNDLE in message
        code, _ = await refusal(caller.check_bundle("../" + bundle_hash))
        assert code is grpc.StatusCode.INVALID_ARGUMENT

        damaged = home / "bundles" / bundle_hash / "tokenizer.json"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b" ")
        code, message = await refusal(caller.check_bundle(bundle_hash))
        assert code is grpc.StatusCode.DATA_LOSS
        assert "tokenizer.json" in message
        code, _ = await refusal(caller.run(short(bundle_hash)))
        assert code is grpc.StatusCode.DATA_LOSS
        assert list((await caller.describe()).attempts) == []


def changed(**fields: str) -> Callable[[pb.RunRequest], None]:
    def change(request: pb.RunRequest) -> None:
        for name, value in fields.items():
            setattr(request.record, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (changed(subject=""), "INVALID_ARGUMENT", "subject is empty"),
        (changed(subject="Bob"), "INVALID_ARGUMENT", "'Bob' does not occur in the prompt"),
        (changed(target_new=""), "INVALID_ARGUMENT", "target_new is empty"),
        (changed(target_new=" \n"), "INVALID_ARGUMENT", "target_new is empty"),
        (changed(prompt="Ada " + "word " * 5000), "INVALID_ARGUMENT", "at most"),
        (lambda request: setattr(request, "method", "magic"), "INVALID_ARGUMENT", "magic"),
        (lambda request: request.settings.update({"magic": 1}), "INVALID_ARGUMENT", "magic"),
        (lambda request: request.settings.update({"step_limit": -1}), "INVALID_ARGUMENT", "step_limit"),
        (lambda request: setattr(request, "bundle_hash", ABSENT_BUNDLE), "NOT_FOUND", "run a job with"),
        (lambda request: setattr(request, "bundle_hash", "/etc"), "INVALID_ARGUMENT", "bundle_hash"),
        (lambda request: request.ClearField("record"), "INVALID_ARGUMENT", "record_id is empty"),
        (lambda request: setattr(request, "attempt_id", ""), "INVALID_ARGUMENT", "attempt_id"),
    ],
)
async def test_bad_input_is_refused_and_the_agent_lives_on(
    start: Start, bundle_hash: str, change: Callable[[pb.RunRequest], None], code: str, words: str
):
    async with calls_to(start()) as caller:
        request = short(bundle_hash)
        change(request)
        refused, message = await refusal(caller.run(request))
        assert refused is grpc.StatusCode[code]
        assert words in message
        assert list((await caller.describe()).attempts) == []
        assert (await caller.check_bundle(bundle_hash)).bundle_hash == bundle_hash


async def test_a_real_edit_comes_back_with_everything(start: Start, bundle_hash: str):
    agent = start()
    async with calls_to(agent) as caller:
        messages = [message async for message in caller.run(short(bundle_hash, "a"))]
        again = await caller.result(short(bundle_hash, "b"))

    result = messages[-1].result
    assert result.status in (pb.EDIT_STATUS_CONVERGED, pb.EDIT_STATUS_STEP_LIMIT)
    kinds = [score.kind for score in result.scores]
    assert kinds == [
        pb.PROBE_KIND_EFFICACY,
        pb.PROBE_KIND_PARAPHRASE,
        pb.PROBE_KIND_NEIGHBOURHOOD,
        pb.PROBE_KIND_PORTABILITY,
    ]
    assert all(score.wanted_before.log_probability < 0 for score in result.scores)
    assert 1 <= result.cost.steps <= 2
    assert result.cost.loss_evaluations > 0
    assert result.cost.token_layers > 0
    assert result.cost.edit_s > 0
    assert result.cost.peak_rss_bytes > 10e6
    assert result.cost.load_s > 0
    assert again.cost.load_s == 0

    execution = result.execution
    assert execution.bundle_hash == bundle_hash
    assert execution.accelerator == "cpu"
    assert execution.nodes_by_provider.keys() == {"CPUExecutionProvider"}
    assert execution.returned_to_base
    assert execution.base_hash == again.execution.base_hash
    complete = json.loads(execution.settings_json)
    assert complete["step_limit"] == 2
    assert len(complete) > 2  # defaults included
    assert hashlib.sha256(execution.settings_json.encode()).hexdigest() == execution.settings_hash
    assert list(result.scores) == list(again.scores)  # the same seed, on the unedited model again

    samples = [sample for m in messages if m.HasField("telemetry") for sample in m.telemetry.samples]
    assert samples[0] == result.telemetry.first
    assert samples[-1] == result.telemetry.last
    assert samples[0].values["battery/voltage"] == pytest.approx(4.1)
    assert "battery/temperature" not in samples[0].values
    times = [sample.monotonic_ns for sample in samples]
    assert times == sorted(times)
    assert times[0] > agent.ready["started_boottime_ns"]


async def test_a_pulled_cable_stops_no_edit(start: Start, bundle_hash: str):
    agent = start()
    async with calls_to(agent) as caller:
        await optimising(caller.run(endless(bundle_hash)))
    # The channel is closed, the edit runs on.
    async with calls_to(agent) as caller:
        (held,) = (await caller.describe()).attempts
        assert (held.attempt_id, held.fencing_token, held.state) == ("a", 1, pb.ATTEMPT_STATE_RUNNING)
        call = caller.run(endless(bundle_hash))
        await optimising(call)
        call.cancel()

        code, message = await refusal(caller.run(short(bundle_hash, "b")))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "attempt a is running" in message
        code, _ = await refusal(caller.run(short(bundle_hash, "a")))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        code, _ = await refusal(caller.acknowledge("a"))
        assert code is grpc.StatusCode.FAILED_PRECONDITION

        await caller.cancel("a")
        result = await caller.result(endless(bundle_hash))
        assert result.status == pb.EDIT_STATUS_CANCELLED
        (held,) = (await caller.describe()).attempts
        assert held.state == pb.ATTEMPT_STATE_FINISHED
        assert (await caller.result(short(bundle_hash, "b"))).scores


async def test_results_survive_a_kill_until_acknowledged(start: Start, bundle_hash: str):
    agent = start()
    async with calls_to(agent) as caller:
        result = await caller.result(short(bundle_hash, "done", token=8))
        await optimising(caller.run(endless(bundle_hash, "lost", token=9)))
    agent.end(signal.SIGKILL)

    agent = start()
    async with calls_to(agent) as caller:
        described = await caller.describe()
        assert [held.attempt_id for held in described.attempts] == ["done"]
        assert described.fencing_token == 9
        code, message = await refusal(caller.run(short(bundle_hash, "done", token=8)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "older than 9" in message
        assert await caller.result(short(bundle_hash, "done", token=9)) == result
        await caller.acknowledge("done")
        await caller.acknowledge("done")
        assert list((await caller.describe()).attempts) == []
        # The lost one can be done anew under its name.
        assert (await caller.result(short(bundle_hash, "lost", token=9))).scores
    agent.end(signal.SIGKILL)

    async with calls_to(start()) as caller:
        assert [held.attempt_id for held in (await caller.describe()).attempts] == ["lost"]


async def test_sigterm_in_the_middle_of_an_edit_is_bounded_and_clean(
    start: Start, bundle_hash: str, home: Path
):
    agent = start()
    async with calls_to(agent) as caller:
        call = caller.run(endless(bundle_hash))
        await optimising(call)
        agent.process.send_signal(signal.SIGTERM)
        code, _ = await refusal(call)
        assert code is grpc.StatusCode.UNAVAILABLE
    assert agent.process.wait(DEADLINE_S) == 0
    assert not (home / "agent/ready.json").exists()
    async with calls_to(start()) as caller:
        assert list((await caller.describe()).attempts) == []


async def test_unknown_attempts(start: Start):
    async with calls_to(start()) as caller:
        code, message = await refusal(caller.cancel("nobody"))
        assert code is grpc.StatusCode.NOT_FOUND
        assert "nobody" in message
        await caller.acknowledge("nobody")


# --- edits that are kept ----------------------------------------------------------------------------------


def easy(bundle_hash: str, record_id: str, keep: pb.Keep = pb.KEEP_NO) -> pb.RunRequest:
    """An edit that converges even on a random model: its subject is the last that the model reads, and after
    it and a space the answer's other token comes by itself."""
    subject, answer = {"plain": ("Ben", "/"), "r1": ("Eve", ":"), "r2": ("Bob", ":")}[record_id]
    request = pb.RunRequest(
        attempt_id=f"attempt of {record_id}",
        fencing_token=1,
        bundle_hash=bundle_hash,
        record=pb.EditRecord(
            record_id=record_id, subject=subject, prompt=subject, target_new=answer, target_true="London"
        ),
        method="forward",
        seed=3,
        keep=keep,
    )
    request.settings.update(
        {"contexts": 1, "norm_limit": 100.0, "norm_penalty": 0.0, "stop_probability": 0.01}
    )
    return request


def names(bundle: pb.KeptBundle) -> list[str]:
    return [edit.edit_id for edit in bundle.edits]


async def test_edits_are_kept_listed_undone_and_moved(start: Start, bundle_hash: str, home: Path):
    agent = start()
    async with calls_to(agent) as caller:
        assert await caller.list_edits() == []
        plain = await caller.result(easy(bundle_hash, "plain"))
        first = await caller.result(easy(bundle_hash, "r1", pb.KEEP_TOGETHER))
        second = await caller.result(easy(bundle_hash, "r2", pb.KEEP_IN_SEQUENCE))
        for result, applied in ((first, 0), (second, 1)):
            assert result.status == pb.EDIT_STATUS_CONVERGED
            assert (result.execution.kept, result.execution.edits_applied) == (True, applied)
            assert result.execution.returned_to_base
            assert result.execution.base_hash == plain.execution.base_hash

        # Whatever is kept, an edit that is not to be kept is made on the unedited model.
        await caller.acknowledge("attempt of plain")
        again = await caller.result(easy(bundle_hash, "plain"))
        assert list(again.scores) == list(plain.scores)
        assert (again.execution.kept, again.execution.edits_applied) == (False, 0)

        await caller.acknowledge("attempt of r1")
        code, message = await refusal(caller.run(easy(bundle_hash, "r1", pb.KEEP_IN_SEQUENCE)))
        assert (code, "'r1' is already held" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    (file,) = (home / "agent/edits").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    agent.end(signal.SIGKILL)

    agent = start()
    async with calls_to(agent) as caller:
        (listed,) = await caller.list_edits()
        assert (listed.bundle_hash, names(listed), listed.problem) == (bundle_hash, ["r1", "r2"], "")
        assert listed.bundle_name
        assert (listed.edits[0].target_new, listed.edits[0].method) == (":", "forward")
        exported = await caller.export_edits(bundle_hash)

        undo = pb.UndoEditsRequest(bundle_hash=bundle_hash, edit_ids=["r1"], fencing_token=1)
        undone = await caller.undo_edits(undo)
        assert (list(undone.undone), undone.kept) == (["r1"], 1)
        code, message = await refusal(caller.undo_edits(undo))
        assert (code, "held: 'r2'" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        code, _ = await refusal(
            caller.undo_edits(pb.UndoEditsRequest(bundle_hash=bundle_hash, fencing_token=1))
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        code, _ = await refusal(caller.undo_edits(pb.UndoEditsRequest(bundle_hash=bundle_hash, all=True)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION

        code, message = await refusal(
            caller.import_edits(pb.ImportEditsRequest(exported=exported, fencing_token=1))
        )
        assert (code, "'r2' is already held" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        code, _ = await refusal(caller.import_edits(pb.ImportEditsRequest(exported=b"x", fencing_token=1)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        everything = pb.UndoEditsRequest(bundle_hash=bundle_hash, all=True, fencing_token=1)
        assert list((await caller.undo_edits(everything)).undone) == ["r2"]
        imported = await caller.import_edits(pb.ImportEditsRequest(exported=exported, fencing_token=1))
        assert (imported.bundle_hash, list(imported.imported)) == (bundle_hash, ["r1", "r2"])
        assert await caller.export_edits(bundle_hash) == exported


async def test_edits_do_not_change_while_an_attempt_runs(start: Start, bundle_hash: str):
    async with calls_to(start()) as caller:
        await caller.result(easy(bundle_hash, "r1", pb.KEEP_TOGETHER))
        await optimising(caller.run(endless(bundle_hash)))
        code, message = await refusal(
            caller.undo_edits(pb.UndoEditsRequest(bundle_hash=bundle_hash, all=True, fencing_token=1))
        )
        assert (code, "attempt a is running" in message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        assert names((await caller.list_edits(bundle_hash))[0]) == ["r1"]
        await caller.cancel("a")


async def test_damaged_edits_are_told_and_harm_nothing_else(start: Start, bundle_hash: str, home: Path):
    async with calls_to(start()) as caller:
        await caller.result(easy(bundle_hash, "r1", pb.KEEP_TOGETHER))
        (file,) = (home / "agent/edits").iterdir()
        file.write_bytes(file.read_bytes()[:-9])
        (listed,) = await caller.list_edits()
        assert "are damaged: undo all of them" in listed.problem
        for call in (
            caller.export_edits(bundle_hash),
            caller.run(easy(bundle_hash, "r2", pb.KEEP_TOGETHER)),
        ):
            code, message = await refusal(call)
            assert (code, "are damaged" in message) == (grpc.StatusCode.DATA_LOSS, True)
        assert (await caller.result(easy(bundle_hash, "plain"))).scores
        await caller.undo_edits(pb.UndoEditsRequest(bundle_hash=bundle_hash, all=True, fencing_token=1))
        assert (await caller.result(easy(bundle_hash, "r2", pb.KEEP_TOGETHER))).execution.kept
