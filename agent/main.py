"""``mobifarm-agent``: the command that runs on the phone."""

from __future__ import annotations

import argparse
import asyncio
import logging
import logging.handlers
import os
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mobifarm
from mobifarm.agent.errors import AgentError

USER_MISTAKE = 2
_ADDRESS = re.compile(r"unix-abstract:[\w.-]{1,100}\Z|unix:/.+|127\.0\.0\.1:\d{1,5}\Z")
_LONGEST_SOCKET_PATH = 107
_STOP_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    # Read by gRPC when it is imported; it would log a line for every connection that ends.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        return _serve(options)
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
    return parser


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


def _serve(options: argparse.Namespace) -> int:
    from mobifarm.agent.home import AgentHome

    os.umask(0o077)
    home = AgentHome(options.home.absolute())
    home.take()
    _log_to(home.log)
    tempfile.tempdir = str(home.temporary)
    # A pulled cable hangs up the shell that started the agent; the agent's work goes on.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from mobifarm.agent.model_runner import ModelRunner
    from mobifarm.agent.serving import Settings, processors, serve

    runner = ModelRunner(home.bundles, threads=options.threads or processors())
    ended = asyncio.run(serve(home, Settings(options.address, options.sys_root, _STOP_S), runner))
    home.release()
    logging.shutdown()
    if not ended:
        # The editor's thread is deep in native code and would keep the interpreter for as long as it likes.
        sys.stdout.flush()
        os._exit(0)
    return 0


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=1_000_000, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
