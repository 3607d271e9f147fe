"""``mobifarm-agent``: the command that runs on the phone."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mobifarm
from mobifarm.agent.errors import AgentError
from mobifarm.agent.home import AgentHome
from mobifarm.agent.process import processors, run_agent

if TYPE_CHECKING:
    from mobifarm.agent.runner import EditRunner

USER_MISTAKE = 2
_ADDRESS = re.compile(r"unix-abstract:[\w.-]{1,100}\Z|unix:/.+|127\.0\.0\.1:\d{1,5}\Z")
_LONGEST_SOCKET_PATH = 107


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    # Read by gRPC when it is imported; it would log a line for every connection that ends.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        _serve(options)
        return 0
    except AgentError as error:
        print(f"mobifarm-agent: {error}", file=sys.stderr)
        return USER_MISTAKE
    except OSError as error:
        print(f"mobifarm-agent: the agent cannot use its files: {error}", file=sys.stderr)
        return USER_MISTAKE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mobifarm-agent", description="The part of MobiFarm that runs on a phone.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"mobifarm-agent {mobifarm.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="listen for the farm until SIGTERM", allow_abbrev=False)
    serve.add_argument(
        "--home",
        type=Path,
        default=Path(os.environ.get("ANDROID_DATA", "/data")) / "local/tmp/mobifarm",
        help="folder of the agent (default: %(default)s)",
    )
    serve.add_argument(
        "--address",
        type=_address,
        help="unix-abstract:NAME, unix:/PATH or 127.0.0.1:PORT (default: an abstract socket of this phone)",
    )
    serve.add_argument(
        "--sys-root", type=Path, default=Path("/"), help="where sys and proc are found (default: %(default)s)"
    )
    serve.add_argument(
        "--threads", type=_threads, help="processor threads of the editor (default: every processor)"
    )
    serve.add_argument(
        "--metrics-port",
        type=_port,
        metavar="PORT",
        help="serve the agent's own Prometheus metrics on 127.0.0.1, 0 takes a free port (default: nowhere)",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give 0 to 65535")
    return int(text)


def _address(text: str) -> str:
    if not _ADDRESS.match(text) or (text.startswith("127.") and int(text.rpartition(":")[2]) > 65_535):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no address that the agent may listen on: "
            "give unix-abstract:NAME, unix:/PATH or 127.0.0.1:PORT"
        )
    if text.startswith("unix:/") and len(os.fsencode(text[5:])) > _LONGEST_SOCKET_PATH:
        raise argparse.ArgumentTypeError(
            f"the socket's path is longer than {_LONGEST_SOCKET_PATH} bytes, which the kernel refuses: "
            "give a shorter one"
        )
    return text


def _threads(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of threads: give 1 to 64")
    return int(text)


def _serve(options: argparse.Namespace) -> None:
    def runner(home: AgentHome) -> EditRunner:
        from mobifarm.agent.accelerator import Accelerator
        from mobifarm.agent.model_runner import ModelRunner

        accelerator = Accelerator(home.root)
        return ModelRunner(home.bundles, threads=options.threads or processors(), accelerator=accelerator)

    run_agent(
        options.home,
        runner,
        address=options.address,
        sys_root=options.sys_root,
        metrics_port=options.metrics_port,
    )


if __name__ == "__main__":
    sys.exit(main())
