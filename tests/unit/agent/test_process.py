"""An agent's process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobifarm.agent.process import processors

_SCRIPT = """
import os, pathlib, sys
from mobifarm.agent.process import run_agent

def runner(home):
    import numpy
    print(os.environ["OPENBLAS_NUM_THREADS"], len(os.listdir("/proc/self/task")))
    sys.exit()

run_agent(pathlib.Path(sys.argv[1]), runner, address=None)
"""


@pytest.mark.skipif(processors() == 1, reason="with one processor OpenBLAS starts no threads anyway")
@pytest.mark.parametrize(("given", "threads"), [(None, 1), ("2", 2)])
def test_numpy_has_no_threads_of_its_own_unless_they_are_asked_for(
    tmp_path: Path, given: str | None, threads: int
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if given:
        environment["OPENBLAS_NUM_THREADS"] = given
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path / "home")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout.split() == [str(threads), str(threads)], ended.stderr
