"""From a bare virtual phone to an agent that answers through the tunnel."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mobifarm.controller.errors import DeviceError, UserError
from mobifarm.controller.provisioning.agent import AgentEndpoint, start_agent, stop_agent
from mobifarm.controller.provisioning.connection import connect_agent
from mobifarm.controller.provisioning.install import (
    Installed,
    bundles_by_size,
    install_bundle,
    install_compiled,
    remove_bundle,
    runtime_folder,
)
from mobifarm.controller.provisioning.phone import cpu_abi, find_home, read_properties
from mobifarm.controller.provisioning.provision import ProvisionedPhone, provision
from mobifarm.controller.provisioning.removal import remove_from_phone
from mobifarm.controller.provisioning.runtime import Runtime, ensure_runtime
from mobifarm.controller.transport.direct import DirectTransport, connect_direct
from mobifarm.simulator.virtual_phones import VirtualPhones
from mobifarm.v1 import agent_pb2, agent_pb2_grpc
from mobifarm.workloads.paths import cache_directory

ONE_THREAD = ("--threads", "1")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Files in the shape of a model bundle; to the farm they are bytes."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "graphs").mkdir()
    (folder / "graphs" / "fill cache.onnx").write_bytes(os.urandom(1_000_000))
    (folder / "tokenizer.json").write_bytes(b"{}")
    manifest = json.dumps({"made": "for a test"}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    return folder, hashlib.sha256(manifest).hexdigest()


def provision_phone(link: DirectTransport, bundle: tuple[Path, str]) -> ProvisionedPhone:
    folder, bundle_hash = bundle
    return provision(link, cache=cache_directory(), bundles={bundle_hash: folder}, agent_arguments=ONE_THREAD)


@pytest.fixture
def provisioned(link: DirectTransport, bundle: tuple[Path, str]) -> ProvisionedPhone:
    return provision_phone(link, bundle)


@pytest.fixture
def runtime(link: DirectTransport) -> Runtime:
    return ensure_runtime(cache_directory(), cpu_abi(read_properties(link)))


async def test_the_agent_answers_through_the_tunnel(
    link: DirectTransport, provisioned: ProvisionedPhone, tmp_path: Path
) -> None:
    connection = await connect_agent(link, provisioned.endpoint, tmp_path / "sockets")
    description = await connection.describe()
    assert description.session_id == provisioned.endpoint.session_id
    assert description.properties["ro.product.model"] == "Pixel 8"
    # A streaming call carries the token too: the agent refuses its content, not its caller.
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        async for _ in connection.agent.Run(agent_pb2.RunRequest(), timeout=30):
            pass
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    await connection.close()
    assert list((tmp_path / "sockets").iterdir()) == []


async def test_without_the_token_the_agent_says_nothing(
    link: DirectTransport, provisioned: ProvisionedPhone, tmp_path: Path
) -> None:
    forward = link.forward(provisioned.endpoint.destination, tmp_path / "sockets" / "a.sock")
    async with grpc.aio.insecure_channel(f"unix:{forward.path}") as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Describe(agent_pb2.DescribeRequest(), timeout=30)
    assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED
    forward.close()
    assert provisioned.endpoint.token not in repr(provisioned.endpoint)


def test_a_second_time_nothing_is_pushed_and_the_agent_kept(
    link: DirectTransport, provisioned: ProvisionedPhone, bundle: tuple[Path, str]
) -> None:
    again = provision_phone(link, bundle)
    assert again.runtime.pushed_bytes == 0
    assert [done.pushed_bytes for done in again.bundles.values()] == [0]
    assert [done.skipped_bytes for done in again.bundles.values()] == [
        sum(path.stat().st_size for path in bundle[0].rglob("*") if path.is_file())
    ]
    assert again.endpoint.reused
    assert again.endpoint.pid == provisioned.endpoint.pid


def test_the_runtime_uses_nothing_of_the_system(
    link: DirectTransport, provisioned: ProvisionedPhone, runtime: Runtime
) -> None:
    program = (
        "import sys, os; sys.path.insert(0, os.path.join(sys.prefix, 'packages'))\n"
        "import asyncio, numpy, grpc.aio, onnxruntime, tokenizers, sqlite3, ssl, hashlib, ctypes\n"
        "print(numpy.linalg.inv(numpy.eye(2) * 2)[0, 0], onnxruntime.get_available_providers())\n"
        "maps = {line.split(None, 5)[5].strip() for line in open('/proc/self/maps') if '/' in line}\n"
        "print(sorted(path for path in maps if not path.startswith(os.path.realpath(sys.prefix) + '/')))\n"
    )
    folder = runtime_folder(provisioned.home, runtime.python)
    # What a loader would be misled by is set, as some phones do for the shell.
    misleading = "LD_LIBRARY_PATH=/usr/lib LD_PRELOAD=/nowhere.so PYTHONHOME=/usr PYTHONPATH=/usr"
    script = f"{misleading} sh {shlex.quote(folder)}/run.sh -c {shlex.quote(program)}"
    result = link.shell(script, timeout_s=120)
    assert result.exit_code == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith("0.5 [")
    assert "CPUExecutionProvider" in first
    assert second == "[]"


def test_a_sandboxed_phone_shows_nothing_of_the_host(phones: VirtualPhones, link: DirectTransport) -> None:
    if not phones.phones[0].sandboxed:
        pytest.skip("the virtual phone runs without its sandbox here (bubblewrap or user namespaces missing)")
    assert (
        link.shell(
            "test -e /usr/lib || test -e /lib/x86_64-linux-gnu || test -e /etc/debian_version"
        ).exit_code
        == 1
    )


def test_the_agent_outlives_the_cable(
    phones: VirtualPhones,
    link: DirectTransport,
    provisioned: ProvisionedPhone,
    key_path: Path,
    bundle: tuple[Path, str],
) -> None:
    phones.control().unplug()
    assert link.wait_closed(60)
    phones.control().plug()
    again = connect_direct(phones.phones[0].address, key_path=key_path)
    endpoint = provision_phone(again, bundle).endpoint
    assert endpoint.reused
    assert (endpoint.pid, endpoint.session_id) == (provisioned.endpoint.pid, provisioned.endpoint.session_id)
    again.close()


async def test_a_call_through_the_tunnel_ends_with_the_cable(
    phones: VirtualPhones,
    link: DirectTransport,
    provisioned: ProvisionedPhone,
    tmp_path: Path,
) -> None:
    connection = await connect_agent(link, provisioned.endpoint, tmp_path / "sockets")
    watching = health_pb2_grpc.HealthStub(connection.channel).Watch(
        health_pb2.HealthCheckRequest(), timeout=60
    )
    assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
    phones.control().unplug()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await watching.read()
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    await connection.close()
    phones.control().plug()


async def test_the_agent_starts_again_after_a_power_cut(
    phones: VirtualPhones,
    link: DirectTransport,
    provisioned: ProvisionedPhone,
    key_path: Path,
    bundle: tuple[Path, str],
    tmp_path: Path,
) -> None:
    phones.control().power_off()
    assert link.wait_closed(60)
    phones.control().power_on()
    again = connect_direct(phones.phones[0].address, key_path=key_path)
    phone = provision_phone(again, bundle)
    assert phone.runtime.pushed_bytes == 0
    assert not phone.endpoint.reused
    assert phone.endpoint.session_id != provisioned.endpoint.session_id
    assert phone.endpoint.token != provisioned.endpoint.token
    connection = await connect_agent(again, phone.endpoint, tmp_path / "sockets")
    await connection.close()
    again.close()


def test_an_agent_with_other_arguments_replaces_the_running_one(
    link: DirectTransport, provisioned: ProvisionedPhone, runtime: Runtime
) -> None:
    def is_alive(endpoint: AgentEndpoint) -> bool:
        return link.shell(f"test -e /proc/{endpoint.pid}/exe").exit_code == 0

    endpoint = start_agent(link, provisioned.home, runtime, ("--threads", "2"))
    assert not endpoint.reused
    assert is_alive(endpoint)
    assert not is_alive(provisioned.endpoint)
    assert stop_agent(link, provisioned.home)
    assert not is_alive(endpoint)
    assert not stop_agent(link, provisioned.home)


def test_an_agent_that_does_not_start_says_why(
    link: DirectTransport, provisioned: ProvisionedPhone, runtime: Runtime
) -> None:
    with pytest.raises(DeviceError, match=r"(?s)could not start the agent .*--threads"):
        start_agent(link, provisioned.home, runtime, ("--threads", "many"))


def test_a_stale_process_id_is_not_the_agent(
    link: DirectTransport, provisioned: ProvisionedPhone, runtime: Runtime
) -> None:
    stop_agent(link, provisioned.home)
    stranger = link.shell("setsid nohup sleep 1000 </dev/null >/dev/null 2>&1 & echo $!").stdout.strip()
    link.push_bytes(stranger.encode(), f"{provisioned.home}/agent/lock")
    endpoint = start_agent(link, provisioned.home, runtime, ONE_THREAD)
    assert not endpoint.reused
    assert link.shell(f"kill {stranger}").exit_code == 0


def test_older_runtimes_are_removed_with_the_first_push_of_a_new_one(
    link: DirectTransport, provisioned: ProvisionedPhone, runtime: Runtime, bundle: tuple[Path, str]
) -> None:
    folder = f"{shlex.quote(provisioned.home)}/runtime"
    link.shell(f"mkdir {folder}/older {folder}/.new-torn; rm {folder}/{runtime.agent.hash}/.complete")
    again = provision_phone(link, bundle)
    assert again.runtime.pushed_bytes == runtime.agent.size_bytes
    assert again.runtime.skipped_bytes == runtime.python.size_bytes
    assert set(link.shell(f"ls -A {folder}").stdout.split()) == {runtime.python.hash, runtime.agent.hash}


def test_a_damaged_bundle_is_mended_file_by_file(link: DirectTransport, bundle: tuple[Path, str]) -> None:
    folder, bundle_hash = bundle
    home = find_home(link)
    install_bundle(link, home, folder, bundle_hash)
    target = f"{home}/bundles/{bundle_hash}"
    link.shell(f"echo more >>{shlex.quote(target)}/tokenizer.json; echo x >{shlex.quote(target)}/stranger")
    reports: list[tuple[int, int]] = []
    done = install_bundle(link, home, folder, bundle_hash, lambda *report: reports.append(report))
    assert done.pushed_bytes == 2
    assert reports[0] == (done.skipped_bytes, done.skipped_bytes + 2)
    assert reports[-1] == (done.skipped_bytes + 2, done.skipped_bytes + 2)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert link.pull_bytes(f"{target}/{path.relative_to(folder)}") == path.read_bytes()
    assert link.shell(f"test -e {shlex.quote(target)}/stranger").exit_code == 1


def test_an_interrupted_push_goes_on_where_it_stopped(
    link: DirectTransport, bundle: tuple[Path, str]
) -> None:
    folder, bundle_hash = bundle
    home = find_home(link)
    install_bundle(link, home, folder, bundle_hash)
    bundles = f"{shlex.quote(home)}/bundles"
    link.shell(f"cd {bundles} && mv {bundle_hash} .new-{bundle_hash} && rm .new-{bundle_hash}/manifest.json")
    done = install_bundle(link, home, folder, bundle_hash)
    assert done.pushed_bytes == (folder / "manifest.json").stat().st_size
    assert set(link.shell(f"ls -A {bundles}").stdout.split()) == {bundle_hash, f".verified-{bundle_hash}"}


@pytest.fixture
def home(link: DirectTransport) -> Iterator[str]:
    """The farm's folder, empty."""
    place = find_home(link)
    stop_agent(link, place)
    link.shell(f"rm -rf {shlex.quote(place)}")
    yield find_home(link)
    link.shell(f"rm -rf {shlex.quote(place)}")


