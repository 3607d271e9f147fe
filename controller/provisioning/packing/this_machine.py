"""A runtime for phones with this machine's kind of processor: the Python that runs here, packed as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from mobifarm.controller.errors import HostError
from mobifarm.controller.provisioning.packing.archive import Member, fingerprint_of, is_elf
from mobifarm.controller.provisioning.packing.contents import (
    EXTENSIONS,
    dependencies,
    dependency_file,
    run_script,
    standard_library,
)

_LDD_DEADLINE_S = 120


def python_fingerprint(code: list[Path]) -> str:
    """Changes when the archive's content would; ``code`` packs it."""
    facts: list[object] = [sys.version]
    for name, version in dependencies().items():
        facts.append([name, version, str(metadata.distribution(name).locate_file(""))])
    return fingerprint_of(facts, [_interpreter(), *code])


def python_members() -> list[Member]:
    """The interpreter, its standard library, the agent's dependencies, and the libraries that all these need.

    Raises:
        HostError: this machine's Python cannot be packed.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    # Not the folder that sysconfig names: a relocated Python keeps that of the machine it was built on.
    extensions = next((entry for entry in sys.path if entry.endswith(f"/{EXTENSIONS}")), library / EXTENSIONS)
    members = [
        Member("bin/python3", _interpreter(), executable=True),
        *standard_library(library, Path(extensions), version),
        *_dependency_files(),
    ]
    loader, libraries = _shared_libraries([member.source for member in members if member.source])
    members.append(Member(f"lib/{loader.name}", loader, executable=True))
    members += [Member(f"lib/{name}", source) for name, source in libraries.items()]
    return [*members, run_script(loader.name)]


def _interpreter() -> Path:
    # Inside a virtual environment this is the interpreter that it was made from.
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _dependency_files() -> Iterator[Member]:
    for distribution_name in dependencies():
        distribution = metadata.distribution(distribution_name)
        if distribution.files is None:
            raise HostError(
                f"the installed files of {distribution_name} are unknown; install it again with pip"
            )
        for file in distribution.files:
            if member := dependency_file(str(file), Path(str(distribution.locate_file(file)))):
                yield member


def _shared_libraries(files: list[Path]) -> tuple[Path, dict[str, Path]]:
    """The dynamic loader and the shared libraries outside ``files`` that they need, by file name."""
    binaries = [path for path in files if is_elf(path)]
    packed = {path.resolve() for path in binaries}
    outcome = subprocess.run(
        ["ldd", *binaries],
        capture_output=True,
        text=True,
        timeout=_LDD_DEADLINE_S,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )
    libraries: dict[str, Path] = {}
    loader: Path | None = None
    for line in outcome.stdout.splitlines():
        if match := re.match(r"\s+(/\S*/ld-[^/\s]+) \(0x", line):
            loader = Path(match[1])
        elif match := re.match(r"\s+(\S+) => (/\S+) \(0x", line):
            found = Path(match[2])
            if "/" in match[1]:
                loader = found
            elif found.resolve() not in packed:
                libraries.setdefault(match[1], found)
    if loader is None or "libc.so.6" not in libraries:
        raise HostError(
            f"the shared libraries of {_interpreter()} cannot be listed with ldd; "
            "the farm's host needs Linux with glibc"
        )
    # Loaded by glibc at run time, when a thread ends, so it is in nobody's list.
    unwinder = libraries["libc.so.6"].with_name("libgcc_s.so.1")
    if unwinder.exists():
        libraries.setdefault(unwinder.name, unwinder)
    return loader, libraries
