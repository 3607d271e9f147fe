"""The phone's properties, as ``getprop`` tells them."""

from __future__ import annotations

import re
import shutil
import subprocess

_DEADLINE_S = 5.0
_ENTRY = re.compile(r"^\[([^\]\n]+)\]: \[(.*?)\]$", re.MULTILINE | re.DOTALL)


def parse_properties(text: str) -> dict[str, str]:
    """Read ``[name]: [value]`` entries; values may span lines, empty ones are left out."""
    return {name: value for name, value in _ENTRY.findall(text) if value}


def read_properties() -> dict[str, str]:
    """Ask the phone; empty where there is no ``getprop``, where it fails or hangs."""
    command = shutil.which("getprop")
    if command is None:
        return {}
    try:
        answer = subprocess.run(
            [command], capture_output=True, stdin=subprocess.DEVNULL, timeout=_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_properties(answer.stdout.decode("utf-8", "replace"))
