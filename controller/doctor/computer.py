"""Examines this computer: may it use phones on USB, who else does, and are the farm's secrets private."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mobifarm.controller.doctor.finding import Finding, Verdict, finding
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.transport.usb import ADB_SERVER_PORT, UsbScan, list_usb

RULE_FOLDERS: Final = (Path("/etc/udev/rules.d"), Path("/lib/udev/rules.d"), Path("/usr/lib/udev/rules.d"))
_LEAST_FREE_BYTES: Final = 2 << 30


def examine_computer(
    paths: FarmPaths,
    *,
    scan: Callable[[], UsbScan] = list_usb,
    rule_folders: tuple[Path, ...] = RULE_FOLDERS,
    adb_server_answers: Callable[[], bool] | None = None,
) -> list[Finding]:
    """Every finding; looks and changes nothing."""
    return [
        _usb(scan()),
        _udev_rule(rule_folders),
        _adb_server(adb_server_answers or _answers),
        _secrets(paths),
        _disk(paths),
    ]


def _usb(found: UsbScan) -> Finding:
    addresses = [phone.address for phone in found.phones]
    said = ", ".join(f"{phone.address} {phone.serial or '(serial unreadable)'}" for phone in found.phones)
    if found.unavailable_reason:
        verdict = Verdict("failed", None, f"{found.unavailable_reason}; phones on TCP work all the same")
    elif closed := [phone.address for phone in found.phones if not phone.serial]:
        verdict = Verdict("failed", addresses, f"this user may not use {', '.join(closed)}: see udev_rule")
    else:
        verdict = Verdict("ok", addresses, "phones with USB debugging on that this user may use")
    return finding("usb", verdict, said or "no phone on USB", stable=False)


def _udev_rule(folders: tuple[Path, ...]) -> Finding:
    rules = [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*android*.rules"))]
    if rules:
        verdict = Verdict("ok", [path.name for path in rules], "rules that give users access to phones")
    elif os.geteuid() == 0:
        verdict = Verdict("ok", [], "no rule, and none needed: this is root")
    else:
        verdict = Verdict(
            "failed",
            [],
            "no udev rule for phones: install the system package android-sdk-platform-tools-common",
        )
    return finding("udev_rule", verdict, ", ".join(map(str, rules)) or "no *android*.rules")


def _answers() -> bool:
    try:
        socket.create_connection(("127.0.0.1", ADB_SERVER_PORT), timeout=2).close()
    except OSError:
        return False
    return True


def _adb_server(answers: Callable[[], bool]) -> Finding:
    if answers():
        verdict = Verdict(
            "failed", True, "an adb server holds the phones on USB: end it with `adb kill-server`"
        )
    else:
        verdict = Verdict("ok", False, "no adb server runs; the farm can have the phones on USB")
    return finding("adb_server", verdict, f"127.0.0.1:{ADB_SERVER_PORT}", stable=False)


def _secrets(paths: FarmPaths) -> Finding:
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (paths.adb_key, paths.api_token, paths.database)
        if path.exists()
    }
    said = ", ".join(f"{name} {mode:04o}" for name, mode in modes.items()) or "none yet"
    if loose := [name for name, mode in modes.items() if mode & 0o077]:
        verdict = Verdict("failed", loose, f"others can read them: chmod 600 in {paths.home}")
    else:
        verdict = Verdict("ok", sorted(modes), "the farm's key, token and store are this user's alone")
    return finding("secrets", verdict, said)


def _disk(paths: FarmPaths) -> Finding:
    free = shutil.disk_usage(paths.home).free
    if free < _LEAST_FREE_BYTES:
        verdict = Verdict("failed", free, f"bytes free at {paths.home}; the store needs room: free 2 GiB")
    else:
        verdict = Verdict("ok", free, f"bytes free at {paths.home}")
    return finding("disk", verdict, f"{free >> 20} MiB", stable=False)
