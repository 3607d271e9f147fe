"""Examines one phone over an open link. Blocks; every probe has a deadline, and so has the whole."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Final

from mobifarm.controller.doctor.finding import Finding, ShellProbe, Verdict, cut, finding
from mobifarm.controller.doctor.probes import SHELL_PROBES
from mobifarm.controller.errors import DeviceError
from mobifarm.controller.transport.interface import DeviceTransport

DEADLINE_S: Final = 150.0
THROUGHPUT_BYTES: Final = 8 << 20
ROUND_TRIPS: Final = 15
_SYS_ROOT: Final = 'S="${MOBIFARM_SYS_ROOT:-}"; '
_FILE: Final = "/data/local/tmp/.mobifarm-doctor-file"

Clock = Callable[[], float]


def examine(link: DeviceTransport, clock: Clock = time.monotonic) -> list[Finding]:
    """Every finding, in a fixed order; a probe that fails or hangs says so and hinders no other."""
    until = clock() + DEADLINE_S
    probes: list[tuple[str, Callable[[], list[Finding]]]] = [
        (probe.name, lambda probe=probe: [_ask(link, probe)])  # type: ignore[misc]
        for probe in SHELL_PROBES
    ]
    probes += [
        ("abstract_socket", lambda: [_abstract_socket(link)]),
        ("adb_features", lambda: [_features(link)]),
        ("round_trip", lambda: [_round_trip(link, clock)]),
        ("push", lambda: _throughput(link, clock)),
    ]
    found: list[Finding] = []
    for name, probe in probes:
        if link.loss_reason:
            found.append(_unknown(name, f"the link was lost: {link.loss_reason}"))
        elif clock() > until:
            found.append(_unknown(name, f"not asked: {DEADLINE_S:g} s are over"))
        else:
            try:
                found += probe()
            except DeviceError as error:
                found.append(_unknown(name, str(error)))
    return found


def _unknown(name: str, why: str) -> Finding:
    return finding(name, Verdict("unknown", None, cut(why)), why, stable=False)


def _ask(link: DeviceTransport, probe: ShellProbe) -> Finding:
    result = link.shell(_SYS_ROOT + probe.script, probe.deadline_s)
    said = "\n".join(filter(None, (result.stdout.strip(), result.stderr.strip())))
    return finding(
        probe.name, probe.parse(result), said or f"exit code {result.exit_code}", stable=probe.stable
    )


def _abstract_socket(link: DeviceTransport) -> Finding:
    script = 'cat "${ANDROID_DATA:-/data}/local/tmp/mobifarm/agent/ready.json"'
    name = "abstract_socket"
    try:
        address = str(json.loads(link.shell(script).stdout)["address"]).removeprefix("unix-abstract:")
    except (ValueError, KeyError, TypeError):
        return _unknown(name, "no agent listens on the phone; add it to a farm first")
    try:
        stream = link.open_stream(f"localabstract:{address[:100]}", timeout_s=10)
    except DeviceError as error:
        meaning = "the agent listens, and ADB does not reach it: the farm cannot use the phone"
        return finding(name, Verdict("failed", False, meaning), str(error))
    stream.close()
    return finding(name, Verdict("ok", True, "ADB reaches the agent's socket"), f"localabstract:{address}")


def _features(link: DeviceTransport) -> Finding:
    features = sorted(getattr(link, "features", ()))
    if not features:
        return _unknown("adb_features", "this link does not tell")
    return finding(
        "adb_features", Verdict("ok", features, "what the phone's adbd can do"), ",".join(features)
    )


def _round_trip(link: DeviceTransport, clock: Clock) -> Finding:
    taken = []
    for _ in range(ROUND_TRIPS):
        started = clock()
        link.shell(":", 5.0)
        taken.append(1000 * (clock() - started))
    median = round(statistics.median(taken), 3)
    meaning = "milliseconds for an empty command: median of 15; includes starting a shell"
    return finding(
        "round_trip", Verdict("ok", median, meaning), f"{min(taken):.2f} to {max(taken):.2f} ms", stable=False
    )


def _throughput(link: DeviceTransport, clock: Clock) -> list[Finding]:
    data = os.urandom(THROUGHPUT_BYTES)
    started = clock()
    try:
        link.push_bytes(data, _FILE, 0o600, timeout_s=30.0)
        pushed = clock()
        whole = link.pull_bytes(_FILE, timeout_s=30.0) == data
        pulled = clock()
    finally:
        link.shell('rm -f "${ANDROID_DATA:-/data}/local/tmp/.mobifarm-doctor-file"', 10.0)
    found = []
    for name, seconds in (("push", pushed - started), ("pull", pulled - pushed)):
        rate = round(THROUGHPUT_BYTES / max(seconds, 1e-9) / 1e6, 1)
        verdict = (
            Verdict("ok", rate, "megabytes a second, 8 MiB of random bytes")
            if whole
            else Verdict("failed", rate, "the bytes came back changed: replace the cable")
        )
        found.append(finding(name, verdict, f"{seconds:.3f} s", stable=False))
    return found
