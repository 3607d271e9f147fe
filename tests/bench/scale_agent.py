"""One edit by a real agent in a process of its own, watched from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from mobifarm.agent.editor import EditRecord
from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.agent.memory import parse_kibibytes
from mobifarm.v1 import agent_pb2 as pb
from mobifarm.v1.agent_pb2_grpc import AgentServiceStub

DEADLINE_S = 3600.0
_SAMPLING_S = 0.02


def edit_on_agent(bundle: Path, record: EditRecord, settings: dict[str, Any], threads: int) -> dict[str, Any]:
    """Check the bundle in this folder and make one edit with it, as a farm asks for both.

    Returns:
        The cost, and the most memory that the agent had: bytes.
    """
    with tempfile.TemporaryDirectory(prefix="mobifarm-scale-") as folder:
        home, root, address = Path(folder) / "home", Path(folder) / "root", f"unix:{folder}/a.sock"
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "meminfo").write_text(Path("/proc/meminfo").read_text())
        bundle_hash = read_manifest(bundle)[1]
        (home / "bundles").mkdir(parents=True)
        (home / "bundles" / bundle_hash).symlink_to(bundle.resolve(), target_is_directory=True)
        command = [sys.executable, "-m", "mobifarm.agent.main", "serve", "--home", str(home)]
        command += ["--sys-root", str(root), "--threads", str(threads), "--address", address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                if not process.stdout.readline().startswith("listening"):
                    sys.exit("error: the agent did not start")
                with most_memory(process.pid) as most, grpc.insecure_channel(address) as channel:
                    token = (home / "agent" / "token").read_text()
                    cost = _edit(AgentServiceStub(channel), token, bundle_hash, record, settings)
                    return {"threads": threads, **cost, **most, "processor_s": _processor_s(process.pid)}
            finally:
                process.terminate()


def _edit(
    stub: Any, token: str, bundle_hash: str, record: EditRecord, settings: dict[str, Any]
) -> dict[str, Any]:
    options = {"metadata": [("authorization", f"Bearer {token}")], "timeout": DEADLINE_S}
    stub.CheckBundle(pb.CheckBundleRequest(bundle_hash=bundle_hash), **options)
    request = pb.RunRequest(
        attempt_id="scale",
        fencing_token=1,
        bundle_hash=bundle_hash,
        method="forward",
        telemetry_off=True,
        record=pb.EditRecord(
            record_id=record.record_id,
            subject=record.subject,
            prompt=record.prompt,
            target_new=record.target_new,
            target_true=record.target_true,
            paraphrases=record.paraphrases,
            neighbours=[pb.Probe(prompt=probe.prompt, answer=probe.answer) for probe in record.neighbours],
            portability=[pb.Probe(prompt=probe.prompt, answer=probe.answer) for probe in record.portability],
        ),
    )
    request.settings.update(settings)
    for message in stub.Run(request, **options):
        if message.HasField("progress"):
            phase = pb.EditPhase.Name(message.progress.phase).removeprefix("EDIT_PHASE_").lower()
            print(f"\r{phase} {message.progress.step} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    result = message.result
    if result.status not in (pb.EDIT_STATUS_CONVERGED, pb.EDIT_STATUS_STEP_LIMIT):
        sys.exit(f"error: the edit did not run to its end: {result.message}")
    fields = ("steps", "loss_evaluations", "token_layers", "load_s", "edit_s", "evaluation_s")
    return {
        "record": record.record_id,
        "scored_prompts": len(result.scores),
        "converged": result.status == pb.EDIT_STATUS_CONVERGED,
        "returned_to_base": result.execution.returned_to_base,
        **{name: getattr(result.cost, name) for name in fields},
    }


@contextmanager
def most_memory(pid: int) -> Iterator[dict[str, int]]:
    """The most memory of a process, filled in as it is seen: the peak is the kernel's, what is anonymous and
    what belongs to files is sampled."""
    names = {"VmHWM": "peak_rss_bytes", "RssAnon": "most_anonymous_bytes", "RssFile": "most_file_bytes"}
    most = dict.fromkeys(names.values(), 0)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLING_S):
            status = Path(f"/proc/{pid}/status").read_text()
            for name, key in names.items():
                most[key] = max(parse_kibibytes(status, name) or 0, most[key])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        ended.set()
        watcher.join()


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")
