"""Small questions to a phone's shell. All that comes back is untrusted text."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.transport.interface import DeviceTransport, ShellResult

_PROPERTY: Final = re.compile(r"^\[([^\]\n]*)\]: \[(.*?)\]$", re.MULTILINE | re.DOTALL)
_SAFE_PATH: Final = re.compile(r"/[\x21-\x7e]{1,200}")
_CHECKSUM_LINE: Final = re.compile(r"\\?([0-9a-f]{64}) [ *](.+)")


def run(transport: DeviceTransport, command: str, what: str, timeout_s: float = 30.0) -> ShellResult:
    """Run a command that has to succeed.

    Raises:
        DeviceError: it failed; the message says ``what`` could not be done and what the phone wrote.
    """
    result = transport.shell(command, timeout_s)
    if result.exit_code != 0:
        said = (result.stderr.strip() or result.stdout.strip() or "no message")[-500:]
        raise DeviceError(f"{transport.address}: could not {what} (exit code {result.exit_code}): {said}")
    return result


def read_properties(transport: DeviceTransport) -> dict[str, str]:
    """Android's system properties, empty ones left out.

    Raises:
        DeviceError: the phone names none.
    """
    properties = parse_properties(run(transport, "getprop", "read the phone's properties").stdout)
    if not properties:
        raise DeviceError(f"{transport.address}: getprop names no property; is this an Android phone?")
    return properties


def parse_properties(text: str) -> dict[str, str]:
    """Read what ``getprop`` prints: ``[name]: [value]`` a line; a value may hold line breaks."""
    return {name: value for name, value in _PROPERTY.findall(text.replace("\r\n", "\n")) if value}


def cpu_abi(properties: Mapping[str, str]) -> str:
    """The phone's preferred 64-bit processor interface, e.g. ``arm64-v8a``; "" where it names none."""
    listed = properties.get("ro.product.cpu.abilist64") or properties.get("ro.product.cpu.abi", "")
    return listed.split(",")[0]


def find_home(transport: DeviceTransport) -> str:
    """The farm's folder on the phone, made (mode 0700) where it is missing.

    Raises:
        DeviceError: the phone names no usable folder.
    """
    parent = 'cd "${ANDROID_DATA:-/data}/local/tmp"'
    script = f'{parent} && mkdir -p mobifarm && chmod 700 mobifarm && echo "$PWD/mobifarm"'
    home = run(transport, script, "make its folder").stdout.strip()
    if not _SAFE_PATH.fullmatch(home) or ".." in home.split("/"):
        raise DeviceError(f"{transport.address}: the phone named an unusable folder {home[:100]!r}")
    return home


def free_bytes(transport: DeviceTransport, folder: str) -> int:
    """Free space where ``folder`` is.

    Raises:
        DeviceError: ``df`` says nothing readable.
    """
    text = run(transport, f"df -P -k {shlex.quote(folder)}", "ask for free space").stdout
    try:
        return int(text.strip().splitlines()[-1].split()[3]) * 1024
    except (IndexError, ValueError) as error:
        raise DeviceError(f"{transport.address}: df wrote something unreadable: {text[:200]!r}") from error


def check_space(transport: DeviceTransport, folder: str, needed_bytes: int) -> None:
    """Raise where fewer than ``needed_bytes`` are free in ``folder``.

    Raises:
        DeviceError: so it is; the message says how much to free.
    """
    free = free_bytes(transport, folder)
    if free < needed_bytes:
        raise DeviceError(
            f"{transport.address}: {needed_bytes >> 20} MiB are needed in {folder} and {free >> 20} MiB are "
            "free; delete something on the phone"
        )


def checksums_below(transport: DeviceTransport, folder: str) -> dict[str, str]:
    """SHA-256 (hex) of each file below ``folder`` by relative path; empty where there is no such folder."""
    script = f"cd {shlex.quote(folder)} 2>/dev/null || exit 0; find . -type f -exec sha256sum {{}} +"
    text = run(transport, script, f"checksum the files in {folder}", timeout_s=300).stdout
    found = {}
    for line in text.splitlines():
        if match := _CHECKSUM_LINE.fullmatch(line):
            found[match[2].removeprefix("./")] = match[1]
    return found


def file_checksum(path: Path) -> str:
    """SHA-256 of a file of this host, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
