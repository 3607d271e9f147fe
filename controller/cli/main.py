"""The command ``mobifarm``.

The rooms ``workloads`` and ``simulator`` add their own commands through the entry point group
``mobifarm.commands``, so that no room imports across a wall. Exit codes follow the exception tree in
``mobifarm.controller.errors``, 70 where an exception was not foreseen; 130 after Ctrl-C.
"""

from __future__ import annotations

import errno
import sys
import traceback
from importlib.metadata import entry_points

import typer

from mobifarm import __version__
from mobifarm.controller.cli import (
    agent,
    cache,
    dashboards,
    demo,
    devices,
    doctor,
    edits,
    farm,
    hosts,
    jobs,
    npu_demo,
    page,
    replay,
    report,
    store,
    tokens,
    top,
    why,
)
from mobifarm.controller.errors import Bug, FarmError, HostError
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.plain_text import printable

app = typer.Typer(
    name="mobifarm",
    help="A device farm for knowledge editing of language models on phones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mobifarm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """Options before the command."""


def _assemble() -> None:
    app.command()(farm.up)
    app.command()(page.page)
    app.command()(top.top)
    app.command()(hosts.join)
    app.command()(hosts.hosts)
    app.command()(jobs.run)
    app.command()(jobs.jobs)
    app.command()(jobs.results)
    app.command()(report.report)
    app.command()(jobs.cancel)
    app.command()(why.why)
    app.command()(replay.replay)
    app.add_typer(agent.app, name="agent")
    app.add_typer(devices.app, name="devices")
    app.add_typer(edits.app, name="edits")
    app.add_typer(store.app, name="store")
    app.add_typer(cache.app, name="cache")
    app.add_typer(tokens.app, name="tokens")
    app.add_typer(dashboards.app, name="dashboards")
    app.command()(doctor.doctor)
    app.command()(demo.demo)
    app.command()(npu_demo.npu_demo)
    for entry in sorted(entry_points(group="mobifarm.commands"), key=lambda entry: entry.name):
        app.add_typer(entry.load(), name=entry.name)


def main() -> None:
    """Run the command line; a mistake ends in one sentence on stderr and an exit code, not in a traceback."""
    _assemble()
    try:
        app()
    except FarmError as error:
        message = f"{error}; {error.action}" if error.action else str(error)
        print(printable(f"error: {message}"), file=sys.stderr)
        sys.exit(error.exit_code)
    except WorkloadInputError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
            where = f"{error.filename}: " if error.filename else ""
            print(printable(f"error: {where}{error.strerror}"), file=sys.stderr)
            sys.exit(HostError.exit_code)
        # Nothing that a person could mend: whoever mends MobiFarm needs the traceback.
        print("error: this is a fault of MobiFarm: please report it with what follows", file=sys.stderr)
        print(printable(traceback.format_exc()), file=sys.stderr, end="")
        sys.exit(Bug.exit_code)
