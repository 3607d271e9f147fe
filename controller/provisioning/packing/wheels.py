"""Wheels of the agent's dependencies for another kind of processor, from the index that pip is set up for."""

from __future__ import annotations

import hashlib
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from mobifarm.controller.provisioning.packing.commands import DownloadError, Report, run_command

# Debian 12's glibc is 2.36; wheels ask for at most 2.28 today.
_GLIBC_MINORS: Final = range(17, 37)
_STALL_S: Final = 30
_DEADLINE_S: Final = 600


def fetch_wheels(
    folder: Path, wanted: Mapping[str, str], machine: str, python: str, report: Report
) -> list[Path]:
    """Download wheels that ``folder`` does not hold yet; others in it are deleted.

    Args:
        folder: keeps them.
        wanted: canonical name and version of each distribution.
        machine: Linux's name of the processor, ``aarch64``.
        python: version that they are for, such as ``3.11``.
        report: told what is downloaded.

    Raises:
        DownloadError: one cannot be had; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = sorted(wanted.items() - _wheels_in(folder).keys())
    if missing:
        names = [f"{name}=={version}" for name, version in missing]
        report(f"downloading {len(names)} wheels: {', '.join(names)}")
        _download(folder, names, machine, python)
    there = _wheels_in(folder)
    for key, path in there.items():
        if key not in wanted.items():
            path.unlink()
    lacking = sorted(wanted.items() - there.keys())
    if lacking:
        raise DownloadError(f"pip brought something else than {' '.join(lacking[0])}")
    return [there[item] for item in sorted(wanted.items())]


def unpack_wheels(wheels: list[Path], target: Path) -> None:
    """Unpack wheels into ``target``, as an installation would, but for scripts.

    Raises:
        DownloadError: a wheel is damaged.
    """
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            wheel.unlink()
            raise DownloadError(f"{wheel.name} arrived damaged; retry") from error


def checksum(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(folder: Path, requirements: list[str], machine: str, python: str) -> None:
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC_MINORS]
    run_command(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"),
            *("--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp"),
            *(f"--python-version={python}", f"--platform=manylinux2014_{machine}", *platforms),
            *(f"--timeout={_STALL_S}", "--retries=2", f"--dest={folder}", *requirements),
        ],
        f"download the agent's dependencies for {machine} and Python {python} (is the network there?)",
        _DEADLINE_S,
        failure=DownloadError,
    )


def _wheels_in(folder: Path) -> dict[tuple[str, str], Path]:
    found = {}
    for path in folder.glob("*.whl"):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        found[str(canonicalize_name(name)), str(Version(str(version)))] = path
    return found
