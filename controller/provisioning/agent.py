"""The agent's process on the phone: is it there, is it the right one, start it, stop it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.provisioning.install import runtime_folder
from mobifarm.controller.provisioning.phone import run
from mobifarm.controller.provisioning.runtime import Runtime
from mobifarm.controller.transport.interface import DeviceTransport

_ADDRESS: Final = re.compile(r"unix-abstract:[\w.-]{1,100}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{16,256}")
_SMALL_FILE_BYTES: Final = 65536

# The agent writes its process id there before anything else. The command line tells it from an unrelated
# process that got a dead agent's id; of a dead process it is empty.
_FIND_SCRIPT: Final = """\
pid=$(cat {home}/agent/lock 2>/dev/null)
case "$pid" in ''|*[!0-9]*) exit 0 ;; esac
echo "$pid"
cat "/proc/$pid/cmdline" 2>/dev/null
exit 0
"""
_STOP_SCRIPT: Final = """\
alive() {{ [ -e /proc/{pid}/exe ]; }}
for signal in TERM KILL; do
  kill -s $signal {pid} 2>/dev/null
  count=0
  while alive && [ $count -lt 100 ]; do sleep 0.1; count=$((count + 1)); done
  alive || exit 0
done
exit 1
"""
# Detached from the shell's session: whatever belongs to that dies when the cable is pulled. The wait is a
# loop on the phone, which costs the link nothing.
_START_SCRIPT: Final = """\
umask 077
cd {home} && mkdir -p agent && rm -f agent/ready.json || exit 1
setsid nohup {command} </dev/null >agent/start.log 2>&1 &
pid=$!
count=0
while [ ! -f agent/ready.json ]; do
  kill -0 $pid 2>/dev/null || {{ tail -n 20 agent/start.log >&2; exit 3; }}
  [ $count -lt {polls} ] || {{ kill -s KILL $pid; tail -n 20 agent/start.log >&2; exit 4; }}
  sleep 0.1
  count=$((count + 1))
done
"""


@dataclass(frozen=True, slots=True)
class AgentEndpoint:
    """Where a running agent listens, and what it wants to see."""

    pid: int
    address: str
    token: str
    agent_version: str
    session_id: str
    reused: bool
    """The agent ran already; what it holds from before is still there."""

    @property
    def destination(self) -> str:
        """The agent's socket as a destination for ``DeviceTransport.forward``."""
        return "localabstract:" + self.address.removeprefix("unix-abstract:")

    def __repr__(self) -> str:
        # The token stays out of logs.
        return f"AgentEndpoint(pid={self.pid}, address={self.address!r}, session_id={self.session_id!r})"


def start_agent(
    transport: DeviceTransport,
    home: str,
    runtime: Runtime,
    arguments: Sequence[str] = (),
    timeout_s: float = 120.0,
) -> AgentEndpoint:
    """Make sure that the agent of ``runtime`` runs on the phone, and say where.

    An agent of the same runtime with the same arguments is used as it is; another is stopped first. The agent
    outlives this link.

    Args:
        transport: link to the phone.
        home: the farm's folder on the phone.
        runtime: installed on the phone.
        arguments: further arguments of ``mobifarm-agent serve``.
        timeout_s: for the agent to get ready.

    Raises:
        DeviceError: the agent ended at its start (the message holds its last words) or did not get ready.
    """
    python, agent = runtime_folder(home, runtime.python), runtime_folder(home, runtime.agent)
    tail = [f"{agent}/start.py", "serve", "--home", home, *arguments]
    running = _find_process(transport, home)
    if running:
        pid, command_line = running
        if python in command_line and command_line.rstrip().endswith(" ".join(tail)):
            endpoint = _read_endpoint(transport, home, reused=True)
            if endpoint and endpoint.pid == pid:
                return endpoint
        if f"{home}/runtime/" in command_line:
            run(transport, _STOP_SCRIPT.format(pid=pid), f"stop the older agent {pid}", timeout_s=30)
    script = _START_SCRIPT.format(
        home=shlex.quote(home),
        command=shlex.join(["sh", f"{python}/run.sh", *tail]),
        polls=int(timeout_s / 0.1),
    )
    run(transport, script, "start the agent", timeout_s=timeout_s * 2 + 10)
    endpoint = _read_endpoint(transport, home, reused=False)
    if endpoint is None:
        raise DeviceError(f"{transport.address}: the agent started and went away again; see {home}/agent/log")
    return endpoint


def stop_agent(transport: DeviceTransport, home: str) -> bool:
    """Stop the farm's agent on the phone; False where none runs.

    Raises:
        DeviceError: it does not stop.
    """
    running = _find_process(transport, home)
    if not running or f"{home}/runtime/" not in running[1]:
        return False
    run(transport, _STOP_SCRIPT.format(pid=running[0]), f"stop the agent {running[0]}", timeout_s=30)
    return True


def _find_process(transport: DeviceTransport, home: str) -> tuple[int, str] | None:
    text = run(transport, _FIND_SCRIPT.format(home=shlex.quote(home)), "look for the agent").stdout
    pid, _, command_line = text.partition("\n")
    if not command_line or not pid.isdigit() or not 1 < int(pid) < 1 << 32:
        return None
    return int(pid), command_line.replace("\0", " ")


def _read_endpoint(transport: DeviceTransport, home: str, reused: bool) -> AgentEndpoint | None:
    """None where the agent is not ready."""
    try:
        ready = transport.pull_bytes(f"{home}/agent/ready.json")
    except DeviceError:
        return None
    token = transport.pull_bytes(f"{home}/agent/token").decode(errors="replace").strip()
    try:
        facts = json.loads(ready[:_SMALL_FILE_BYTES])
        endpoint = AgentEndpoint(
            pid=int(facts["pid"]),
            address=str(facts["address"]),
            token=token,
            agent_version=str(facts["agent_version"])[:100],
            session_id=str(facts["session_id"])[:100],
            reused=reused,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"{transport.address}: the agent's ready.json is unreadable ({error})") from error
    if not _ADDRESS.fullmatch(endpoint.address) or not _TOKEN.fullmatch(token):
        raise DeviceError(f"{transport.address}: the agent names an unusable address or token")
    return endpoint