def test_what_broken_pushes_of_other_bundles_left_is_removed(
    link: DirectTransport, home: str, bundle: tuple[Path, str]
) -> None:
    folder, bundle_hash = bundle
    torn, going_on = f".new-{'a' * 64}", f".new-{'b' * 64}"
    link.shell(f"cd {home} && mkdir -p bundles/{torn}/graphs bundles/{going_on}/graphs")
    link.shell(f"cd {home}/bundles && touch -d 2020-01-01T00:00:00 {torn}/graphs {torn} {going_on}")
    install_bundle(link, home, folder, bundle_hash)
    left = set(link.shell(f"ls -A {home}/bundles").stdout.split())
    assert left == {going_on, bundle_hash, f".verified-{bundle_hash}"}


def test_bundles_that_nothing_holds_make_room(
    link: DirectTransport, home: str, bundle: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = bundle
    again, edited, loaded, older, newer, wanted = (letter * 64 for letter in "abcdef")
    slots = 6

    def free_bytes(link: DirectTransport, folder: str) -> int:
        """As if the phone had space for so many bundles, of just below 1 MiB, and what is left to it."""
        return 64 + slots - len(bundles_by_size(link, home)) << 20

    monkeypatch.setattr("mobifarm.controller.provisioning.install.free_bytes", free_bytes)
    monkeypatch.setattr("mobifarm.controller.provisioning.phone.free_bytes", free_bytes)
    for number, name in enumerate((again, edited, loaded, older, newer)):
        assert install_bundle(link, home, folder, name).removed == ()
        link.shell(f"touch -d 2020-01-0{number + 1}T00:00:00 {home}/bundles/.verified-{name}")
    assert install_bundle(link, home, folder, again).pushed_bytes == 0
    link.shell(f"mkdir -p {home}/agent/edits && : >{home}/agent/edits/{edited}.edits")
    # A running program's file is mapped, as a model's are by the agent.
    program = f"{home}/bundles/{loaded}/sleep"
    link.shell(f"cp $(which sleep) {program}")
    started = link.shell(f"setsid nohup {program} 1000 </dev/null >/dev/null 2>&1 & echo $!").stdout.strip()
    link.push_bytes(started.encode(), f"{home}/agent/lock")

    slots = 1
    before = bundles_by_size(link, home)
    with pytest.raises(DeviceError, match="delete something on the phone"):
        install_bundle(link, home, folder, wanted)
    assert bundles_by_size(link, home) == before
    slots = 5
    assert install_bundle(link, home, folder, wanted).removed == (older,)
    slots = 4
    graphs = folder.parent / "SM8650"
    graphs.mkdir()
    (graphs / "npu_layers.onnx").write_bytes(b"a graph")
    assert install_compiled(link, home, graphs, wanted, "SM8650").removed == (newer, again)
    assert set(bundles_by_size(link, home)) == {edited, loaded, wanted}
    link.shell(f"kill {started}")


def test_a_bundle_takes_its_compiled_graphs_along(
    link: DirectTransport, bundle: tuple[Path, str], tmp_path: Path
) -> None:
    folder, bundle_hash = bundle
    home = find_home(link)
    compiled = tmp_path / "SM8650"
    compiled.mkdir()
    (compiled / "npu_layers.onnx").write_bytes(b"a graph")
    install_bundle(link, home, folder, bundle_hash)
    assert install_compiled(link, home, compiled, bundle_hash, "SM8650") == Installed(7, 0)
    assert install_compiled(link, home, compiled, bundle_hash, "SM8650") == Installed(0, 7)
    remove_bundle(link, home, bundle_hash)
    assert link.shell(f"find {shlex.quote(home)}/bundles {shlex.quote(home)}/npu -type f").stdout == ""


def test_forgetting_that_keeps_edits_leaves_a_running_worker_what_it_uses(link: DirectTransport) -> None:
    place = shlex.quote(find_home(link))
    kept = ["agent/edits/a.edits", "npu/worker.sock", "npu/worker.sock.profiles/graph.csv"]
    files = " ".join([*kept, "bundles/a/manifest.json", "npu/a/SM8650/npu_layers.onnx"])
    link.shell(f"cd {place} && for f in {files}; do mkdir -p ${{f%/*}}; : >$f; done")
    removal = remove_from_phone(link, keep_edits=True)
    assert removal.left == (f"1 file of kept edits in {find_home(link)}/agent/edits",)
    assert link.shell(f"cd {place} && find . -type f | sort").stdout.split() == [f"./{name}" for name in kept]
    link.shell(f"rm -rf {place}")


def test_bundles_that_are_none(link: DirectTransport, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model bundle in"):
        install_bundle(link, find_home(link), tmp_path, "a" * 64)
    with pytest.raises(UserError, match="is not the hash"):
        install_bundle(link, find_home(link), tmp_path, "../../x")


def test_runtimes_are_built_once_and_the_same_everywhere(runtime: Runtime, tmp_path: Path) -> None:
    assert ensure_runtime(cache_directory(), runtime.abi) == runtime
    content = runtime.python.path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == runtime.python.hash
