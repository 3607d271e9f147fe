"""``mobifarm join`` and ``mobifarm hosts``: machines with phones beside the farm's own."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from pathlib import Path
from typing import Annotated

import typer

from mobifarm.controller.cli.farm import (
    AdbServer,
    AdbServerAt,
    AllowReboot,
    Home,
    Usb,
    discovery_settings,
)
from mobifarm.controller.cli.output import ago, console, print_json, table
from mobifarm.controller.client import FarmClient
from mobifarm.controller.errors import UserError
from mobifarm.controller.paths import farm_paths


def join(
    head: Annotated[
        str, typer.Argument(help="ADDRESS[:PORT] as in `mobifarm up --accept-hosts` on the farm's machine.")
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(help="A copy of the farm's file join-token; the one in this folder by default."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="What this host is called in the farm; the machine's name by default.")
    ] = "",
    usb: Usb = True,
    adb_server: AdbServer = False,
    adb_server_at: AdbServerAt = None,
    allow_reboot: AllowReboot = False,
    home: Home = None,
) -> None:
    """Lend this machine's phones to a farm elsewhere and stay in the foreground; Ctrl-C takes them back."""
    discovery = discovery_settings(usb, adb_server, adb_server_at)
    paths = farm_paths(home)
    token_path = token_file or paths.join_token
    try:
        token = token_path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no token"
        raise UserError(
            f"the farm's token cannot be read from {token_path} ({reason}): copy the file join-token "
            "from the farm's folder and name it with --token-file"
        ) from None
    logging.basicConfig(
        filename=paths.log, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from mobifarm.controller.host.join import join as join_farm

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    join_farm(
        paths,
        head,
        token,
        name or socket.gethostname(),
        discovery=discovery,
        allow_reboot=allow_reboot,
        announce=typer.echo,
        stop=stop,
    )


def hosts(
    home: Home = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the machines with phones of the running farm: state and reason, versions, number of phones."""
    with FarmClient(farm_paths(home)) as client:
        rows = client.get("/api/v1/hosts")
    if as_json:
        print_json(rows)
        return
    console().print(
        table(
            "Hosts",
            ("host", "state", "since", "address", "phones", "connected", "versions", "reason"),
            [
                (
                    row["host"],
                    "the farm's own" if row["own"] else row["state"],
                    "–" if row["changed_at"] is None else ago(row["changed_at"]),
                    row["address"] or "–",
                    row["phones"],
                    row["connected"],
                    ", ".join(f"{name} {version}" for name, version in row["versions"].items()),
                    row["reason"] or "–",
                )
                for row in rows
            ],
            sentences=["versions", "reason"],
            last=["connected", "since", "phones", "address"],
        )
    )
