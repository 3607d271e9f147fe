"""``mobifarm devices``: what the farm knows of its phones, and adding, releasing and forgetting them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live

from mobifarm.controller.cli.farm import Home, SubcommandHome
from mobifarm.controller.cli.output import ago, console, notice_lines, print_json, table
from mobifarm.controller.client import LONG_DEADLINE_S, FarmClient
from mobifarm.controller.core.views import DeviceView
from mobifarm.controller.errors import FarmError
from mobifarm.controller.paths import FarmPaths, farm_paths
from mobifarm.controller.store.choose import open_reader
from mobifarm.workloads.fitted_table import FittedTable
from mobifarm.workloads.plain_text import printable

WATCH_PERIOD_S = 0.5

app = typer.Typer(help="List the farm's phones; add, tag, drain, quarantine, release or forget one.")


@app.callback(invoke_without_command=True)
def devices(
    context: typer.Context,
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the list on screen until Ctrl-C.")] = False,
) -> None:
    """List the phones, and the computer where it runs baselines, with their states and the reasons."""
    if context.invoked_subcommand is not None:
        context.obj = home
        return
    paths = farm_paths(home)
    with open_reader(paths) as reader:
        if watch and not as_json:
            with Live(console=console(), auto_refresh=False) as screen:
                while True:
                    live = _live(paths)
                    screen.update(
                        Group(_table(reader.devices(), live), *notice_lines(live["notices"], live["hosts"])),
                        refresh=True,
                    )
                    time.sleep(WATCH_PERIOD_S)
        rows, live = reader.devices(), _live(paths)
        if as_json:
            print_json([{**asdict(row), "live": live["devices"].get(row.device_id)} for row in rows])
        else:
            console().print(Group(_table(rows, live), *notice_lines(live["notices"], live["hosts"])))


@app.command()
def add(
    address: str,
    host: Annotated[str, typer.Option(help="The joined host that it is connected to.")] = "",
    home: SubcommandHome = None,
) -> None:
    """Add the phone at tcp:HOST:PORT or usb:BUS-PORT.PORT, or this computer, to the running farm."""
    with FarmClient(farm_paths(home)) as client:
        added = client.post("/api/v1/devices", {"address": address, **({"host": host} if host else {})})
    typer.echo(f"added {added['device_id']}; `mobifarm devices --watch` shows it getting ready")


@app.command()
def release(device_id: str, home: SubcommandHome = None) -> None:
    """End a phone's quarantine."""
    with FarmClient(farm_paths(home)) as client:
        client.post(f"/api/v1/devices/{device_id}/release")
    typer.echo(f"released {device_id}")


@app.command()
def drain(
    device_id: str,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks at the list.")] = "",
    home: SubcommandHome = None,
) -> None:
    """Let a phone finish what it does and give it nothing new, until `undrain`; restarts do not end it."""
    with FarmClient(farm_paths(home)) as client:
        done = client.post(f"/api/v1/devices/{device_id}/drain", {"reason": reason})
    busy = "; it finishes its edit" if done["state"] == "leased" else ""
    typer.echo(f"drained {device_id}: it gets nothing new{busy}")


@app.command()
def undrain(device_id: str, home: SubcommandHome = None) -> None:
    """Give a drained phone work again."""
    with FarmClient(farm_paths(home)) as client:
        client.post(f"/api/v1/devices/{device_id}/undrain")
    typer.echo(f"undrained {device_id}")


@app.command()
def identify(device_id: str, home: SubcommandHome = None) -> None:
    """Have an idle phone blink with its screen, so that you find it on the shelf."""
    with FarmClient(farm_paths(home)) as client:
        client.post(f"/api/v1/devices/{device_id}/identify", timeout_s=LONG_DEADLINE_S)
    typer.echo(f"{device_id} blinked with its screen")


@app.command()
def quarantine(
    device_id: str,
    reason: Annotated[str, typer.Option(help="Why; it is shown in the list.")],
    home: SubcommandHome = None,
) -> None:
    """Give a phone no work until a person releases it; no health check ends it."""
    with FarmClient(farm_paths(home)) as client:
        client.post(f"/api/v1/devices/{device_id}/quarantine", {"reason": reason})
    typer.echo(f"quarantined {device_id}; `mobifarm devices release {device_id}` ends it")


