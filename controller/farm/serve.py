"""Puts a farm together on this machine and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from mobifarm import __version__
from mobifarm.controller.api.app import create_app
from mobifarm.controller.core.due import LeaseSettings
from mobifarm.controller.core.policy import FifoPolicy
from mobifarm.controller.errors import UserError
from mobifarm.controller.farm.cluster import LocalCluster
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.ray_host import RayHost
from mobifarm.controller.farm.requests import FarmRequests
from mobifarm.controller.host.phones import HostConfiguration
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.store.sqlite import SqliteStore
from mobifarm.controller.transport.keys import ensure_key

logger = logging.getLogger(__name__)

STOP_DEADLINE_S = 10.0


def identifier(prefix: str) -> str:
    """A new id, e.g. ``job-5f3a9c1e``."""
    return f"{prefix}-{secrets.token_hex(4)}"


def serve(
    paths: FarmPaths,
    *,
    devices: Sequence[str],
    port: int,
    settings: LeaseSettings,
    announce: Callable[[str], None],
) -> None:
    """Run the farm in the foreground until SIGINT or SIGTERM.

    Args:
        devices: addresses of phones to add.
        port: of the HTTP API on 127.0.0.1; 0 takes a free one.
        announce: told the farm's address once it answers.

    Raises:
        UserError: a farm runs already, the port is taken, an address is wrong.
        HostError: Ray cannot be started.
    """
    _raise_file_limit()
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(SqliteStore(paths.database)))
        _clean_up_after_a_kill(paths)
        listener = stack.enter_context(contextlib.closing(_listen(port)))
        scratch = Path(tempfile.mkdtemp(prefix="mobifarm-"))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        ray_token = scratch / "ray-token"
        _write_secret(ray_token, secrets.token_hex(32))
        cluster = LocalCluster.start(ray_token)
        stack.callback(cluster.stop)
        ensure_key(paths.adb_key)
        name = socket.gethostname()
        actor = cluster.host_actor(name, HostConfiguration(name, paths.adb_key, scratch, paths.computer))
        host = RayHost(name, actor)
        farm = Farm(
            store=store,
            host=host,
            policy=FifoPolicy(),
            settings=settings,
            clock=time.time,
            identifier=identifier,
        )
        requests = FarmRequests(farm, clock=time.time, identifier=identifier)
        token = secrets.token_urlsafe(32)
        _write_secret(paths.api_token, token)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = create_app(farm, requests, token)
        stack.enter_context(_running_file(paths, url, [scratch, cluster.scratch]))
        asyncio.run(_run(farm, host, requests, app, listener, devices, lambda: announce(url)))


async def _run(
    farm: Farm,
    host: RayHost,
    requests: FarmRequests,
    app: Any,
    listener: socket.socket,
    devices: Sequence[str],
    ready: Callable[[], None],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = _Server(
        uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=2, access_log=False)
    )
    tasks = [
        asyncio.create_task(farm.run(), name="farm"),
        asyncio.create_task(server.serve(sockets=[listener]), name="api"),
        asyncio.create_task(stop.wait(), name="stop"),
    ]
    try:
        await farm.started.wait()
        for address in devices:
            await requests.add_device(address, "command line")
        ready()
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a loop that ends by itself has failed: say why
    finally:
        server.should_exit = True
        tasks[0].cancel()
        tasks[2].cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_DEADLINE_S):
                await host.close()
        await asyncio.wait(tasks, timeout=STOP_DEADLINE_S)


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: stopping is ours to order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"port {port} of 127.0.0.1 cannot be used ({error.strerror}); choose another with --port"
        ) from None
    return listener


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


@contextlib.contextmanager
def _running_file(paths: FarmPaths, url: str, scratch: Sequence[Path]) -> Iterator[None]:
    """Tell other commands where the farm answers, as long as it does."""
    description = {
        "url": url,
        "pid": os.getpid(),
        "version": __version__,
        "scratch": [str(folder) for folder in scratch],
    }
    temporary = paths.running.with_suffix(".new")
    temporary.write_text(json.dumps(description))
    temporary.replace(paths.running)
    try:
        yield
    finally:
        paths.running.unlink(missing_ok=True)


def _clean_up_after_a_kill(paths: FarmPaths) -> None:
    """Remove what a killed farm left: called while holding the store, so that no other farm runs here."""
    try:
        left = json.loads(paths.running.read_text())["scratch"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    temporary = Path(tempfile.gettempdir()).resolve()
    for folder in map(Path, left):
        if folder.parent.resolve() == temporary and folder.name.startswith("mobifarm-"):
            shutil.rmtree(folder, ignore_errors=True)
    paths.running.unlink(missing_ok=True)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
