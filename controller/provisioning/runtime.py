"""The agent's runtime: a Python of its own that needs nothing from the phone but the kernel.

Phones have no Python and no glibc, and no Android wheels of the agent's dependencies exist. So an archive
carries an interpreter, its standard library, the agent's dependencies, and the shared libraries of all these
with their own dynamic loader; a second, small one carries the agent. For phones with this machine's kind of
processor it is the Python that runs here; for others it is made from Debian's packages and PyPI's wheels.
"""

from __future__ import annotations

import fcntl
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mobifarm.controller.cache import RUNTIMES
from mobifarm.controller.errors import DeviceError
from mobifarm.controller.provisioning.packing import registries, this_machine
from mobifarm.controller.provisioning.packing.archive import (
    Archive,
    ensure_archive,
    fingerprint_of,
)
from mobifarm.controller.provisioning.packing.commands import Report
from mobifarm.controller.provisioning.packing.contents import agent_members

_ABI_OF_MACHINE: Final = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}
# What is built in a moment from this machine's files is packed fast; USB is faster than level 6. What took
# minutes to download is packed well.
_FAST_LEVEL: Final = 1
_SMALL_LEVEL: Final = 6


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a phone needs to run the agent: Python with the dependencies, and the agent's own code.

    They are apart because the first is large and changes rarely, the second small and with every version.
    Unpacked side by side, ``sh PYTHON/run.sh AGENT/start.py ARGUMENTS…`` starts the agent.
    """

    abi: str
    python: Archive
    agent: Archive


def host_abi() -> str:
    """Android's name for this machine's processor, "" for one that no phone has."""
    return _ABI_OF_MACHINE.get(platform.machine(), "")


def known_abis() -> list[str]:
    """The kinds of processor that this machine can make runtimes for."""
    return sorted({*registries.TARGETS, host_abi()} - {""})


def ensure_runtime(
    cache: Path, abi: str, report: Report = lambda _doing: None, *, anew: bool = False
) -> Runtime:
    """The runtime for phones of ``abi``, built into ``cache``/runtimes where it is missing or stale.

    Deterministic: the same inputs give the same bytes. Of several processes one builds, the others wait.

    Args:
        cache: the user's cache folder.
        abi: the phone's ``ro.product.cpu.abi``.
        report: told what is done, where it takes long.
        anew: build it in any case, from the newest packages.

    Raises:
        DeviceError: there is no runtime for this kind of processor.
        HostError: this machine's Python cannot be packed, or what another's needs cannot be downloaded.
    """
    if abi not in known_abis():
        raise DeviceError(
            f"there is no agent runtime for {abi or 'unknown'} phones: this host makes them for "
            f"{' and '.join(known_abis())} phones only"
        )
    folder = cache.absolute() / RUNTIMES
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return Runtime(abi, _ensure_python(folder, abi, report, anew), _ensure_agent(folder))


def _ensure_python(folder: Path, abi: str, report: Report, anew: bool) -> Archive:
    code = sorted(Path(registries.__file__).parent.glob("*.py"))
    if abi == host_abi():
        return ensure_archive(
            folder,
            this_machine.python_fingerprint(code),
            this_machine.python_members,
            level=_FAST_LEVEL,
            anew=anew,
        )
    downloads = folder / f"downloads-{abi}"
    with registries.Unpacked(downloads) as unpacked:
        return ensure_archive(
            folder,
            registries.python_fingerprint(abi, code),
            lambda: registries.python_members(downloads, unpacked, abi, report, anew=anew),
            level=_SMALL_LEVEL,
            anew=anew,
        )


def _ensure_agent(folder: Path) -> Archive:
    members = agent_members()
    # The start script is the code's, not a file's.
    sources = [member.source for member in members if member.source]
    facts = [member.content.decode() for member in members]
    return ensure_archive(folder, fingerprint_of(facts, sources), lambda: members, level=_FAST_LEVEL)
