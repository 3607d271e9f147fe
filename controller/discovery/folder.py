"""A folder in which phones on TCP are announced, one JSON file each; virtual phones do this by themselves.

    {"address": "tcp:HOST:PORT", "plugged": true, "plugs": 1, "pid": 4711}

Only ``address`` is needed; "usb" is a phone on USB, which is found on the bus and not here. ``plugged``
false: the phone's cable is out. ``plugs`` grows whenever it is plugged in, so that a short unplugging is not
missed. ``pid``: the announcement ends with this process.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any, Final

from mobifarm.controller.discovery.sighting import Scan, Trouble

POLL_S: Final = 0.2
ON_USB: Final = "usb"
FILE_LIMIT_BYTES: Final = 64 * 1024
_ADDRESS: Final = re.compile(r"tcp:[A-Za-z0-9.\-]{1,253}:(\d{1,5})")


class FolderWatcher:
    """Looks at ``*.json`` in one folder, which need not exist yet."""

    source = "announced"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._interrupted = threading.Event()
        self._read: dict[str, tuple[tuple[int, int, int], dict[str, Any] | str]] = {}

    def covers(self, address: str, source: str) -> bool:
        return source == self.source  # a phone on TCP may be added by hand as well

    def scan(self) -> Scan:
        phones: dict[str, str] = {}
        trouble: Trouble | None = None
        names = set()
        for path in self._files():
            announced = self._announcement(path)
            if announced is None:
                continue
            names.add(path.name)
            if isinstance(announced, str):
                trouble = trouble or Trouble(
                    f"{path} announces no phone: {announced}", "repair it or move it away"
                )
            elif announced["address"] == ON_USB:
                continue
            elif announced.get("plugged", True) and _lives(announced.get("pid")):
                phones[announced["address"]] = f"{announced.get('pid')}/{announced.get('plugs')}"
        self._read = {name: known for name, known in self._read.items() if name in names}
        return Scan(phones, trouble)

    def wait(self, timeout_s: float) -> None:
        self._interrupted.wait(min(timeout_s, POLL_S))

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        pass

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if path.suffix == ".json")
        except OSError:
            return []

    def _announcement(self, path: Path) -> dict[str, Any] | str | None:
        """What a file says, why it says nothing, None where it has just gone; kept until it changes."""
        try:
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._read.get(path.name)
            if known and known[0] == version:
                return known[1]
            if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_LIMIT_BYTES:
                return "it is no small file"
            content = _parse(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            return str(error.strerror)
        self._read[path.name] = (version, content)
        return content


def _parse(data: bytes) -> dict[str, Any] | str:
    try:
        body = json.loads(data)
    except ValueError:
        return "it is not JSON"
    address = body.get("address") if isinstance(body, dict) else None
    if isinstance(body, dict) and address == ON_USB:
        return body
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or not 0 < int(match[1]) < 65536:
        return 'it needs an "address" of the form tcp:HOST:PORT'
    return dict(body)


def _lives(pid: object) -> bool:
    if not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        return True
    return True
