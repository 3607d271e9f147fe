"""The phone's read-only /system: copies of the host's programs that find nothing but /system.

A phone has no /lib and no /usr, so a program that was pushed to it must bring its own loader and libraries.
For the same to hold here, the copied programs are changed in place: their interpreter becomes
``/system/bin/linker64`` and that loader's built-in search path becomes ``/system/lib64``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mobifarm.simulator.programs import Tools, link_applets, write_scripts

LINKER: Final = "/system/bin/linker64"
LIBRARIES: Final = "/system/lib64"
SERVICES: Final = "/apex/com.mobifarm.services"

_PT_INTERP: Final = 3
_SYSTEM_DIRECTORY = re.compile(rb"(?<![a-z0-9])/lib/[a-z0-9_]+-linux-gnu[a-z0-9]*/(?=\0)")
_LDD_LINE = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_COMMANDS_WITHOUT_TOYBOX = (
    "basename", "cat", "chmod", "cp", "cut", "date", "dd", "df", "dirname", "du", "echo", "env", "expr",
    "false", "find", "grep", "gzip", "head", "kill", "ln", "ls", "md5sum", "mkdir", "mktemp", "mv", "nohup",
    "od", "printenv", "printf", "ps", "pwd", "readlink", "realpath", "rm", "rmdir", "sed", "seq", "setsid",
    "sha256sum", "sleep", "sort", "stat", "tail", "tar", "tee", "test", "timeout", "touch", "tr", "true",
    "uname", "uniq", "wc", "which", "xargs",
)  # fmt: skip
# Counts up when the layout changes, so that an older image is not taken for a new one.
_LAYOUT = 2


class ImageError(Exception):
    """The host's programs cannot be made into a phone's; the message says why."""


def shared_libraries(binaries: Iterable[Path]) -> list[Path]:
    """Everything that the dynamic loader would load for the binaries, the loader included (by ldd)."""
    try:
        done = subprocess.run(
            ["ldd", *binaries],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env={"PATH": os.defpath},
        )
    except FileNotFoundError as error:
        raise ImageError("ldd is not installed") from error
    return sorted({Path(match) for match in _LDD_LINE.findall(done.stdout)})


def loader_among(libraries: Iterable[Path]) -> Path:
    """The dynamic loader in a list of libraries. Raises :class:`ImageError`."""
    for library in libraries:
        if library.name.startswith("ld-linux"):
            return library
    raise ImageError("the host's programs are not linked with glibc")


def with_interpreter(program: bytes, interpreter: str) -> bytes:
    """A 64-bit ELF program with another dynamic loader; unchanged where it has none (static).

    Raises :class:`ImageError` where the new path is longer than the old one.
    """
    if program[:5] != b"\x7fELF\x02":
        raise ImageError("not a 64-bit ELF program")
    offset, entry_size, entries = (
        struct.unpack_from("<Q", program, 32)[0],
        *struct.unpack_from("<HH", program, 54),
    )
    for index in range(entries):
        start = offset + index * entry_size
        if struct.unpack_from("<I", program, start)[0] == _PT_INTERP:
            place = struct.unpack_from("<Q", program, start + 8)[0]
            size = struct.unpack_from("<Q", program, start + 32)[0]
            path = interpreter.encode()
            if len(path) >= size:
                raise ImageError(f"no room for {interpreter} in the program's header")
            return program[:place] + path.ljust(size, b"\0") + program[place + size :]
    return program


def with_library_directory(loader: bytes, directory: str) -> bytes:
    """A glibc loader whose first built-in search directory is ``directory``, padded with slashes.

    Raises :class:`ImageError` where the loader has no such directory or no room for it.
    """

    def replacement(match: re.Match[bytes]) -> bytes:
        size = len(match[0])
        if len(directory) + 1 > size:
            raise ImageError(f"no room for {directory} in the host's dynamic loader")
        return directory.encode().ljust(size, b"/")

    changed, count = _SYSTEM_DIRECTORY.subn(replacement, loader)
    if not count:
        raise ImageError("the host's dynamic loader has an unknown search path")
    return changed


def build_image(parent: Path, tools: Tools) -> Path:
    """Make (or find) the folder that becomes /system; several launchers may do so at once.

    Raises :class:`ImageError`.
    """
    programs = _programs(tools)
    libraries = shared_libraries(sorted(set(programs.values())))
    sources = sorted({*programs.values(), *libraries})
    stamp = [f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}" for path in sources]
    key = hashlib.sha256("\n".join([str(_LAYOUT), *stamp]).encode()).hexdigest()[:16]
    image = parent / f"system-{key}"
    if image.is_dir():
        return image
    building = Path(tempfile.mkdtemp(prefix="system-building-", dir=parent))
    try:
        _fill(building, programs, libraries, tools)
        building.chmod(0o755)
        building.rename(image)
    except OSError:
        # Another launcher was first.
        if not image.is_dir():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return image


def _programs(tools: Tools) -> dict[str, Path]:
    """Command names and the host programs that they are copies of."""
    found: dict[str, Path] = {}
    shell = tools.mksh or shutil.which("sh")
    if shell is None:
        raise ImageError("the host has no shell")
    found["sh"] = Path(shell).resolve()
    if tools.toybox is not None:
        found["toybox"] = tools.toybox
    else:
        for name in _COMMANDS_WITHOUT_TOYBOX:
            path = shutil.which(name)
            if path is not None:
                found[name] = Path(path).resolve()
    return found


def _fill(image: Path, programs: dict[str, Path], libraries: list[Path], tools: Tools) -> None:
    for folder in ("bin", "lib64", "etc"):
        (image / folder).mkdir()
    loader = loader_among(libraries)
    for name, source in programs.items():
        _write_program(image / "bin" / name, _adapted(source))
    _write_program(image / "bin" / "linker64", with_library_directory(loader.read_bytes(), LIBRARIES))
    for library in libraries:
        if library != loader:
            shutil.copyfile(library, image / "lib64" / library.name)
    if tools.toybox is not None:
        link_applets(image / "bin", tools.toybox)
    write_scripts(image / "bin", shell_path="/system/bin/sh", services=SERVICES, with_identity=True)
    (image / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 ip6-localhost\n", encoding="ascii")
    # Each phone's own file is mounted here.
    (image / "build.prop").touch()


def _adapted(program: Path) -> bytes:
    data = program.read_bytes()
    return data if data[:2] == b"#!" else with_interpreter(data, LINKER)


def _write_program(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o755)
