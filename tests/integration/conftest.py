"""One virtual phone for a module of tests, links to it, and the workers that own a neural processor."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mobifarm.controller.transport.direct import DirectTransport, connect_direct
from mobifarm.controller.transport.interface import DeviceTransport
from mobifarm.simulator.virtual_phones import VirtualPhones
from mobifarm.workloads.paths import cache_directory

FOLDER = "/data/local/tmp"
WORKER_SOURCES = Path(__file__).parents[2] / "agent" / "htp_worker"


@pytest.fixture(scope="module")
def key_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("farm") / "adbkey"


@pytest.fixture(scope="module")
def phones() -> Iterator[VirtualPhones]:
    with VirtualPhones(1) as running:
        yield running


@pytest.fixture
def link(phones: VirtualPhones, key_path: Path) -> Iterator[DirectTransport]:
    transport = connect_direct(phones.phones[0].address, key_path=key_path)
    yield transport
    transport.close()


@pytest.fixture(scope="session")
def echo_on() -> Callable[[DeviceTransport], contextlib.AbstractContextManager[int]]:
    """A port of the phone on which each connection gets back what it sends."""

    @contextlib.contextmanager
    def echo(link: DeviceTransport) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            # Free on this host too, whose ports an unsandboxed phone shares.
            port = probe.getsockname()[1]
        script = (
            f"cd {FOLDER}; setsid nohup nc -s 127.0.0.1 -p {port} -L cat </dev/null >nc.log 2>&1 & echo $!; "
            f"count=0; until grep -q ' 0100007F:{port:04X} 00000000:0000 0A ' /proc/net/tcp; do "
            "sleep 0.1; count=$((count + 1)); [ $count -lt 100 ] || exit 1; done"
        )
        started = link.shell(script)
        assert started.exit_code == 0, started
        yield port
        link.shell(f"kill {started.stdout.strip()}")

    return echo


@pytest.fixture(scope="session")
def cpp_worker(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the worker for Android, built for this computer, without its options."""
    program = build_worker(tmp_path_factory.mktemp("htp-worker"))
    # Where the linker finds the HTP's libraries, as on a phone.
    return ["env", f"LD_LIBRARY_PATH={package_folder('onnxruntime_qnn') or ''}", str(program)]


@pytest.fixture(scope="session", params=["python", "c++"])
def worker_command(request: pytest.FixtureRequest) -> list[str]:
    """The command of each worker in turn."""
    if request.param == "python":
        return [sys.executable, "-m", "mobifarm.agent.backends.serve"]
    return list(request.getfixturevalue("cpp_worker"))


def package_folder(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    return Path(next(iter(found.submodule_search_locations or ()))) if found else None


def build_worker(folder: Path) -> Path:
    headers = cache_directory() / "htp-worker" / "usr"
    if not shutil.which("cmake") or not (headers / "include").is_dir():
        pytest.skip("the worker in C++ needs a compiler and headers: scripts/setup_htp_worker.sh")
    libraries = sorted((package_folder("onnxruntime") or folder).glob("capi/libonnxruntime.so.1.*"))
    if not libraries:
        pytest.skip("Python's onnxruntime has no library that a program in C++ could use")
    library = folder / "libonnxruntime.so.1"  # as it calls itself
    library.symlink_to(libraries[-1])
    settings = {
        "CMAKE_BUILD_TYPE": "Debug",
        "CMAKE_CXX_FLAGS": "-Werror",
        "CMAKE_PREFIX_PATH": headers,
        "ONNXRUNTIME_LIBRARY": library,
    }
    for command in (
        ["-S", WORKER_SOURCES, "-B", folder, *(f"-D{name}={value}" for name, value in settings.items())],
        ["--build", folder],
    ):
        done = subprocess.run(["cmake", *command], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    program = folder / "mobifarm-htp-worker"
    assert os.access(program, os.X_OK)
    return program
