"""An agent's process from its folder to its end, whatever edits in it. Importing this module is light."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mobifarm.agent.home import AgentHome
from mobifarm.agent.memory import limit_heap

if TYPE_CHECKING:
    from mobifarm.agent.runner import EditRunner

_STOP_S = 5.0


def processors() -> int:
    """Processors that the agent may use."""
    return len(os.sched_getaffinity(0))


def run_agent(
    root: Path,
    make_runner: Callable[[AgentHome], EditRunner],
    *,
    address: str | None,
    sys_root: Path = Path("/"),
    metrics_port: int | None = None,
) -> None:
    """Serve in the folder ``root`` until SIGTERM or SIGINT; ends the process where an edit does not stop.

    Args:
        root: the agent's folder.
        make_runner: called once the folder is taken; heavy imports belong there.
        address: where to listen; None takes an abstract socket named after the phone.
        sys_root: folder that holds ``sys`` and ``proc``.
        metrics_port: of the agent's own metrics on loopback; None for none.

    Raises:
        HomeError, AddressError: it cannot run there.
        OSError: its files cannot be used.
    """
    os.umask(0o077)
    limit_heap()  # before there are threads, each of which would get a heap of its own
    # Read by OpenBLAS when numpy is imported. Its threads spin while they wait for each other: for arrays as
    # small as the editor's that gains nothing, and where others want the processors it took two fifths of an
    # edit's time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    home = AgentHome(root.absolute())
    home.take()
    _log_to(home.log)
    tempfile.tempdir = str(home.temporary)
    # A pulled cable hangs up the shell that started the agent; the agent's work goes on.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from mobifarm.agent.serving import Settings, serve

    ended = asyncio.run(serve(home, Settings(address, sys_root, _STOP_S, metrics_port), make_runner(home)))
    home.release()
    logging.shutdown()
    if not ended:
        # The editor's thread is deep in native code and would keep the interpreter for as long as it likes.
        sys.stdout.flush()
        os._exit(0)


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=1_000_000, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
