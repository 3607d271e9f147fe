"""``mobifarm simulate``: run virtual phones and work their switches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="simulate",
    help="Virtual phones: real ADB, real Linux processes, modelled sensors.",
    no_args_is_help=True,
)

_Home = Annotated[
    Path | None, typer.Option("--home", help="Where phones live. [default: $MOBIFARM_HOME/virtual]")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _fail(message: str) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(2)


@app.command()
def run(
    count: Annotated[int, typer.Option(min=1, max=64, help="How many phones.")] = 1,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind of phone, or a file of `mobifarm doctor`; repeat it for several. [default: all]"
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65000, help="First phone's port; 0 takes free ones.")] = 0,
    home: _Home = None,
    unsandboxed: Annotated[bool, typer.Option("--unsandboxed", help="Do not use bubblewrap.")] = False,
    authorisation: Annotated[
        str, typer.Option(help="What the phone does with an unknown ADB key: accept, ask or deny.")
    ] = "accept",
    serial: Annotated[
        str, typer.Option(help="Give all phones this serial number. [default: each its own]")
    ] = "",
    usb: Annotated[
        bool,
        typer.Option("--usb", help="Be devices on USB (needs root and device controllers)."),
    ] = False,
    abi: Annotated[
        str,
        typer.Option(
            help="Processor: x86_64, or arm64-v8a (by qemu-aarch64 on a PC). [default: the computer's]"
        ),
    ] = "",
    npu: Annotated[
        bool,
        typer.Option(
            "--npu",
            help="Give Snapdragon phones their neural processor, in Qualcomm's emulator: a thousand times "
            "slower than the chip.",
        ),
    ] = False,
    as_json: _Json = False,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
) -> None:
    """Run phones in the foreground; Ctrl-C stops them."""
    import asyncio
    import logging

    from mobifarm.simulator.control import PhoneRecord
    from mobifarm.simulator.launcher import LaunchSettings, default_home, run_phones
    from mobifarm.simulator.phone import AUTHORISATIONS, PhoneError
    from mobifarm.simulator.profile import UnknownProfileError

    policy = next((known for known in AUTHORISATIONS if known == authorisation), None)
    if policy is None:
        raise _fail(f"--authorisation is accept, ask or deny, not {authorisation!r}")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)

    def show(record: PhoneRecord) -> None:
        text = record.to_json() if as_json else f"{record.name}  {record.serial}  {record.address}"
        print(text, flush=True)

    settings = LaunchSettings(
        home=(home or default_home()).resolve(),
        count=count,
        profiles=tuple(profile or ()),
        port=port,
        unsandboxed=unsandboxed,
        authorisation=policy,
        serial=serial,
        usb=usb,
        abi=abi,
        npu=npu,
        until_stdin_closes=until_stdin_closes,
    )
    try:
        asyncio.run(run_phones(settings, show))
    except (PhoneError, UnknownProfileError) as error:
        raise _fail(str(error)) from None


@app.command("list")
def list_phones(home: _Home = None, as_json: _Json = False) -> None:
    """Show the phones that run."""
    import json
    from dataclasses import asdict

    from mobifarm.simulator.launcher import default_home, running_phones

    records = running_phones((home or default_home()).resolve())
    if as_json:
        typer.echo(json.dumps([asdict(record) for record in records], indent=2))
        return
    for record in records:
        sandbox = "sandboxed" if record.sandboxed else "not sandboxed"
        typer.echo(f"{record.name}  {record.serial}  {record.address}  {record.profile}  {sandbox}")


@app.command()
def ctl(
    name: Annotated[str, typer.Argument(help="The phone's name.")],
    command: Annotated[
        str,
        typer.Argument(help="status, unplug, plug, hang, fill-disk, power-off, …; a wrong one lists all."),
    ],
    home: _Home = None,
) -> None:
    """Work a phone's switches; prints its status."""
    import json

    from mobifarm.simulator.control import COMMANDS, PhoneControl
    from mobifarm.simulator.launcher import default_home, running_phones
    from mobifarm.simulator.phone import PhoneError

    wanted = command.replace("-", "_")
    if wanted not in COMMANDS:
        raise _fail(f"unknown command {command!r}; choose one of: {', '.join(COMMANDS).replace('_', '-')}")
    folder = (home or default_home()).resolve()
    records = {record.name: record for record in running_phones(folder)}
    if name not in records:
        running = ", ".join(records) or "none"
        raise _fail(f"no phone called {name!r} runs below {folder} (running: {running})")
    try:
        status = PhoneControl(records[name].control).request(wanted)
    except PhoneError as error:
        raise _fail(str(error)) from None
    typer.echo(json.dumps(status, indent=2))


@app.command()
def profiles(as_json: _Json = False) -> None:
    """Show the kinds of phone that can be run."""
    import json

    from mobifarm.simulator.profile import load_profile, profile_names

    known = {name: load_profile(name) for name in profile_names()}
    if as_json:
        typer.echo(json.dumps({name: known[name].title for name in known}, indent=2))
        return
    for name, profile in known.items():
        typer.echo(f"{name}  {profile.title}, {profile.memory_gib} GiB")


if __name__ == "__main__":
    app()
