"""Takes what the farm left on a phone away again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from mobifarm.controller.provisioning.agent import stop_agent
from mobifarm.controller.provisioning.phone import find_home, run
from mobifarm.controller.transport.interface import DeviceTransport


@dataclass(frozen=True, slots=True)
class Removal:
    """What was on the phone: each thing in words, what was left there, and the bytes that are free now."""

    removed: tuple[str, ...]
    left: tuple[str, ...]
    freed_bytes: int


def remove_from_phone(transport: DeviceTransport, *, keep_edits: bool) -> Removal:
    """Stop the agent and delete its folder; the phone's kept edits stay only where that is asked for.

    Raises:
        DeviceError: the phone refuses, or the link went away; a repetition removes what is left.
    """
    home = find_home(transport)
    place = shlex.quote(home)
    ran = stop_agent(transport, home)
    counts = _counts(transport, place)
    keeps = keep_edits and counts["edits"] > 0
    before = _kibibytes(transport, place)
    if keeps:
        script = (
            # Of npu the compiled graphs; a worker's socket and the folder beside it, where it goes on to
            # write, are not the farm's.
            f"cd {place} && rm -rf -- runtime bundles && for graphs in npu/*/; do "
            'case "$graphs" in npu/worker.sock*) ;; *) rm -rf -- "$graphs" ;; esac; done && cd agent && '
            'for entry in * .[!.]*; do [ "$entry" = edits ] || rm -rf -- "$entry"; done'
        )
    else:
        script = f"rm -rf -- {place}"
    run(transport, script, "remove the farm's files", timeout_s=120)
    after = _kibibytes(transport, place) if keeps else 0
    edits = _plural(counts["edits"], "file") + " of kept edits"
    removed = [
        *(["the running agent"] if ran else []),
        *([_plural(counts["runtime"], "runtime archive")] if counts["runtime"] else []),
        *([_plural(counts["bundles"], "model bundle")] if counts["bundles"] else []),
        *(["the agent's folder"] if counts["agent"] else []),
        *([edits] if counts["edits"] and not keeps else []),
    ]
    return Removal(
        tuple(removed), (f"{edits} in {home}/agent/edits",) if keeps else (), (before - after) << 10
    )


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _counts(transport: DeviceTransport, place: str) -> dict[str, int]:
    names = {"runtime": "runtime", "bundles": "bundles", "agent": "agent", "edits": "agent/edits"}
    script = f'cd {place}; for f in {" ".join(names.values())}; do ls -- "$f" 2>/dev/null | wc -l; done'
    lines = run(transport, script, "count its files").stdout.split()
    return {name: int(line) if line.isdigit() else 0 for name, line in zip(names, lines, strict=False)}


def _kibibytes(transport: DeviceTransport, place: str) -> int:
    word = run(transport, f"du -s -k -- {place}", "measure its files").stdout.split(maxsplit=1)[:1]
    return int(word[0]) if word and word[0].isdigit() else 0
