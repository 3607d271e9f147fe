"""A runtime for phones with another kind of processor, from Debian's Python and PyPI's wheels.

The dependencies have the versions that are installed here; Python is the one of this machine's Debian.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mobifarm.controller.errors import HostError
from mobifarm.controller.provisioning.packing.archive import Member, files_below, fingerprint_of, is_elf
from mobifarm.controller.provisioning.packing.commands import Report
from mobifarm.controller.provisioning.packing.contents import (
    EXTENSIONS,
    dependencies,
    dependency_file,
    run_script,
    standard_library,
)
from mobifarm.controller.provisioning.packing.debian import DebianPackages, python_version
from mobifarm.controller.provisioning.packing.elf import needed_libraries
from mobifarm.controller.provisioning.packing.wheels import checksum, fetch_wheels, unpack_wheels


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of processor under the names that Debian, wheels and the dynamic loader have for it."""

    debian: str
    machine: str
    loader: str


TARGETS: Final[Mapping[str, Target]] = {"arm64-v8a": Target("arm64", "aarch64", "ld-linux-aarch64.so.1")}
"""By Android's name."""


def python_fingerprint(abi: str, code: list[Path]) -> str:
    """Changes when the archive's content would, but for packages that Debian replaces; ``code`` packs it."""
    return fingerprint_of([abi, dependencies()], code)


class Unpacked:
    """What was downloaded, unpacked in ``folder``, for as long as it is packed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "unpacked"
        self.system, self.packages = self._folder / "system", self._folder / "packages"

    def __enter__(self) -> Unpacked:
        shutil.rmtree(self._folder, ignore_errors=True)
        for part in (self.system, self.packages):
            part.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def python_members(
    folder: Path, unpacked: Unpacked, abi: str, report: Report, *, anew: bool = False
) -> list[Member]:
    """Download what is missing and find the files to pack.

    Args:
        folder: keeps the downloads, so that another time needs no network.
        unpacked: where the files lie until they are packed.
        abi: one of :data:`TARGETS`.
        report: told what is done.
        anew: ask Debian for newer packages.

    Raises:
        DownloadError: something cannot be had.
        HostError: what was fetched does not fit together.
    """
    target = TARGETS[abi]
    debian = DebianPackages(folder / "debian", target.debian, report)
    packages = debian.fetch_python(anew=anew)
    version = python_version(packages)
    wheels = fetch_wheels(folder / f"wheels-{version}", dependencies(), target.machine, version, report)
    report("unpacking")
    debian.unpack(packages, unpacked.system)
    unpack_wheels(wheels, unpacked.packages)
    inputs = {
        "abi": abi,
        "debian": {package.file_name: package.sha256 for package in packages},
        "wheels": {wheel.name: checksum(wheel) for wheel in wheels},
    }
    members = _members(unpacked, version, target)
    return [*members, Member("inputs.json", content=json.dumps(inputs, indent=1, sort_keys=True).encode())]


def _members(unpacked: Unpacked, version: str, target: Target) -> list[Member]:
    library = unpacked.system / "usr" / "lib" / f"python{version}"
    members = [
        Member("bin/python3", unpacked.system / "usr" / "bin" / f"python{version}", executable=True),
        *standard_library(library, library / EXTENSIONS, version),
    ]
    for name, source in files_below(unpacked.packages):
        if member := dependency_file(name, source):
            members.append(member)
    libraries = _libraries(
        [member.source for member in members if member.source], _system_libraries(unpacked.system), target
    )
    for name, source in libraries.items():
        members.append(Member(f"lib/{name}", source, executable=name == target.loader))
    return [*members, run_script(target.loader)]


def _system_libraries(system: Path) -> dict[str, Path]:
    # The loader's own link is absolute in some releases, but the file itself is among the others.
    return {path.name: path for path in sorted(system.glob("**/*-linux-gnu/*.so*")) if path.exists()}


def _libraries(files: list[Path], available: dict[str, Path], target: Target) -> dict[str, Path]:
    """The loader and the shared libraries outside ``files`` that they need, by file name."""
    pending = [path for path in files if is_elf(path)]
    brought = {path.name for path in pending}
    # glibc loads the second at run time, when a thread ends, so it is in nobody's list.
    needed = {target.loader: "the programs", "libgcc_s.so.1": "glibc"}
    found: dict[str, Path] = {}
    while pending or needed:
        for path in pending:
            try:
                needed |= dict.fromkeys(needed_libraries(path), path.name)
            except ValueError as error:
                raise HostError(f"{path.name} cannot be packed: {error}") from error
        pending = []
        for name, by in needed.items():
            if name in found or name in brought:
                continue
            if name not in available:
                raise HostError(f"{by} needs {name}, which is in none of Debian's packages that were fetched")
            found[name] = available[name]
            pending.append(available[name])
        needed = {}
    return dict(sorted(found.items()))
