"""Runs a phone in bubblewrap: own root, user 2000 ("shell"), own processes, network, IPC and host name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mobifarm.simulator.emulation import Emulation, processor_list
from mobifarm.simulator.image import SERVICES, build_image, loader_among, shared_libraries
from mobifarm.simulator.machine import Folders, ShellView, shell_environment
from mobifarm.simulator.programs import Tools

SHELL_UID: Final = 2000

_NAMESPACES = (
    "--unshare-user", "--uid", str(SHELL_UID), "--gid", str(SHELL_UID),
    "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
)  # fmt: skip
_ADBD: Final = "/apex/com.mobifarm.adbd"
_START = (
    f"import sys; sys.path.insert(0, '{_ADBD}/source'); "
    "from mobifarm.simulator.adbd.daemon import main; main()"
)
# The extension modules that adbd imports, where the interpreter does not have them built in.
_EXTENSIONS = (
    "_asyncio", "_bisect", "_blake2", "_contextvars", "_datetime", "_heapq", "_json", "_opcode",
    "_posixsubprocess", "_random", "_sha1", "_sha2", "_sha512", "_socket", "_struct", "array", "binascii",
    "fcntl", "grp", "math", "select", "termios", "zlib",
)  # fmt: skip


class SandboxUnavailableError(Exception):
    """Bubblewrap cannot be used here; the message says why."""


def find_bubblewrap() -> Path:
    """A bubblewrap that works. Raises :class:`SandboxUnavailableError`."""
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxUnavailableError("bubblewrap is not installed")
    command = [path, *_NAMESPACES, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired as error:
        raise SandboxUnavailableError("bubblewrap does not end") from error
    if done.returncode != 0:
        raise SandboxUnavailableError(f"bubblewrap is refused here ({done.stderr.strip()})")
    return Path(path)


class SandboxMachine:
    """Starts phones in bubblewrap. ``home`` takes the folder that all phones share as /system; with
    ``emulation`` they run that processor's programs as well.

    Raises :class:`~mobifarm.simulator.image.ImageError` where the host's programs cannot be used.
    """

    sandboxed = True

    def __init__(
        self, bubblewrap: Path, tools: Tools, home: Path, emulation: Emulation | None = None
    ) -> None:
        self._bubblewrap = bubblewrap
        self._emulation = emulation
        self.properties = emulation.properties if emulation else {}
        self._image = build_image(home, tools)
        self._interpreter = _interpreter_mounts()
        self.environment: Mapping[str, str] | None = {}
        self.warnings: list[str] = []
        if tools.missing:
            missing = " and ".join(tools.missing)
            self.warnings.append(f"{missing} not found: the phone's commands are the host's, not Android's")

    def prepare(self, folders: Folders) -> ShellView:
        if self._emulation:
            processors = len(list(folders.sys.glob("devices/system/cpu/cpu[0-9]*")))
            _processors_file(folders).write_text(processor_list(processors), encoding="ascii")
        return ShellView(
            shell_path="/system/bin/sh",
            directory="/",
            root=None,
            environment=shell_environment("", "/system/bin"),
        )

    def command(self, folders: Folders, channel: int, information: int) -> list[str]:
        # Programs read there which processor they run on; onnxruntime dies where that is another one.
        processors = ("--ro-bind", str(_processors_file(folders)), "/proc/cpuinfo") if self._emulation else ()
        return [
            *(self._emulation.command_prefix if self._emulation else ()),
            str(self._bubblewrap),
            *_NAMESPACES,
            "--hostname", "localhost",
            "--die-with-parent", "--as-pid-1",
            "--info-fd", str(information),
            "--ro-bind", str(self._image), "/system",
            "--ro-bind", str(folders.build_properties), "/system/build.prop",
            "--symlink", "/system/bin", "/bin",
            "--symlink", "/system/etc", "/etc",
            "--bind", str(folders.data), "/data",
            "--ro-bind", str(folders.sys), "/sys",
            "--ro-bind", str(folders.services), SERVICES,
            *self._interpreter,
            "--proc", "/proc",
            *processors,
            "--dev", "/dev",
            "--remount-ro", "/",
            "--chdir", "/",
            "--",
            f"{_ADBD}/lib64/{self._loader_name}", "--library-path", f"{_ADBD}/lib64",
            f"{_ADBD}/bin/python3", "-I", "-S", "-c", _START, "--channel", str(channel),
        ]  # fmt: skip

    @property
    def _loader_name(self) -> str:
        return loader_among(Path(mount) for mount in self._interpreter if "/lib64/" in mount).name


def _processors_file(folders: Folders) -> Path:
    return folders.home / "cpuinfo"


def _interpreter_mounts() -> list[str]:
    """Arguments that mount this interpreter, its standard library and adbd's source, all read-only."""
    interpreter = Path(sys.executable).resolve()
    standard_library = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    extensions = Path(str(sysconfig.get_config_var("DESTSHARED") or standard_library / "lib-dynload"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    modules = [extensions / f"{name}{suffix}" for name in _EXTENSIONS]
    libraries = shared_libraries([interpreter, *(path for path in modules if path.exists())])
    mounts = {
        interpreter: f"{_ADBD}/bin/python3",
        standard_library: f"{_ADBD}/lib/{version}",
        Path(__file__).parent / "adbd": f"{_ADBD}/source/mobifarm/simulator/adbd",
        **{library: f"{_ADBD}/lib64/{library.name}" for library in libraries},
    }
    if not extensions.is_relative_to(standard_library):
        mounts[extensions] = f"{_ADBD}/lib/{version}/lib-dynload"
    return [argument for source, target in mounts.items() for argument in ("--ro-bind", str(source), target)]
