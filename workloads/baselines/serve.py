"""``python -m mobifarm.workloads.baselines.serve``: an agent on the farm's computer that edits with torch.

It speaks the phones' protocol and ends when its standard input does: with the farm, however that ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobifarm.agent.errors import AgentError
from mobifarm.agent.home import AgentHome
from mobifarm.agent.process import processors, run_agent

if TYPE_CHECKING:
    from mobifarm.agent.runner import EditRunner

USER_MISTAKE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mobifarm.workloads.baselines.serve", allow_abbrev=False)
    parser.add_argument("--home", type=Path, required=True, help="folder of the agent")
    parser.add_argument("--address", required=True, help="unix:/PATH or 127.0.0.1:PORT")
    parser.add_argument("--threads", type=int, default=processors(), help="processor threads of an edit")
    options = parser.parse_args(arguments)
    # Read by gRPC when it is imported; it would log a line for every connection that ends.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Read by OpenMP when torch is imported. Threads that spin while they wait for each other make an edit ten
    # times slower where others want the processors too, as virtual phones do.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    def runner(home: AgentHome) -> EditRunner:
        from mobifarm.workloads.baselines.runner import BaselineRunner

        return BaselineRunner(home.bundles, threads=options.threads)

    threading.Thread(target=_end_with_the_farm, name="farm", daemon=True).start()
    try:
        run_agent(options.home, runner, address=options.address)
    except (AgentError, OSError) as error:
        print(f"the computer's agent cannot run: {error}", file=sys.stderr)
        return USER_MISTAKE
    return 0


def _end_with_the_farm() -> None:
    # Not sys.stdin: its lock, held here, would abort the interpreter at its end.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
