"""How a phone's adbd is started: the part that differs with and without a sandbox."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from mobifarm.simulator.programs import Tools, format_build_properties, link_applets, write_scripts

_TEMPORARY = "local/tmp"


@dataclass(frozen=True, slots=True)
class Folders:
    """A phone's folders on the host. ``data`` is kept between runs, the rest is written at each start."""

    home: Path

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def sys(self) -> Path:
        return self.home / "sys"

    @property
    def services(self) -> Path:
        """Output of ``dumpsys``, one file a service."""
        return self.home / "services"

    @property
    def build_properties(self) -> Path:
        return self.home / "build.prop"

    @property
    def log(self) -> Path:
        return self.home / "adbd.log"

    def open_log(self) -> BinaryIO:
        """adbd's log, to append to."""
        return open(self.log, "ab")

    @property
    def keys(self) -> Path:
        """Keys of hosts that were accepted, one a line, as Android's ``adb_keys``."""
        return self.home / "adb_keys"

    def create(self, properties: Mapping[str, str]) -> None:
        """Make the folders, private to the user, and write the phone's properties."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.sys, self.services, self.data / _TEMPORARY):
            folder.mkdir(parents=True, exist_ok=True)
        self.build_properties.write_text(format_build_properties(properties), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class ShellView:
    """What adbd tells its shells; paths as the phone sees them."""

    shell_path: str
    directory: str
    root: str | None
    environment: Mapping[str, str]


class Machine(Protocol):
    """What runs the phone's processes."""

    @property
    def sandboxed(self) -> bool: ...

    @property
    def warnings(self) -> list[str]: ...

    @property
    def properties(self) -> Mapping[str, str]:
        """Properties of the phone that are this machine's."""
        ...

    @property
    def environment(self) -> Mapping[str, str] | None:
        """What adbd's process starts with; None is this process's own environment."""
        ...

    def prepare(self, folders: Folders) -> ShellView:
        """Write what the phone's root needs. Called before each start."""
        ...

    def command(self, folders: Folders, channel: int, information: int) -> list[str]:
        """The command that runs adbd with the inherited descriptor ``channel``.

        The process identifier of adbd is written to the descriptor ``information`` as ``"child-pid": N``
        where :attr:`sandboxed`; without a sandbox it is the started process itself.
        """
        ...


def shell_environment(root: str, search_path: str) -> dict[str, str]:
    """The environment of the phone's shells; ``root`` is "" or a folder of the host."""
    temporary = f"{root}/data/{_TEMPORARY}"
    return {
        "ANDROID_DATA": f"{root}/data",
        "ANDROID_ROOT": f"{root}/system",
        "HOME": temporary,
        "TMPDIR": temporary,
        "PATH": search_path,
        "USER": "shell",
        "LOGNAME": "shell",
        "SHELL": f"{root}/system/bin/sh",
        "HOSTNAME": "localhost",
    }


class HostMachine:
    """No sandbox: the phone's processes are the user's own, its root is a folder of the host."""

    sandboxed = False

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.properties: Mapping[str, str] = {}
        self.environment: Mapping[str, str] | None = None
        self.warnings = [
            "this virtual phone is not sandboxed: its shells see the host's files, network and user"
        ]
        if tools.missing:
            self.warnings.append(
                f"{' and '.join(tools.missing)} not found: shells use the host's sh and commands; "
                "install the Debian packages of these names to get Android's"
            )

    def prepare(self, folders: Folders) -> ShellView:
        root = str(folders.home)
        programs = folders.home / "system" / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        properties = folders.home / "system" / "build.prop"
        properties.unlink(missing_ok=True)
        properties.symlink_to(folders.build_properties)
        shell = programs / "sh"
        shell.unlink(missing_ok=True)
        shell.symlink_to(self._tools.mksh or shutil.which("sh") or "/bin/sh")
        if self._tools.toybox:
            toybox = programs / "toybox"
            toybox.unlink(missing_ok=True)
            toybox.symlink_to(self._tools.toybox)
            link_applets(programs, self._tools.toybox)
        write_scripts(programs, shell_path=str(shell), services=str(folders.services))
        environment = shell_environment(root, f"{programs}:{os.environ.get('PATH', os.defpath)}")
        return ShellView(
            shell_path=str(shell),
            directory=root,
            root=root,
            environment={**environment, "MOBIFARM_SYS_ROOT": root},
        )

    def command(self, folders: Folders, channel: int, information: int) -> list[str]:
        return [sys.executable, "-m", "mobifarm.simulator.adbd.daemon", "--channel", str(channel)]
