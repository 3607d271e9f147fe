"""``mobifarm up``."""

from __future__ import annotations

import logging
import math
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mobifarm.controller.discovery.settings import DiscoverySettings
from mobifarm.controller.errors import UserError
from mobifarm.controller.paths import farm_paths

DEFAULT_ADB_SERVER = ("127.0.0.1", 5037)

_HOME_HELP = "The farm's folder; $MOBIFARM_HOME or ~/.local/state/mobifarm by default."


def _own_or_the_groups(context: typer.Context, own: Path | None) -> Path | None:
    """--home after the subcommand, else the one before it, which the group left for its subcommands."""
    found: Path | None = own or context.obj
    return found


Home = Annotated[Path | None, typer.Option("--home", help=_HOME_HELP)]
SubcommandHome = Annotated[Path | None, typer.Option("--home", help=_HOME_HELP, callback=_own_or_the_groups)]

# Options of both `up` and `join`: where this machine looks for phones, and what may be done to them.
Usb = Annotated[
    bool, typer.Option("--usb/--no-usb", help="Add phones that are plugged in over USB by themselves.")
]
AdbServer = Annotated[
    bool,
    typer.Option(
        "--adb-server", help="Reach phones through the adb server that runs here, not over USB itself."
    ),
]
AdbServerAt = Annotated[
    str | None,
    typer.Option("--adb-server-at", metavar="HOST:PORT", help="Like --adb-server, for one elsewhere."),
]
AllowReboot = Annotated[
    bool, typer.Option("--allow-reboot", help="Reboot a phone in trouble that nothing else helps.")
]


def positive_seconds(value: float) -> float:
    """Refuses what no duration is, as a callback of an option."""
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is no duration: give seconds above 0")
    return value


def up(
    home: Home = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            help="Add the phone at tcp:HOST:PORT or usb:BUS-PORT.PORT, or this `computer`; repeatable.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port of the HTTP API on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 0,
    bind: Annotated[
        str | None, typer.Option(help="IP:PORT where the HTTP API answers other machines as well.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate for --bind.", exists=True, dir_okay=False)
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="PEM file of its private key.", exists=True, dir_okay=False)
    ] = None,
    without_tls: Annotated[
        bool, typer.Option("--without-tls", help="Let --bind speak in the clear, tokens included.")
    ] = False,
    lost_grace: Annotated[
        float,
        typer.Option(
            help="Seconds that an edit waits for its unplugged phone before another gets it.",
            callback=positive_seconds,
        ),
    ] = 20.0,
    attempt_limit: Annotated[
        float,
        typer.Option(
            help="Seconds that one attempt may take; the queue does not count.", callback=positive_seconds
        ),
    ] = 900.0,
    usb: Usb = True,
    adb_server: AdbServer = False,
    adb_server_at: AdbServerAt = None,
    policy: Annotated[
        str, typer.Option(help="Who goes first: fifo, fair-share, shortest-queue or thermal.")
    ] = "fifo",
    allow_reboot: AllowReboot = False,
    accept_hosts: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS[:PORT]",
            help="Let other machines join at this machine's address. Ray then listens on the network.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="postgresql://…",
            help="Keep the log in this database from the first start on, not in a file.",
        ),
    ] = None,
) -> None:
    """Start the farm and stay in the foreground; Ctrl-C stops it, and `up` again takes up where it was."""
    discovery = discovery_settings(usb, adb_server, adb_server_at)
    paths = farm_paths(home)
    logging.basicConfig(
        filename=paths.log, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from mobifarm.controller.core.due import LeaseSettings
    from mobifarm.controller.core.policies import policy_named
    from mobifarm.controller.farm.serve import public_address, serve

    public = public_address(bind, certificate, key, without_tls)

    policy_named(policy)  # a wrong name is told before anything starts
    typer.echo(f"starting the farm in {paths.home} …", err=True)
    serve(
        paths,
        devices=device or [],
        port=port,
        public=public,
        settings=LeaseSettings(lost_grace_s=lost_grace, attempt_limit_s=attempt_limit),
        policy=policy,
        allow_reboot=allow_reboot,
        announce=partial(_announce, bind if public else None, "https" if certificate else "http"),
        discovery=discovery,
        accept_hosts=accept_hosts,
        store_url=store,
    )


def page_address(url: str, key: str) -> str:
    """Where the live page opens once with this key; a browser sends nobody what stands after the #."""
    return f"{url}/#key={key}"


def _announce(bind: str | None, scheme: str, url: str, key: str) -> None:
    typer.echo(f"ready {url}")
    if bind:
        typer.echo(f"other machines reach it at {scheme}://{bind} with a token of `mobifarm tokens create`")
    if sys.stdout.isatty():  # never into a log: whoever has the address is an operator
        typer.echo(f"watch it live at {page_address(url, key)}")
        typer.echo("(opens once; `mobifarm page` prints a new address)")
    else:
        typer.echo("`mobifarm page` prints the address of the live page")


def discovery_settings(usb: bool, adb_server: bool, adb_server_at: str | None) -> DiscoverySettings:
    """What the options say about where to look for phones. Raises UserError."""
    server = parse_adb_server(adb_server_at) if adb_server_at else DEFAULT_ADB_SERVER if adb_server else None
    return DiscoverySettings(usb=usb, adb_server=server)


def parse_adb_server(text: str) -> tuple[str, int]:
    """HOST:PORT.

    Raises:
        UserError: it is something else.
    """
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"{text!r} is no adb server: write --adb-server-at HOST:PORT, e.g. 127.0.0.1:5037")
    return host, int(port)
