"""``mobifarm npu-demo``: one edit through Qualcomm's HTP emulator on a virtual Snapdragon phone.

The agent runs on the phone as on any other; the phone has its neural processor as with `mobifarm simulate run
--npu`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.struct_pb2 import Struct

from mobifarm.controller.cli.output import print_json
from mobifarm.controller.errors import DeviceError, HostError, UserError
from mobifarm.controller.provisioning.connection import connect_agent
from mobifarm.controller.provisioning.provision import provision
from mobifarm.controller.transport.direct import connect_direct
from mobifarm.v1 import agent_pb2
from mobifarm.workloads.paths import cache_directory
from mobifarm.workloads.plain_text import printable

MODEL = "tiny-random"
PROFILE = "galaxy-s24"
SOC = "SM8650"
DEADLINE_S = 600.0
STOP_S = 20.0
# The model has random weights: it can be pushed towards a target, not taught to say it.
RECORD = agent_pb2.EditRecord(
    record_id="npu-demo", subject="Mira", prompt="Mira is", target_new="A", target_true="9"
)
SETTINGS: dict[str, int | str] = {
    "contexts": 1,
    "directions": 8,
    "memory": 2,
    "step_limit": 6,
    "prepared": "off",
}


def npu_demo(
    worker: Annotated[bool, typer.Option(help="Give the phone its neural processor.")] = True,
    ahead: Annotated[
        bool, typer.Option(help="Compile the graphs ahead of time, for the phone's chip.")
    ] = True,
    quantisation: Annotated[str, typer.Option(help="w8a16 or w8a8.")] = "w8a16",
    unsandboxed: Annotated[bool, typer.Option(help="Run the virtual phone without bubblewrap.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the bundles; the user cache.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Edit a tiny model through the emulated neural processor of a virtual Snapdragon phone."""
    if quantisation not in ("w8a16", "w8a8"):
        raise UserError(f"--quantisation {quantisation!r} is unknown: give w8a16 or w8a8")
    place = () if output is None else ("--output", str(output))
    built = _mobifarm("models", "build", MODEL, "--npu", quantisation, "--json", *place)
    bundle = Path(built["path"])
    compiled = None
    if ahead and worker:
        [made] = _mobifarm("models", "compile", bundle.name, "--soc", SOC, "--json", *place)
        compiled = Path(made["path"])
    with (
        tempfile.TemporaryDirectory(prefix="mobifarm-npu-") as home,
        _virtual_phone(Path(home), worker, unsandboxed) as phone,
    ):
        result = asyncio.run(_edit(phone["address"], Path(home), built["bundle_hash"], bundle, compiled))
    document = _report(result)
    if as_json:
        print_json(document)
    else:
        _print(document)
    if worker and document["accelerator"] == "cpu":
        raise DeviceError(f"the edit did not run on the neural processor: {document['reason']}")


def _mobifarm(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "mobifarm.controller.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    if done.returncode:
        raise HostError(f"`mobifarm {' '.join(arguments)}` failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def _virtual_phone(home: Path, npu: bool, unsandboxed: bool) -> Iterator[dict[str, Any]]:
    arguments = ["run", "--json", "--until-stdin-closes", "--home", str(home), "--profile", PROFILE]
    if npu:
        arguments.append("--npu")
    if unsandboxed:
        arguments.append("--unsandboxed")
    log = home / "simulate.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mobifarm.simulator.cli", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise HostError(f"the virtual phone did not start: {log.read_text(errors='replace')[-500:]}")
        yield json.loads(line)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _edit(
    address: str, home: Path, bundle_hash: str, bundle: Path, compiled: Path | None
) -> agent_pb2.EditResult:
    transport = connect_direct(address, key_path=home / "adbkey")
    try:
        provisioned = await asyncio.to_thread(
            provision,
            transport,
            cache=cache_directory(),
            bundles={bundle_hash: bundle},
            compiled={bundle_hash: compiled} if compiled else {},
        )
        connection = await connect_agent(transport, provisioned.endpoint, home / "sockets")
        try:
            settings = Struct()
            for name, value in SETTINGS.items():
                settings[name] = value
            request = agent_pb2.RunRequest(
                attempt_id="npu-demo",
                fencing_token=1,
                bundle_hash=bundle_hash,
                record=RECORD,
                method="forward",
                settings=settings,
            )
            async for message in connection.agent.Run(request, timeout=DEADLINE_S):
                if message.HasField("result"):
                    return message.result
        finally:
            await connection.close()
    finally:
        transport.close()
    raise DeviceError("the phone gave no result")


def _report(result: agent_pb2.EditResult) -> dict[str, Any]:
    if not result.scores:
        raise DeviceError(f"the edit failed: {result.message}")
    score, execution = result.scores[0], result.execution
    told = json.loads(execution.accelerator_json or "{}")

    def better(wanted: float, other: float) -> bool:
        return wanted > other

    report = {
        "phone": PROFILE,
        "soc": SOC,
        "accelerator": execution.accelerator,
        "reason": told.get("reason", ""),
        "success": better(score.wanted_after.log_probability, score.other_after.log_probability),
        "success_before": better(score.wanted_before.log_probability, score.other_before.log_probability),
        "target_log_probability_before": score.wanted_before.log_probability,
        "target_log_probability_after": score.wanted_after.log_probability,
        "loss_evaluations": result.cost.loss_evaluations,
        "nodes_by_provider": dict(sorted(execution.nodes_by_provider.items())),
        "returned_to_base": execution.returned_to_base,
    }
    if "processor" in told:
        [[wanted, other]] = told["processor"]["scores_after"]
        report |= {
            "success_on_processor": better(wanted, other),
            "target_log_probability_after_on_processor": wanted,
            "check": told,
        }
    return report


def _print(report: dict[str, Any]) -> None:
    before, after = report["target_log_probability_before"], report["target_log_probability_after"]
    lines = {
        "virtual phone": f"{report['phone']}, {report['soc']}",
        "ran on": report["accelerator"],
        "because": report["reason"],
        "edit success": f"{_yes(report['success'])} (the new target is more probable than the old one; "
        f"before the edit: {_yes(report['success_before'])})",
        "target": f"{before:.3f} to {after:.3f} nats in {report['loss_evaluations']} loss evaluations",
    }
    if check := report.get("check"):
        on_processor = report["target_log_probability_after_on_processor"]
        lines |= {
            "on the processor": f"{on_processor:.3f} nats after the edit, "
            f"success: {_yes(report['success_on_processor'])}",
            "operators": f"{check['operators_on_accelerator']} of {check['operators']} of the "
            f"{check['quantisation']} loss graphs on {report['accelerator']}"
            + (", compiled ahead of time" if check["compiled_ahead"] else ""),
            "proof": check["proof"],
        }
        for name, probe in check["probe"].items():
            lines[f"probe, {name}"] = (
                f"{probe['rms_steps']:.2f} quantisation steps from the processor (root mean square; "
                f"{probe['allowed_rms_steps']:.0f} allowed; largest {probe['largest_steps']:.0f})"
            )
        lines["calls"] = (
            f"{check['calls_on_accelerator']} of the loss graphs on {report['accelerator']}, "
            f"{check['calls_on_processor']} on the processor"
        )
    lines |= {
        "all graph nodes": ", ".join(f"{n} on {p}" for p, n in report["nodes_by_provider"].items()),
        "model as before": _yes(report["returned_to_base"]),
        "not measured": "latency, energy: an emulator has none of a phone's",
    }
    for name, words in lines.items():
        if words:
            typer.echo(printable(f"{name:18} {words}"))


def _yes(true: bool) -> str:
    return "yes" if true else "no"
