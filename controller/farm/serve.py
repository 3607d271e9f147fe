"""Puts a farm together on this machine and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import resource
import secrets
import shutil
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from mobifarm import __version__
from mobifarm.controller.api.access import Role, TokenFile, authenticator
from mobifarm.controller.api.app import create_app
from mobifarm.controller.api.services import Services
from mobifarm.controller.api.sessions import Sessions
from mobifarm.controller.collection import collect_rarely
from mobifarm.controller.core.due import LeaseSettings
from mobifarm.controller.core.policies import policy_named
from mobifarm.controller.core.state import HostState
from mobifarm.controller.discovery.settings import DiscoverySettings
from mobifarm.controller.errors import UserError
from mobifarm.controller.farm.cluster import Cluster
from mobifarm.controller.farm.door import DEFAULT_PORT, Door, door_tls
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.hosts import HostView, host_rows, watch_hosts
from mobifarm.controller.farm.ray_host import RayHost
from mobifarm.controller.farm.requests import FarmRequests
from mobifarm.controller.farm.telemetry_files import TelemetryFiles
from mobifarm.controller.farm.versions import versions
from mobifarm.controller.host.phones import HostConfiguration
from mobifarm.controller.metrics.farm_metrics import FarmMetrics
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.store.choose import open_reader, open_store
from mobifarm.controller.transport.keys import ensure_key

logger = logging.getLogger(__name__)

STOP_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Where the API answers other machines: by TLS, or plainly where the user insists."""

    host: str
    port: int
    certificate: Path | None
    key: Path | None


def public_address(
    bind: str | None, certificate: Path | None, key: Path | None, without_tls: bool
) -> PublicAddress | None:
    """Check what ``mobifarm up`` was told about it; None where the API stays on loopback.

    Raises:
        UserError: the address has another form, or there is neither TLS nor the flag to do without.
    """
    if bind is None:
        if certificate or key or without_tls:
            raise UserError("--certificate, --key and --without-tls belong to --bind HOST:PORT")
        return None
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise UserError(f"{bind!r} is no address to bind: write IP:PORT, as 0.0.0.0:8443") from None
    if not port.isdecimal() or not 0 <= int(port) < 65536:
        raise UserError(f"{bind!r} is no address to bind: write IP:PORT, as 0.0.0.0:8443")
    if (certificate is None) != (key is None):
        raise UserError("TLS needs both --certificate and --key")
    if (certificate is None) != without_tls:
        raise UserError(
            "tokens must not cross a network in the clear: give --certificate and --key, or --without-tls "
            "where something else protects the way (not both)"
        )
    if certificate and key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except OSError as error:  # an SSLError is one
            raise UserError(f"the certificate and its key cannot be used: {error}") from None
    return PublicAddress(host, int(port), certificate, key)


def identifier(prefix: str) -> str:
    """A new id, e.g. ``job-5f3a9c1e``: short where people type it, long where a farm makes very many."""
    return f"{prefix}-{secrets.token_hex(4 if prefix == 'job' else 8)}"


def serve(
    paths: FarmPaths,
    *,
    devices: Sequence[str],
    port: int,
    public: PublicAddress | None = None,
    settings: LeaseSettings,
    policy: str,
    allow_reboot: bool = False,
    announce: Callable[[str, str], None],
    discovery: DiscoverySettings,
    accept_hosts: str | None = None,
    store_url: str | None = None,
) -> None:
    """Run the farm in the foreground until SIGINT or SIGTERM.

    Args:
        devices: addresses of phones to add.
        allow_reboot: phones in trouble that nothing else helps may be rebooted.
        port: of the HTTP API on 127.0.0.1; 0 takes a free one.
        public: where the API listens for other machines as well.
        policy: one of the names in ``mobifarm.controller.core.policies``.
        announce: told the farm's address once it answers, and a key that opens its live page once.
        discovery: where to look for phones.
        accept_hosts: ADDRESS or ADDRESS:PORT of this machine where others may join; None for none.
        store_url: of the PostgreSQL database that is the farm's store; None for the store that it has.

    Raises:
        UserError: a farm runs already, the port is taken, an address is wrong.
        HostError: Ray cannot be started.
    """
    _raise_file_limit()
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(open_store(paths, store_url)))
        _clean_up_after_a_kill(paths)
        listeners = [stack.enter_context(contextlib.closing(_listen("127.0.0.1", port, "--port")))]
        if public:
            listeners.append(
                stack.enter_context(contextlib.closing(_listen(public.host, public.port, "--bind")))
            )
        scratch = Path(tempfile.mkdtemp(prefix="mobifarm-"))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        ray_token = scratch / "ray-token"
        _write_secret(ray_token, secrets.token_hex(32))
        outside = None
        if accept_hosts is None:
            cluster = Cluster.start(ray_token)
        else:
            address, door_port = _address(accept_hosts)
            listening = _listen(address, door_port, "--accept-hosts")
            outside = stack.enter_context(contextlib.closing(listening))
            cluster = Cluster.start(ray_token, (address, door_port + 1 if door_port else 0))
        stack.callback(cluster.stop)
        ensure_key(paths.adb_key)
        name = socket.gethostname()
        configuration = HostConfiguration(
            name,
            paths.adb_key,
            scratch,
            paths.computer,
            usb=discovery.usb,
            announcements=paths.announcements,
            adb_server=discovery.adb_server,
            allow_reboot=allow_reboot,
        )
        actor = cluster.host_actor(name, configuration)
        host = RayHost(name, actor)
        farm = Farm(
            store=store,
            host=host,
            policy=policy_named(policy),
            settings=settings,
            clock=time.time,
            identifier=identifier,
            telemetry_files=TelemetryFiles(paths.telemetry),
        )
        requests = FarmRequests(farm, clock=time.time, identifier=identifier)
        token = secrets.token_urlsafe(32)
        _write_secret(paths.api_token, token)
        url = f"http://127.0.0.1:{listeners[0].getsockname()[1]}"
        reading = partial(open_reader, paths)
        hosts = partial(_hosts, farm, name, versions())
        metrics = FarmMetrics(farm, hosts=hosts, open_reader=reading, clock=time.time)
        app = create_app(
            Services(
                farm,
                requests,
                reading,
                authenticator(token, TokenFile(paths.tokens)),
                hosts,
                metrics=metrics.text,
            )
        )
        servers = [(_server(app), listeners[0])]
        if public:
            tls = {"ssl_certfile": public.certificate, "ssl_keyfile": public.key}
            servers += [(_server(app, **tls), listener) for listener in listeners[1:]]
        description = {"url": url, "scratch": [str(scratch), str(cluster.scratch)]}
        beside: list[Callable[[], Coroutine[Any, Any, None]]] = [metrics.run]
        if outside is not None:
            door = _door(paths, farm, name, cluster.address, ray_token.read_text())
            servers.append((_server(door.app(), **door_tls()), outside))
            beside.append(lambda: watch_hosts(farm, door, cluster, time.time))
            description["join"] = "{}:{}".format(*outside.getsockname())
        stack.enter_context(_running_file(paths, description))
        sessions: Sessions = app.state.sessions

        def ready() -> None:
            announce(url, sessions.make_key(f"Bearer {token}", Role.OPERATOR))

        collect_rarely()
        asyncio.run(_run(farm, host, requests, servers, devices, ready, beside))


