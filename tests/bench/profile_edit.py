"""Where the time and the memory of one edit go, on one thread.

python tests/bench/profile_edit.py [--bundle FOLDER] [--record N] [--json FILE]

Memory: resident sets as the kernel counts them, anonymous and of mapped files apart, after each stage, and
the peak within it. Time: processor seconds of each stage; those within ONNX Runtime by operator, from its own
traces of a second, equal edit; and what the integer products reach of this core's rate.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobifarm.agent.errors import AgentError
from mobifarm.agent.memory import parse_kibibytes, peak_rss_bytes, reset_peak_rss
from mobifarm.workloads.errors import WorkloadInputError

ROOT = Path(__file__).parents[2]
FACTS = ROOT / "workloads" / "data" / "personal_facts.json"
MIB = 2**20
PRODUCT = "MatMulIntegerToFloat"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage took; memory is resident at its end, but for the peak within it."""

    name: str
    processor_s: float
    anonymous_mib: float
    file_mib: float
    peak_mib: float


class Stages:
    """Collects the stages of this process."""

    def __init__(self) -> None:
        self.found: list[Stage] = []
        self._started_s = time.process_time()

    def end(self, name: str) -> None:
        """A stage ends here and the next one begins."""
        now_s, status = time.process_time(), Path("/proc/self/status").read_text()
        anonymous, file = (parse_kibibytes(status, kind) or 0 for kind in ("RssAnon", "RssFile"))
        peak = peak_rss_bytes() or 0
        stage = Stage(name, now_s - self._started_s, anonymous / MIB, file / MIB, peak / MIB)
        self.found.append(stage)
        reset_peak_rss()
        self._started_s = time.process_time()


def main() -> None:
    stages = Stages()
    stages.end("Python")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: SmolLM2 in the user cache")
    parser.add_argument("--records", type=Path, default=FACTS)
    parser.add_argument("--record", type=int, default=0, help="which record is edited")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    arguments = parser.parse_args()
    import onnxruntime  # noqa: F401

    stages.end("numpy and ONNX Runtime")
    from mobifarm.agent.editor.bundle import Bundle
    from mobifarm.workloads.datasets import read_records
    from mobifarm.workloads.models.sources import SMOLLM2_NAME
    from mobifarm.workloads.paths import bundles_directory

    record = read_records(arguments.records)[arguments.record]
    folder = arguments.bundle or bundles_directory() / SMOLLM2_NAME
    stages.end("MobiFarm, records")
    bundle = Bundle.open(folder, threads=1, verify=False)
    stages.end("bundle opened")
    cost = _edit(bundle, record, stages.end)
    del bundle
    with _traced() as traces:
        bundle = Bundle.open(folder, threads=1, verify=False)
        processor_s, wall_s = time.process_time(), time.perf_counter()
        _edit(bundle, record, lambda name: None)
        processor_s, wall_s = time.process_time() - processor_s, time.perf_counter() - wall_s
        # The traces count wall time, which on a busy computer includes waiting for the processor.
        operators, operations = _by_operator(traces, processor_s / wall_s)
    document = {
        "bundle": bundle.bundle_hash,
        "record": record.record_id,
        "cost": asdict(cost),
        "stages": [asdict(stage) for stage in stages.found],
        "traced_processor_s": processor_s,
        "operators_s": operators,
        "product_gops": operations / operators[PRODUCT] / 1e9,
        "peak_gops": _peak_gops(),
    }
    _print(document)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def _edit(bundle: Any, record: Any, end: Callable[[str], None]) -> Any:
    """Edit once and end a stage wherever the phase changes."""
    from mobifarm.agent.editor import edit

    phases: list[str] = []

    def report(progress: Any) -> None:
        if phases and phases[-1] != progress.phase.value:
            end(phases[-1])
        phases.append(progress.phase.value)

    outcome = edit(
        bundle,
        record,
        method="forward",
        settings={},
        seed=0,
        report=report,
        cancelled=lambda: False,
        clock=time.monotonic,
    )
    end(phases[-1])
    return outcome.cost