@app.command()
def forget(
    device_id: str,
    keep_edits: Annotated[
        bool, typer.Option("--keep-edits", help="Leave the edits that the phone keeps on it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    home: SubcommandHome = None,
) -> None:
    """Take a phone out of the farm, and what the farm left on it off the phone."""
    query = "?keep_edits=true" if keep_edits else ""
    with FarmClient(farm_paths(home)) as client:
        done = client.delete(f"/api/v1/devices/{device_id}{query}", timeout_s=LONG_DEADLINE_S)
    if as_json:
        print_json(done)
        return
    typer.echo(f"forgot {device_id}")
    for words in done["removed"]:
        typer.echo(printable(f"  removed from the phone: {words}"))
    for words in done["left"]:
        typer.echo(printable(f"  left on the phone: {words}"))
    if done["freed_bytes"]:
        typer.echo(f"  freed {done['freed_bytes'] >> 20} MiB")
    if problem := done.get("problem"):
        typer.echo(printable(f"  the farm's files stay on the phone, it could not be cleaned: {problem}"))


@app.command()
def tag(
    device_id: str,
    tags: Annotated[list[str] | None, typer.Argument(help="Tags to add; none: only print them.")] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="A tag to take away; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    home: SubcommandHome = None,
) -> None:
    """Tag a phone, so that evaluations can ask for it: `where: ["tag == TAG"]`."""
    with FarmClient(farm_paths(home)) as client:
        answer = client.post(f"/api/v1/devices/{device_id}/tags", {"add": tags or [], "remove": remove or []})
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"{device_id}: {', '.join(answer['tags']) or 'no tags'}")


@app.command()
def usb(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the phones on this machine's USB buses with the addresses to add them by."""
    from mobifarm.controller.discovery.usb import NO_BUS, USB_FOLDER
    from mobifarm.controller.transport.usb import list_usb

    scan = list_usb()
    if not scan.phones and not scan.unavailable_reason and not USB_FOLDER.exists():
        scan = replace(
            scan, unavailable_reason=f"{NO_BUS.reason}: in a container or a virtual machine, pass it through"
        )
    if as_json:
        print_json({"phones": scan.phones, "unavailable_reason": scan.unavailable_reason})
    elif scan.phones:
        console().print(
            table(
                "On USB",
                ("address", "serial"),
                [(phone.address, phone.serial or "–") for phone in scan.phones],
            )
        )
    else:
        typer.echo(scan.unavailable_reason or "no phone with USB debugging is on this machine's USB buses")


def _live(paths: FarmPaths) -> Mapping[str, Any]:
    """What the running farm hears from its phones now; that nothing is heard where no farm runs.

    ``hosts``: how many machines the notices may be about.
    """
    try:
        with FarmClient(paths) as client:
            found = client.get("/api/v1/live")
            # Where nothing is to be said, nobody asks how many machines it could be about.
            hosts = len(client.get("/api/v1/hosts")) if found["notices"] else 0
            return {**found, "hosts": hosts}
    except FarmError as error:
        return {
            "devices": {},
            "hosts": 0,
            "notices": [{"source": "this is how the farm was left", "reason": str(error), "action": ""}],
        }


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def _table(rows: list[DeviceView], live: Mapping[str, Any]) -> FittedTable:
    shown = [row for row in rows if row.state != "retired"]
    spare = ["host"] if len({row.host for row in shown if row.host}) < 2 else []
    spare += [] if any(row.tags for row in shown) else ["tags"]
    return table(
        "Devices",
        (
            "device",
            "model",
            "serial",
            "host",
            "tags",
            "state",
            "since",
            "ready after",
            "what it does or needs",
        ),
        [
            (
                row.device_id,
                row.model or "–",
                row.serial or "–",
                row.host or "–",
                ", ".join(row.tags or ()) or "–",
                row.state,
                ago(row.changed_at),
                "–" if row.ready_after_s is None else f"{row.ready_after_s:.1f} s",
                _activity(live["devices"].get(row.device_id))
                or _joined(row.reason, _time_left(live["devices"].get(row.device_id)), row.action)
                or "–",
            )
            for row in shown
        ],
        sentences=["what it does or needs"],
        spare=[*spare, "ready after"],
        last=["serial", "tags", "since", "host", "model"],
    )


def _time_left(live: Mapping[str, Any] | None) -> str:
    until = live and live["settling_until"]
    left_s = until - time.time() if until else 0
    return f"{left_s:.0f} s left" if left_s > 0 else ""


def _activity(live: Mapping[str, Any] | None) -> str:
    if not live:
        return ""
    if transfer := live["transfer"]:
        total = max(transfer["bytes_total"], 1)
        return f"receiving {transfer['what']}: {100 * transfer['bytes_done'] // total} %"
    if progress := live["progress"]:
        phase = progress["phase"].replace("_", " ")
        if progress["target_probability"] is None:
            return str(phase)
        return f"{phase}: step {progress['step']}, p(target) {progress['target_probability']:.2f}"
    return ""