def _hosts(farm: Farm, own_name: str, own_versions: Mapping[str, str]) -> Sequence[HostView]:
    return host_rows(farm.state, own_name, own_versions)


def _door(paths: FarmPaths, farm: Farm, own_name: str, ray_address: str, ray_token: str) -> Door:
    if not paths.join_token.exists():
        _write_secret(paths.join_token, secrets.token_urlsafe(32))

    def is_joined(host: str) -> bool:
        return host in farm.state.hosts and farm.state.hosts[host].state is HostState.JOINED

    return Door(
        paths.join_token.read_text().strip(),
        own_name=own_name,
        versions=versions(),
        ray_address=ray_address,
        ray_token=ray_token,
        is_joined=is_joined,
        dismiss=farm.dismiss,
    )


async def _run(
    farm: Farm,
    host: RayHost,
    requests: FarmRequests,
    servers: Sequence[tuple[uvicorn.Server, socket.socket]],
    devices: Sequence[str],
    ready: Callable[[], None],
    beside: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
) -> None:
    """``beside``: what else runs, from when the farm has taken up its state."""

    async def begin() -> None:
        await farm.started.wait()
        for address in devices:
            await requests.add_device(address, "command line")
        ready()

    async def run_beside(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await farm.started.wait()
        await run()

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(farm.run(), name="farm"),
        asyncio.create_task(stop.wait(), name="stop"),
        *(asyncio.create_task(run_beside(run)) for run in beside),
    ]
    beginning = asyncio.create_task(begin(), name="beginning")
    serving: list[asyncio.Task[Any]] = [
        asyncio.create_task(server.serve(sockets=[listener]), name="api") for server, listener in servers
    ]
    try:
        done, _ = await asyncio.wait([beginning, *tasks, *serving], return_when=asyncio.FIRST_COMPLETED)
        if done == {beginning} and not beginning.exception():
            done, _ = await asyncio.wait(tasks + serving, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a loop that ends by itself has failed: say why
    finally:
        for server, _ in servers:
            server.should_exit = True
        for task in (beginning, *tasks):
            task.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_DEADLINE_S):
                await host.close()
        await asyncio.wait(tasks + serving, timeout=STOP_DEADLINE_S)


def _server(app: Any, **tls: Any) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app, log_config=None, lifespan="off", timeout_graceful_shutdown=2, access_log=False, **tls
        )
    )


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: stopping is ours to order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _address(text: str) -> tuple[str, int]:
    """ADDRESS[:PORT] as IPv4 address and port."""
    address, _, port = text.partition(":")
    try:
        ipaddress.IPv4Address(address)
        number = int(port) if port else DEFAULT_PORT
        if not 0 <= number < 65535:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{text!r} is no ADDRESS[:PORT]: give this machine's IPv4 address on the network of the hosts"
        ) from None
    return address, number


def _listen(host: str, port: int, option: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # from here on no other farm gets the port
    except OSError as error:
        listener.close()
        raise UserError(
            f"port {port} of {host} cannot be used ({error.strerror}); choose another with {option}"
        ) from None
    return listener


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


@contextlib.contextmanager
def _running_file(paths: FarmPaths, description: Mapping[str, Any]) -> Iterator[None]:
    """Tell other commands where the farm answers, as long as it does."""
    description = {**description, "pid": os.getpid(), "version": __version__}
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
