"""The agent's runtime archive: a Python of its own that needs nothing from the phone but the kernel.

Phones have no Python and no glibc, and no Android wheels of the agent's dependencies exist. So the archive
carries the interpreter that runs here, its standard library, the shared libraries of both with their own
dynamic loader, the agent's dependencies as installed here, and the agent. It runs wherever processors of this
machine's kind run Linux; phones of another kind need an archive that was built on such a machine.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import platform
import re
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mobifarm
from mobifarm.controller.errors import DeviceError, HostError

# Level 1: the archive is built once but on slow machines too, and USB is faster than level 6.
_GZIP_LEVEL: Final = 1
_ABI_OF_MACHINE: Final = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}
_ELF_MAGIC: Final = b"\x7fELF"

# Parts of the standard library that a program without screen, keyboard and compiler never imports.
_UNUSED_STANDARD: Final = frozenset(
    (
        "site-packages",
        "dist-packages",
        "sitecustomize.py",
        "usercustomize.py",
        "test",
        "tests",
        "idlelib",
        "idle_test",
        "tkinter",
        "turtledemo",
        "turtle.py",
        "ensurepip",
        "lib2to3",
        "pydoc_data",
        "distutils",
        "venv",
        "curses",
        "lib-dynload",
    )
)
_UNUSED_EXTENSION: Final = re.compile(
    r"_test|_ctypes_test|_tkinter|_curses|xx|_xx|readline|nis\b|ossaudiodev"
)
# Dependencies of dependencies that the agent never imports: downloads of models and what they need.
_UNUSED_DISTRIBUTIONS: Final = frozenset({"huggingface-hub"})
_UNUSED_IN_DISTRIBUTIONS: Final = re.compile(
    r"(.*/)?(__pycache__|tests|[^/]*\.dist-info)/|numpy/(f2py|distutils)/"
    r"|onnxruntime/(transformers|tools|quantization|datasets)/|onnxruntime/ThirdPartyNotices"
    # The C library: the Python module brings its own copy of the code.
    r"|onnxruntime/capi/libonnxruntime\.so"
)
_UNUSED_SUFFIXES: Final = frozenset({".pyi", ".pxd", ".pyx", ".h", ".c", ".a", ".lib", ".exe", ".md"})
_AGENT_PARTS: Final = ("__init__.py", "agent", "v1")

_RUN_SCRIPT: Final = """\
#!/bin/sh
# Runs a program with the Python beside this file and nothing else of the system.
here=${{0%/*}}
unset LD_LIBRARY_PATH LD_PRELOAD
# Else onnxruntime (1.29 and later) reports its use to its maker over the phone's network.
export ORT_DISABLE_TELEMETRY=1
exec "$here/lib/{loader}" --library-path "$here/lib" "$here/bin/python3" -I -S -X utf8 "$@"
"""
# Without the site module, whose folders differ between Python builds.
_START_SCRIPT: Final = """\
import os
import runpy
import sys

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(sys.prefix, "packages")]
runpy.run_module("mobifarm.agent.main", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True, slots=True)
class Archive:
    """A gzipped tar file; ``hash`` is its SHA-256 and its name on host and phone."""

    hash: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a phone needs to run the agent: Python with the dependencies, and the agent's own code.

    They are apart because the first is large and changes rarely, the second small and with every version.
    Unpacked side by side, ``sh PYTHON/run.sh AGENT/start.py ARGUMENTS…`` starts the agent.
    """

    abi: str
    python: Archive
    agent: Archive


@dataclass(frozen=True, slots=True)
class _Member:
    """A file of an archive: from a file, or with the given content."""

    name: str
    source: Path | None = None
    content: bytes = b""
    executable: bool = False


def host_abi() -> str:
    """Android's name for this machine's processor, "" for one that no phone has."""
    return _ABI_OF_MACHINE.get(platform.machine(), "")


def ensure_runtime(cache: Path, abi: str) -> Runtime:
    """The runtime for phones of ``abi``, built into ``cache``/runtimes where it is missing or stale.

    Deterministic: the same inputs give the same bytes. Of several processes one builds, the others wait.

    Args:
        cache: the user's cache folder.
        abi: the phone's ``ro.product.cpu.abi``.

    Raises:
        DeviceError: there is no runtime for this kind of processor.
        HostError: this machine's Python cannot be packed.
    """
    if abi != host_abi():
        raise DeviceError(
            f"there is no agent runtime for {abi or 'unknown'} phones yet: this host makes runtimes for "
            f"{host_abi() or 'no known'} phones only"
        )
    folder = cache / "runtimes"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return Runtime(
            abi,
            python=_ensure_archive(folder, _python_fingerprint(), _python_members),
            agent=_ensure_archive(folder, _agent_fingerprint(), _agent_members),
        )


def _ensure_archive(folder: Path, fingerprint: str, members: Callable[[], list[_Member]]) -> Archive:
    record = folder / f"{fingerprint}.txt"
    try:
        archive_hash = record.read_text()
        path = folder / f"{archive_hash}.tar.gz"
        return Archive(archive_hash, path, path.stat().st_size)
    except OSError:
        archive = _build(folder, members())
    scratch = record.with_suffix(".new")
    scratch.write_text(archive.hash)
    scratch.replace(record)
    return archive


def _python_fingerprint() -> str:
    """Changes when the archive's content would; reads sizes and times only."""
    facts: list[object] = [sys.version]
    for name in sorted(_dependencies()):
        distribution = metadata.distribution(name)
        facts.append([name, distribution.version, str(distribution.locate_file(""))])
    return _fingerprint(facts, [_interpreter(), Path(__file__)])


def _agent_fingerprint() -> str:
    return _fingerprint([], [Path(__file__), *(source for _name, source in _agent_files())])


def _fingerprint(facts: list[object], files: list[Path]) -> str:
    for path in files:
        status = path.stat()
        facts.append([str(path), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _build(folder: Path, members: list[_Member]) -> Archive:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as scratch:
        scratch_path = Path(scratch.name)
        try:
            # No name and no time in the gzip header, so that it does not depend on where and when.
            with (
                gzip.GzipFile("", "wb", _GZIP_LEVEL, scratch, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
            ):
                for member in members:
                    _add(archive, member)
            scratch.flush()
            with scratch_path.open("rb") as written:
                archive_hash = hashlib.file_digest(written, "sha256").hexdigest()
            final = folder / f"{archive_hash}.tar.gz"
            scratch_path.replace(final)
        except BaseException:
            scratch_path.unlink(missing_ok=True)
            raise
    return Archive(archive_hash, final, final.stat().st_size)


def _add(archive: tarfile.TarFile, member: _Member) -> None:
    entry = tarfile.TarInfo(member.name)
    entry.mode = 0o755 if member.executable else 0o644
    if member.source is None:
        entry.size = len(member.content)
        archive.addfile(entry, io.BytesIO(member.content))
    else:
        with member.source.open("rb") as file:
            entry.size = os.fstat(file.fileno()).st_size
            archive.addfile(entry, file)


def _python_members() -> list[_Member]:
    members = [_Member("bin/python3", _interpreter(), executable=True)]
    members += [_Member(name, source) for name, source in _standard_library()]
    members += [_Member(f"packages/{name}", source) for name, source in _dependency_files()]
    loader, libraries = _shared_libraries([member.source for member in members if member.source])
    members.append(_Member(f"lib/{loader.name}", loader, executable=True))
    members += [_Member(f"lib/{name}", source) for name, source in libraries.items()]
    members.append(
        _Member("run.sh", content=_RUN_SCRIPT.format(loader=loader.name).encode(), executable=True)
    )
    return _sorted(members)


def _agent_members() -> list[_Member]:
    members = [_Member(f"mobifarm/{name}", source) for name, source in _agent_files()]
    members.append(_Member("start.py", content=_START_SCRIPT.encode()))
    return _sorted(members)


def _sorted(members: list[_Member]) -> list[_Member]:
    # Distributions may share a file, e.g. of a namespace package; it is packed once.
    return sorted({member.name: member for member in members}.values(), key=lambda member: member.name)


def _interpreter() -> Path:
    # Inside a virtual environment this is the interpreter that it was made from.
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _standard_library() -> Iterator[tuple[str, Path]]:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    for name, source in _files_below(library):
        parts = PurePosixPath(name).parts
        if _UNUSED_STANDARD.isdisjoint(parts) and not parts[0].startswith("config-"):
            yield f"lib/{version}/{name}", source
    # Not the folder that sysconfig names: a relocated Python keeps that of the machine it was built on.
    for extensions in (Path(entry) for entry in sys.path if entry.endswith("/lib-dynload")):
        for source in sorted(extensions.glob("*.so")):
            if not _UNUSED_EXTENSION.match(source.name):
                yield f"lib/{version}/lib-dynload/{source.name}", source


def _dependencies() -> set[str]:
    """Names of the distributions that a base install of mobifarm brings, less those never imported."""
    found: set[str] = set()
    pending = ["mobifarm"]
    while pending:
        for text in metadata.distribution(pending.pop()).requires or []:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and name not in found | _UNUSED_DISTRIBUTIONS:
                found.add(name)
                pending.append(name)
    return found


def _dependency_files() -> Iterator[tuple[str, Path]]:
    for distribution_name in sorted(_dependencies()):
        distribution = metadata.distribution(distribution_name)
        if distribution.files is None:
            raise HostError(
                f"the installed files of {distribution_name} are unknown; install it again with pip"
            )
        for file in distribution.files:
            name = str(file)
            if (
                not name.startswith("..")
                and not _UNUSED_IN_DISTRIBUTIONS.match(name)
                and PurePosixPath(name).suffix not in _UNUSED_SUFFIXES
            ):
                yield name, Path(str(distribution.locate_file(file)))


def _agent_files() -> Iterator[tuple[str, Path]]:
    package = Path(mobifarm.__file__).parent
    for part in _AGENT_PARTS:
        if (package / part).is_file():
            yield part, package / part
        for name, source in _files_below(package / part):
            if not name.endswith((".pyi", ".proto")):
                yield f"{part}/{name}", source


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for file in sorted(files):
            path = Path(directory, file)
            if path.is_file():
                yield str(path.relative_to(folder)), path


def _shared_libraries(files: list[Path]) -> tuple[Path, dict[str, Path]]:
    """The dynamic loader and the shared libraries outside ``files`` that they need, by file name."""
    binaries = [path for path in files if _is_elf(path)]
    packed = {path.resolve() for path in binaries}
    outcome = subprocess.run(
        ["ldd", *binaries],
        capture_output=True,
        text=True,
        timeout=120,
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


def _is_elf(path: Path) -> bool:
    if not (path.suffix == ".so" or ".so." in path.name or path.stat().st_mode & stat.S_IXUSR):
        return False
    with path.open("rb") as file:
        return file.read(4) == _ELF_MAGIC
