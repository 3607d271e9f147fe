"""What telemetry itself costs: the same edit with and without sampling, in blocks of on-off-off-on.

    python tests/bench/telemetry_cost.py [--bundle FOLDER] [--blocks 5] [--profile pixel-8] [--json FILE]

A real agent process edits here, with the sensor files of a virtual phone; the cost is its processor time,
services that it asks included, so a busy computer disturbs it less than seconds. On a phone a sample costs
more (slower cores), and dumpsys works in other processes, which nobody sees from here. The idle figure is the
processor time of an agent without work, which samples once a second.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc.aio

from mobifarm.simulator.profile import load_profile
from mobifarm.simulator.sensors.board import SensorBoard
from mobifarm.v1 import agent_pb2 as pb
from mobifarm.v1.agent_pb2_grpc import AgentServiceStub
from mobifarm.workloads.models.sources import SMOLLM2_NAME
from mobifarm.workloads.paths import bundles_directory

BLOCK = (True, False, False, True)
DEADLINE_S = 900.0


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="mobifarm-cost-") as folder:
        document = asyncio.run(_measure(arguments, Path(folder)))
    cost = document["summary"]
    error_s = cost["standard_error_cpu_s"]
    print(
        f"sampling at 10 Hz: {1000 * cost['cpu_s_per_sample']:.2f} ms of processor time a sample as the "
        f"agent counts it; on - off: {cost['difference_cpu_s']:+.3f} s an edit "
        + ("" if error_s is None else f"(standard error {error_s:.3f} s) ")
        + f"of {cost['off_cpu_s']:.2f} s, {100 * cost['relative']:+.1f} %; "
        f"idle: {100 * cost['idle_core_share']:.2f} % of a core"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


async def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    _write_sensors(arguments.profile, folder / "root")
    home = folder / "home"
    bundle_hash = hashlib.sha256((arguments.bundle / "manifest.json").read_bytes()).hexdigest()
    (home / "bundles").mkdir(parents=True)
    (home / "bundles" / bundle_hash).symlink_to(arguments.bundle.resolve(), target_is_directory=True)
    command = [sys.executable, "-m", "mobifarm.agent.main", "serve", "--home", str(home)]
    command += ["--sys-root", str(folder / "root"), "--threads", "1", "--address", f"unix:{folder}/a.sock"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not process.stdout.readline().startswith("listening"):
            sys.exit("error: the agent did not start")
        token = (home / "agent" / "token").read_text()
        async with grpc.aio.insecure_channel(f"unix:{folder}/a.sock") as channel:
            stub: Any = AgentServiceStub(channel)
            return await _edits(arguments, process.pid, stub, token, bundle_hash)
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout:
            process.stdout.close()


async def _edits(
    arguments: argparse.Namespace, pid: int, stub: Any, token: str, bundle_hash: str
) -> dict[str, Any]:
    call: dict[str, Any] = {"metadata": [("authorization", f"Bearer {token}")], "timeout": DEADLINE_S}
    await stub.CheckBundle(pb.CheckBundleRequest(bundle_hash=bundle_hash), **call)
    edits: list[dict[str, Any]] = []
    order = [(-1, False), *((block, on) for block in range(arguments.blocks) for on in BLOCK)]
    for number, (block, on) in enumerate(order):
        request = pb.RunRequest(
            attempt_id=f"a{number}",
            fencing_token=number + 1,
            bundle_hash=bundle_hash,
            method="forward",
            telemetry_off=not on,
            record=pb.EditRecord(
                record_id="fact",
                subject="Mira",
                prompt="Mira lives in",
                target_new="Oslo",
                target_true="Rome",
            ),
        )
        # The same work each time: an edit that ends early by chance would look like a saving.
        request.settings.update({"step_limit": arguments.steps, "stop_probability": 0.9999})
        before_s = _cpu_s(pid)
        began_s = time.monotonic()
        messages = [message async for message in stub.Run(request, **call)]
        result = messages[-1].result
        if result.status not in (pb.EDIT_STATUS_CONVERGED, pb.EDIT_STATUS_STEP_LIMIT):
            sys.exit(f"error: the edit did not run to its end: {result.message}")
        row = {
            "block": block,
            "telemetry": on,
            "cpu_s": _cpu_s(pid) - before_s,
            "wall_s": time.monotonic() - began_s,
            "edit_s": result.cost.edit_s,
            "samples": result.telemetry.samples,
            "sampling_cpu_s": result.telemetry.sampling_cpu_s,
        }
        await stub.Acknowledge(pb.AcknowledgeRequest(attempt_id=request.attempt_id), **call)
        if block >= 0:  # the first loads the model
            edits.append(row)
            print(
                f"{len(edits)}/{len(order) - 1} {'on' if on else 'off'}: {row['cpu_s']:.2f} s",
                file=sys.stderr,
            )
    before_s = _cpu_s(pid)
    await asyncio.sleep(arguments.idle_s)
    return {
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "summary": {**_summary(edits), "idle_core_share": (_cpu_s(pid) - before_s) / arguments.idle_s},
        "edits": edits,
    }


def _summary(edits: list[dict[str, Any]]) -> dict[str, Any]:
    """On minus off: in a block of on-off-off-on a drift that goes on steadily cancels."""
    blocks = sorted({edit["block"] for edit in edits})

    def mean(block: int, on: bool) -> float:
        return statistics.fmean(
            edit["cpu_s"] for edit in edits if edit["block"] == block and edit["telemetry"] is on
        )

    differences = [mean(block, True) - mean(block, False) for block in blocks]
    off = statistics.fmean(mean(block, False) for block in blocks)
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    difference = statistics.fmean(differences)
    samples = sum(edit["samples"] for edit in edits)
    return {
        "blocks": len(blocks),
        "off_cpu_s": off,
        "difference_cpu_s": difference,
        "standard_error_cpu_s": spread / math.sqrt(len(differences)) if len(differences) > 1 else None,
        "relative": difference / off,
        "cpu_s_per_sample": sum(edit["sampling_cpu_s"] for edit in edits) / samples if samples else None,
    }


def _write_sensors(profile_name: str, root: Path) -> None:
    (root / "sys").mkdir(parents=True)
    (root / "services").mkdir()
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(Path("/proc/meminfo").read_text())
    board = SensorBoard(
        load_profile(profile_name), root / "sys", root / "services", time.monotonic(), machine_cores=8
    )
    board.create()


def _cpu_s(pid: int) -> float:
    """Processor time of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=bundles_directory() / SMOLLM2_NAME)
    parser.add_argument("--blocks", type=int, default=5, help="of four edits each (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of each search (default: %(default)s)")
    parser.add_argument("--profile", default="pixel-8", help="whose sensors (default: %(default)s)")
    parser.add_argument(
        "--idle-s", type=float, default=20.0, help="idle time to watch (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (arguments.bundle / "manifest.json").is_file():
        sys.exit(
            f"error: {arguments.bundle} is no model bundle: name one with --bundle, or build one with "
            "`mobifarm models build`"
        )
    return arguments


if __name__ == "__main__":
    main()
