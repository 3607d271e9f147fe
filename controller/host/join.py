"""Makes this machine a host of a farm elsewhere: asks at its door, runs a Ray node, comes back when it may.

The phones are then kept by a host actor that the farm's controller places on the node; nothing here touches
them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from mobifarm.controller.discovery.settings import DiscoverySettings
from mobifarm.controller.errors import FarmError, HostError
from mobifarm.controller.farm.cluster import HOST_LABEL, JOIN_LABEL, OBJECT_STORE_BYTES, RAY_ENVIRONMENT
from mobifarm.controller.host.farm_door import FarmDoor, StillJoined, Ticket
from mobifarm.controller.host.phones import HostConfiguration
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.transport.keys import ensure_key

LOOK_PERIOD_S: Final = 3.0
STOP_DEADLINE_S: Final = 20.0
# A host that is back before the farm has noticed that it was away waits until then.
STILL_JOINED_PATIENCE: Final = 10


def join(
    paths: FarmPaths,
    head: str,
    token: str,
    name: str,
    *,
    discovery: DiscoverySettings,
    allow_reboot: bool,
    announce: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Be a host of the farm at ``head`` until ``stop`` is set; come back whenever it is started again.

    Args:
        token: the farm's join token.
        discovery: where to look for phones on this machine.
        allow_reboot: phones in trouble that nothing else helps may be rebooted.
        announce: told when this machine has joined and when it is no host any more.

    Raises:
        UserError: the farm refuses this machine.
        HostError: it does not answer at the first time, or Ray does not start here.
    """
    ensure_key(paths.adb_key)
    _log(paths).unlink(missing_ok=True)
    configuration = HostConfiguration(
        name,
        paths.adb_key,
        Path(),
        paths.computer,
        usb=discovery.usb,
        announcements=paths.announcements,
        adb_server=discovery.adb_server,
        allow_reboot=allow_reboot,
        farm=head,
    )
    joined_before = False
    with contextlib.closing(FarmDoor(head, token)) as door:
        while not stop.is_set():
            try:
                ticket = _ask(door, name, stop)
            except HostError:
                if not joined_before:
                    raise
                stop.wait(LOOK_PERIOD_S)
                continue
            if ticket is None:
                return
            with _node(paths, ticket, configuration, token) as node:
                announce(f"joined {head} as {name}" + (" again" if joined_before else ""))
                joined_before = True
                reason = _while_joined(node, door, ticket.session, stop)
                if reason is None:  # else the farm learns of it by silence, and with no reason
                    with contextlib.suppress(FarmError):
                        door.leave(name, ticket.join_id)
            if reason:
                announce(f"{reason}; trying to join again")
                stop.wait(LOOK_PERIOD_S)


def _ask(door: FarmDoor, name: str, stop: threading.Event) -> Ticket | None:
    for _ in range(STILL_JOINED_PATIENCE):
        try:
            return door.ask(name)
        except StillJoined as error:
            refused = error
        if stop.wait(LOOK_PERIOD_S):
            return None
    raise refused


def _while_joined(
    node: subprocess.Popen[bytes], door: FarmDoor, session: str, stop: threading.Event
) -> str | None:
    """Why this machine belongs to the farm no longer; None when it was told to stop."""
    while not stop.wait(LOOK_PERIOD_S):
        if node.poll() is not None:
            return "the link to the farm was lost, or Ray could not start here (join.log says more)"
        # Ray itself notices that the farm is gone only after long; one that was restarted wants a new node.
        with contextlib.suppress(FarmError):
            if door.session() != session:
                return "the farm was started again"
    return None


@contextlib.contextmanager
def _node(
    paths: FarmPaths, ticket: Ticket, configuration: HostConfiguration, farm_token: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node in the farm's cluster, with all of its processes, for as long as the block lasts.

    Args:
        configuration: of the host, but for its scratch folder and what is in there.
    """
    # Short: paths of unix sockets below them must stay under 107 bytes. Ray opens its own to everybody.
    session = Path(tempfile.mkdtemp(prefix="mobifarm-ray-"))
    scratch = Path(tempfile.mkdtemp(prefix="mobifarm-"))
    secrets = {scratch / "ray-token": ticket.ray_token, scratch / "farm-token": farm_token}
    for path, secret in secrets.items():
        path.touch(mode=0o600)
        path.write_text(secret)
    ray_token, token_file = secrets
    configuration = replace(configuration, scratch=scratch, farm_token=token_file)
    environment = {
        **os.environ,
        **RAY_ENVIRONMENT,
        **configuration.to_environment(),
        "RAY_AUTH_TOKEN_PATH": str(ray_token),
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += ["--address", ticket.ray_address, "--node-ip-address", _own_address(ticket.ray_address)]
    command += ["--num-cpus", "0", "--object-store-memory", str(OBJECT_STORE_BYTES)]
    command += ["--temp-dir", str(session), "--log-color", "false"]
    command += ["--labels", f"{HOST_LABEL}={configuration.name},{JOIN_LABEL}={ticket.join_id}"]
    setpriv = shutil.which("setpriv") if platform.system() == "Linux" else None
    if setpriv is not None:
        command = [setpriv, "--pdeathsig", "TERM", *command]  # a killed `mobifarm join` leaves no node
    with _log(paths).open("ab") as output:
        node = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=paths.home,
            # A terminal's Ctrl-C would else reach Ray's processes too, which then end in disorder. Without
            # setpriv they stay in its group, so that they end with the terminal at least.
            start_new_session=setpriv is not None,
        )
    try:
        yield node
    finally:
        _end(node)
        for folder in (session, scratch):
            shutil.rmtree(folder, ignore_errors=True)


def _log(paths: FarmPaths) -> Path:
    return paths.home / "join.log"


def _end(node: subprocess.Popen[bytes]) -> None:
    """End the node; `ray start --block` ends its processes in turn."""
    children = _descendants(node.pid)
    node.send_signal(signal.SIGTERM)
    try:
        node.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()
    for pid, started in children.items():
        if _started(pid) == started:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _descendants(parent: int) -> dict[int, str]:
    """All processes below one with the times of their starts: an id alone may be another's by now."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(folder.name)] = int(_stat(int(folder.name))[1])
    found: dict[int, str] = {}
    wanted = {parent}
    while wanted:
        wanted = {pid for pid, above in parents.items() if above in wanted} - found.keys()
        found |= {pid: _started(pid) for pid in wanted}
    return found


def _stat(pid: int) -> list[str]:
    """The fields of a process behind its name: state, parent and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _started(pid: int) -> str:
    try:
        return _stat(pid)[19]
    except (OSError, IndexError):
        return ""


def _own_address(farm: str) -> str:
    """This machine's address on the way to the farm."""
    host, _, port = farm.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))
        except OSError as error:
            raise HostError(f"the farm's address {farm} cannot be reached from here ({error})") from None
        return str(probe.getsockname()[0])