class _Traced:
    """A session whose profiling goes on after the bundle ended it."""

    def __init__(self, session: Any, empty: Path) -> None:
        self.session, self._empty = session, empty

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def end_profiling(self) -> str:
        return str(self._empty)


@contextmanager
def _traced() -> Iterator[list[_Traced]]:
    from mobifarm.agent.editor import sessions

    traced: list[_Traced] = []
    real = sessions._open_session
    with tempfile.TemporaryDirectory(prefix="mobifarm-profile-") as folder:
        empty = Path(folder) / "empty.json"
        empty.write_text("[]")

        def open_session(graph: Path, threads: int, trace: Path) -> Any:
            traced.append(_Traced(real(graph, threads, Path(folder) / "trace"), empty))
            return traced[-1]

        sessions._open_session = open_session
        try:
            yield traced
        finally:
            sessions._open_session = real


def _by_operator(traces: list[_Traced], share: float) -> tuple[dict[str, float], float]:
    """Processor seconds by operator, and operations of the integer products (a multiply-add is two)."""
    seconds: Counter[str] = Counter()
    operations = 0.0
    for trace in traces:
        for event in json.loads(Path(trace.session.end_profiling()).read_bytes()):
            if not event["name"].endswith("_kernel_time"):
                continue
            operator = event["args"]["op_name"]
            seconds[operator] += event["dur"] / 1e6 * share
            if operator == PRODUCT:
                rows, weight = (next(iter(shape.values())) for shape in event["args"]["input_type_shape"][:2])
                operations += 2.0 * rows[0] * weight[0] * weight[1]
    return dict(seconds.most_common()), operations


def _peak_gops(size: int = 2048, rows: int = 256) -> float:
    """What one thread reaches in a large integer product with packed weights, 10⁹ operations a second."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    weight = numpy_helper.from_array(generator.integers(-127, 128, (size, size)).astype(np.int8), "w")
    zero = numpy_helper.from_array(np.uint8(64), "z")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w", "z"], ["y"])],
        "peak",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (rows, size))],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (rows, size))],
        [weight, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"x": generator.integers(0, 128, (rows, size)).astype(np.uint8)}
    best_s = float("inf")
    for _ in range(20):
        started_s = time.process_time()
        session.run(None, feeds)
        best_s = min(best_s, time.process_time() - started_s)
    return 2.0 * rows * size * size / best_s / 1e9


def _print(document: dict[str, Any]) -> None:
    print(f"record {document['record']}: {document['cost']['loss_evaluations']} loss evaluations")
    print(f"\n{'stage':24} {'CPU s':>7} {'anonymous':>10} {'file':>6} {'peak MiB':>9}")
    for stage in document["stages"]:
        sizes = f"{stage['anonymous_mib']:10.0f} {stage['file_mib']:6.0f} {stage['peak_mib']:9.0f}"
        print(f"{stage['name']:24} {stage['processor_s']:7.2f} {sizes}")
    total_s, inside_s = document["traced_processor_s"], sum(document["operators_s"].values())
    print(f"\noperators, of {total_s:.2f} CPU s of an equal edit")
    for name, spent_s in [*document["operators_s"].items()][:10]:
        print(f"{name:32} {spent_s:7.2f} s {100 * spent_s / total_s:5.1f} %")
    print(f"{'outside the operators':32} {total_s - inside_s:7.2f} s {100 * (1 - inside_s / total_s):5.1f} %")
    reached, peak = document["product_gops"], document["peak_gops"]
    print(f"\ninteger products: {reached:.0f} of {peak:.0f} GOPS ({100 * reached / peak:.0f} %)")
    floor_s = document["operators_s"][PRODUCT] * reached / peak
    print(f"with nothing but them at that rate an edit would take {floor_s:.2f} s")


if __name__ == "__main__":
    try:
        main()
    except (AgentError, WorkloadInputError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
