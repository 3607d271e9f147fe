"""Runs the programs that download and unpack; each has a deadline, and a failure is one sentence."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mobifarm.controller.errors import HostError


class DownloadError(HostError):
    """Something cannot be had from where others keep it: the network, or they have it no more."""


Report = Callable[[str], None]
"""Called with what is being done, in words."""

_TROUBLE: Final = re.compile(r"^(?:E|Err|W|ERROR|error)(?::\d+)?[: ]\s*(.+)$", re.MULTILINE)


def run_command(
    command: Sequence[str | Path],
    what: str,
    deadline_s: float,
    folder: Path | None = None,
    failure: type[HostError] = HostError,
) -> str:
    """What a command writes to its standard output.

    Args:
        command: program and arguments.
        what: what is done, after "could not".
        deadline_s: until it is ended.
        folder: where it runs.
        failure: what is raised in these cases.

    Raises:
        HostError: it is missing, failed, or did not end in time.
    """
    try:
        outcome = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline_s,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError as error:
        raise failure(f"could not {what}: {command[0]} is missing on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise failure(f"could not {what} within {deadline_s:.0f} s; retry") from error
    if outcome.returncode != 0:
        raise failure(f"could not {what}: {last_trouble(outcome.stderr + outcome.stdout)}")
    return outcome.stdout


def last_trouble(text: str) -> str:
    """The last line in which apt or pip complains, else the last line."""
    said = _TROUBLE.findall(text) or text.strip().splitlines()
    return said[-1].strip()[:300] if said else "no message"
