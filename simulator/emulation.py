"""Lets a phone run programs for another processor than the computer's: qemu-user, called by the kernel.

Since Linux 6.7 a user namespace can have its own binfmt_misc, the kernel's table of "programs of this kind
are run by that interpreter". A phone is started in a namespace with such a table, which only its own
processes see and which goes with them: the computer's own table is not touched. The phone's shell, its
scripts and whoever calls them know nothing of this, as on a real phone.
"""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mobifarm.simulator.image import LINKER, ImageError, with_interpreter

_TABLE: Final = "/proc/sys/fs/binfmt_misc"
# A 64-bit little-endian ELF program (type 2) or shared library (3) of machine 183, AArch64. F: the kernel
# opens the interpreter now, so that phones need not have it in their root.
_MAGIC: Final = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK: Final = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_TRIAL_S: Final = 20
# Debian's names of it, in newer releases the second.
_PROGRAMS: Final = ("qemu-aarch64-static", "qemu-aarch64")

# What programs look for that ask which processor they run on: a Cortex-A510 with the features that qemu has.
_PROCESSOR: Final = """\
processor\t: {number}
BogoMIPS\t: 49.15
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc \
dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd46
CPU revision\t: 1

"""


class EmulationUnavailableError(Exception):
    """Programs for this processor cannot be run here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Emulation:
    """An emulated processor.

    ``interpreter``: a static qemu, where phones need a table of their own; None where the computer's table,
    which Debian's qemu packages may have written, does it.
    """

    abi: str
    interpreter: Path | None

    @property
    def properties(self) -> Mapping[str, str]:
        """What the phone's properties say of it."""
        return {
            "ro.product.cpu.abi": self.abi,
            "ro.product.cpu.abilist": self.abi,
            "ro.boot.mobifarm.emulator": "qemu",
        }

    @property
    def command_prefix(self) -> list[str]:
        """Starts a program whose descendants may be programs of this processor."""
        if self.interpreter is None:
            return []
        entry = f":qemu-aarch64:M::{_MAGIC}:{_MASK}:{self.interpreter}:F"
        script = (
            f"mount -t binfmt_misc none {_TABLE} && "
            f"printf %s {shlex.quote(entry)} >{_TABLE}/register && "
            'exec "$@"'
        )
        return ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", script, "sh"]


def host_abi() -> str:
    """Android's name for this computer's processor."""
    return {"aarch64": "arm64-v8a"}.get(platform.machine(), platform.machine())


def processor_list(count: int) -> str:
    """The text of /proc/cpuinfo of a phone with ``count`` emulated processors."""
    return "".join(_PROCESSOR.format(number=number) for number in range(count))


def find_emulation(abi: str) -> Emulation | None:
    """How to run programs of ``abi`` here; None where the computer's processor does it.

    Raises :class:`EmulationUnavailableError`.
    """
    if abi in ("", host_abi()):
        return None
    if abi != "arm64-v8a":
        known = " and ".join(sorted({host_abi(), "arm64-v8a"}))
        raise EmulationUnavailableError(f"virtual phones are {known} phones here, not {abi}")
    if _is_in_table(_TABLE):
        return Emulation(abi, None)
    found = [Path(path).resolve() for name in _PROGRAMS if (path := shutil.which(name))]
    program = next((path for path in found if _is_static(path)), None)
    if program is None:
        raise EmulationUnavailableError(
            "no static qemu-aarch64 is installed; scripts/setup_arm64.sh installs it, or apt-get install "
            "qemu-user-static"
        )
    emulation = Emulation(abi, program)
    try:
        done = subprocess.run(
            [*emulation.command_prefix, "true"], capture_output=True, text=True, check=False, timeout=_TRIAL_S
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise EmulationUnavailableError(f"unshare (of util-linux) cannot be used here: {error}") from error
    if done.returncode != 0:
        raise EmulationUnavailableError(
            "the kernel does not let a user namespace choose how programs are run, which takes Linux 6.7 or "
            f"later and allowed user namespaces; this is {platform.release()} ({done.stderr.strip()[-200:]})"
        )
    return emulation


def _is_static(program: Path) -> bool:
    """Whether it needs no loader, which the phone's root does not hold."""
    data = program.read_bytes()
    try:
        return with_interpreter(data, LINKER) == data
    except ImageError:
        return False


def _is_in_table(table: str) -> bool:
    """Whether the computer runs such programs in every sandbox, the interpreter being open already (F)."""
    try:
        said = Path(table, "qemu-aarch64").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return "enabled" in said and any(line.startswith("flags:") and "F" in line for line in said)
