"""``mobifarm doctor``: what this computer and its phones can do, found out and not assumed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mobifarm.controller.cli.farm import Home
from mobifarm.controller.cli.output import console, print_json, table
from mobifarm.controller.client import LONG_DEADLINE_S, FarmClient
from mobifarm.controller.core.views import DeviceView
from mobifarm.controller.errors import FarmError, UserError
from mobifarm.controller.paths import FarmPaths, farm_paths
from mobifarm.controller.store.choose import has_store, open_reader
from mobifarm.workloads.plain_text import printable

_ADDRESS = re.compile(r"tcp:\S+:\d+|usb:[\d.-]+")


def doctor(
    phone: Annotated[
        str | None,
        typer.Argument(
            help="Serial number, or place (tcp:…, usb:… or HOST/…). [default: this computer and all]"
        ),
    ] = None,
    home: Home = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the profiles. [default: in the farm's folder]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Probe this computer and its phones, with or without a running farm.

    Writes a profile of each phone, which `mobifarm simulate run --profile FILE` makes a virtual phone of. A
    phone that does an edit is not disturbed.
    """
    paths = farm_paths(home)
    report: dict[str, Any] = {"computer": [], "phones": [], "problems": []}
    if phone is None:
        from mobifarm.controller.doctor.computer import examine_computer

        report["computer"] = [asdict(finding) for finding in examine_computer(paths)]
    folder = output or paths.home / "profiles"
    for device_id in _targets(phone, paths):
        try:
            found = _through_the_farm(device_id, paths) or _by_an_own_link(device_id, paths)
        except FarmError as error:
            if phone is not None:
                raise
            report["problems"].append({"device_id": device_id, "problem": str(error)})
            continue
        written = {phone["profile"] for phone in report["phones"]}
        report["phones"].append({**found, "profile": str(_write(folder, found, written))})
    if as_json:
        print_json(report)
    else:
        _show(report)


def _targets(phone: str | None, paths: FarmPaths) -> list[str]:
    """Ids of the phones to examine: addresses, behind "HOST/" where a joined host has the phone."""
    from mobifarm.controller.transport.usb import list_usb

    rows: list[DeviceView] = []
    if has_store(paths):
        with open_reader(paths) as reader:
            rows = [
                row for row in reader.devices() if row.state != "retired" and _ADDRESS.fullmatch(row.address)
            ]
    known = {row.device_id: row.serial for row in rows}  # two hosts may have phones of one address
    known |= {found.address: found.serial for found in list_usb().phones if found.address not in known}
    if phone is None:
        return list(known)
    if phone in known or _ADDRESS.fullmatch(phone):
        return [phone]
    matching = [device_id for device_id, serial in known.items() if serial == phone]
    lost = {row.device_id for row in rows if row.state == "lost"}  # where the phone was, perhaps
    matching = [device_id for device_id in matching if device_id not in lost] or matching
    if not matching:
        raise UserError(
            f"no phone that the farm knows or that is on USB has the place or the serial number {phone}: "
            "`mobifarm devices` lists the farm's, `mobifarm devices usb` those on USB"
        )
    if len(matching) > 1:
        places = " or ".join(matching)
        raise UserError(f"several phones have the serial number {phone}: name one by its place, {places}")
    return matching


def _through_the_farm(device_id: str, paths: FarmPaths) -> dict[str, Any] | None:
    """None where no farm runs, or it does not have this phone.

    Raises:
        UserError: no farm runs, and the phone is at a joined host, which only the farm reaches.
    """
    try:
        with open_reader(paths) as reader:
            next(row for row in reader.devices() if row.device_id == device_id)
        client = FarmClient(paths)
        client.get("/api/v1/health")
    except (FarmError, StopIteration):  # also where a farm that was killed left its address behind
        if _ADDRESS.fullmatch(device_id):
            return None
        raise UserError(
            f"the phone {device_id} is reached through its host, and no farm is running here: start it with "
            "`mobifarm up --accept-hosts ADDRESS`"
        ) from None
    with client:
        found: dict[str, Any] = client.post(f"/api/v1/devices/{device_id}/doctor", timeout_s=LONG_DEADLINE_S)
    return found


def _by_an_own_link(address: str, paths: FarmPaths) -> dict[str, Any]:
    from mobifarm.controller.doctor.phone import examine
    from mobifarm.controller.doctor.seed import document
    from mobifarm.controller.transport.direct import connect_direct

    def say() -> None:
        typer.echo(f"{address}: unlock the phone and accept 'Allow USB debugging?'", err=True)

    with closing(connect_direct(address, key_path=paths.adb_key, on_authorisation=say)) as link:
        serial = link.shell("getprop ro.serialno").stdout.strip()[:100]
        findings = examine(link)
    return document(address, serial, time.time(), findings)


def _write(folder: Path, found: dict[str, Any], written: set[str]) -> Path:
    """``written``: the files of other phones, perhaps with the same serial number."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{_name(found['serial'] or found['device_id'])}.json"
    if str(path) in written:
        path = folder / f"{_name(found['serial'])}-{_name(found['device_id'])}.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:60].strip("-") or "phone"


def _show(report: dict[str, Any]) -> None:
    if report["computer"]:
        console().print(_findings("This computer", report["computer"]))
    for phone in report["phones"]:
        console().print(_findings(f"{phone['device_id']}  {phone['serial']}", phone["findings"]))
        typer.echo(f"profile: {phone['profile']}")
    for problem in report["problems"]:
        typer.echo(printable(f"{problem['device_id']} was not examined: {problem['problem']}"))


def _findings(title: str, findings: Sequence[dict[str, Any]]) -> Any:
    rows = [
        (finding["probe"], finding["status"], _short(finding["value"]), finding["meaning"])
        for finding in findings
    ]
    return table(title, ("probe", "", "value", "what it means"), rows)


def _short(value: Any) -> str:
    """The value in one cell; the JSON has all of it."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list() if value and isinstance(value[0], dict):
            text = "; ".join(_short(item) for item in value)
        case list():
            text = ", ".join(str(item) for item in value) or "none"
        case dict():
            text = ", ".join(f"{name} {_short(item)}" for name, item in value.items())
        case _:
            text = str(value)
    return text if len(text) <= 120 else text[:119] + "…"
