"""What belongs into a runtime for any processor: what is left out, how it is run, the agent's files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mobifarm
from mobifarm.controller.provisioning.packing.archive import Member, files_below

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
    )
)
EXTENSIONS: Final = "lib-dynload"
_UNUSED_EXTENSION: Final = re.compile(
    r"_test|_ctypes_test|_tkinter|_curses|_g?dbm\b|xx|_xx|readline|nis\b|ossaudiodev"
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
_WORKER_SOURCES: Final = "htp_worker/"  # in C++, built elsewhere

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


def run_script(loader: str) -> Member:
    """``run.sh`` of a Python whose dynamic loader has the given file name."""
    return Member("run.sh", content=_RUN_SCRIPT.format(loader=loader).encode(), executable=True)


def standard_library(library: Path, extensions: Path, version: str) -> Iterator[Member]:
    """What the agent may need of a standard library and of its extension modules.

    Args:
        library: where ``os.py`` lies.
        extensions: its ``lib-dynload``.
        version: such as ``3.11``.
    """
    for name, source in files_below(library):
        parts = PurePosixPath(name).parts
        if _UNUSED_STANDARD.isdisjoint(parts) and not parts[0].startswith((EXTENSIONS, "config-")):
            yield Member(f"lib/python{version}/{name}", source)
    for source in sorted(extensions.glob("*.so")):
        if not _UNUSED_EXTENSION.match(source.name):
            yield Member(f"lib/python{version}/{EXTENSIONS}/{source.name}", source)


def dependencies() -> dict[str, str]:
    """Name and version of each distribution that a base install of mobifarm brought here.

    Those that the agent never imports are left out.
    """
    found: dict[str, str] = {}
    pending = ["mobifarm"]
    while pending:
        for text in metadata.distribution(pending.pop()).requires or []:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and name not in found and name not in _UNUSED_DISTRIBUTIONS:
                found[name] = metadata.version(name)
                pending.append(name)
    return dict(sorted(found.items()))


def dependency_file(name: str, source: Path) -> Member | None:
    """A file of an installed distribution as part of a runtime; None for one that the agent never reads."""
    if (
        name.startswith("..")
        or _UNUSED_IN_DISTRIBUTIONS.match(name)
        or PurePosixPath(name).suffix in _UNUSED_SUFFIXES
    ):
        return None
    return Member(f"packages/{name}", source)


def agent_members() -> list[Member]:
    """The agent's own code, the same for every processor."""
    members = [Member(f"mobifarm/{name}", source) for name, source in _agent_files()]
    return [*members, Member("start.py", content=_START_SCRIPT.encode())]


def _agent_files() -> Iterator[tuple[str, Path]]:
    package = Path(mobifarm.__file__).parent
    for part in _AGENT_PARTS:
        if (package / part).is_file():
            yield part, package / part
        for name, source in files_below(package / part):
            if not name.endswith((".pyi", ".proto")) and not name.startswith(_WORKER_SOURCES):
                yield f"{part}/{name}", source
