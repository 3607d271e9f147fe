"""From a link to a phone to a running agent with its model bundles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobifarm.controller.provisioning.agent import AgentEndpoint, start_agent
from mobifarm.controller.provisioning.install import (
    Installed,
    install_bundle,
    install_compiled,
    install_runtime,
    remove_other_runtimes,
)
from mobifarm.controller.provisioning.phone import cpu_abi, find_home, read_properties
from mobifarm.controller.provisioning.runtime import ensure_runtime
from mobifarm.controller.transport.interface import DeviceTransport


@dataclass(frozen=True, slots=True)
class ProvisionedPhone:
    """A phone on which the agent runs."""

    properties: Mapping[str, str]
    home: str
    runtime: Installed
    bundles: Mapping[str, Installed]
    endpoint: AgentEndpoint


def provision(
    transport: DeviceTransport,
    *,
    cache: Path,
    bundles: Mapping[str, Path],
    compiled: Mapping[str, Path] | None = None,
    agent_arguments: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> ProvisionedPhone:
    """Bring everything to the phone that is not there yet, and start the agent. Blocks; may be repeated.

    Args:
        transport: link to the phone.
        cache: the user's cache folder; the runtime is built there on first use.
        bundles: folder on this host by bundle hash.
        compiled: by bundle hash, folder on this host with its graphs compiled for the phone's chip.
        agent_arguments: further arguments of ``mobifarm-agent serve``.
        progress: called with what is pushed ("runtime" or "bundle"), the bytes done and the bytes in all.

    Raises:
        DeviceError: the phone cannot run the agent; the message says why.
        HostError: this machine cannot build the runtime.
        UserError: a bundle is not where it should be.
        LinkLost: the link went away; a repetition goes on where this stopped.
    """
    properties = read_properties(transport)
    report = progress or (lambda _what, _done, _total: None)
    runtime = ensure_runtime(
        cache, cpu_abi(properties), lambda doing: report(f"runtime, which is built first ({doing})", 0, 0)
    )
    home = find_home(transport)
    installed = install_runtime(transport, home, runtime, lambda done, total: report("runtime", done, total))
    pushed = {
        bundle_hash: install_bundle(
            transport, home, folder, bundle_hash, lambda done, total: report("bundle", done, total)
        )
        for bundle_hash, folder in bundles.items()
    }
    for bundle_hash, folder in (compiled or {}).items():
        install_compiled(transport, home, folder, bundle_hash, properties.get("ro.soc.model", ""))
    endpoint = start_agent(transport, home, runtime, agent_arguments)
    if installed.pushed_bytes:
        remove_other_runtimes(transport, home, runtime)
    return ProvisionedPhone(properties, home, installed, pushed, endpoint)
