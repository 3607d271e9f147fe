"""How well the quantised graphs for neural processors edit, measured on ONNX Runtime's CPU provider.

python tests/bench/npu_quality.py [--bundle FOLDER] [--records FILE] [--limit N] [--scheme w8a16] [--json OUT]

The reference are the same graphs in fp32. Per fact: the loss at δ = 0, slopes along random directions with
difference steps of several lengths, and an edit. "int8" is the bundle without graphs for neural processors;
those with them are built beside it where they are missing. What an HTP computes differs from this by what the
bundle's probe allows; no time measured here is one of a phone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mobifarm.agent.backends.cpu import CpuBackend
from mobifarm.agent.editor import EditRecord, EditStatus, edit
from mobifarm.agent.editor.contexts import ContextLoss, tokenize_contexts
from mobifarm.agent.editor.directions import FloatArray, forward_difference_slopes, orthonormal_directions
from mobifarm.agent.editor.npu import (
    LAYERS,
    READ_OUT,
    AcceleratedBundle,
    NpuGraphs,
    NpuModel,
    npu_graphs,
    pack_probe,
)
from mobifarm.agent.editor.types import EditCost
from mobifarm.agent.errors import AgentError
from mobifarm.workloads.datasets import read_records
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.build import Progress
from mobifarm.workloads.models.npu import SHAPE, build_npu_bundle, calibration_feeds, static_model
from mobifarm.workloads.models.sources import SMOLLM2_NAME, Source, source_of_bundle
from mobifarm.workloads.models.static_graph import Scheme, StaticWriter
from mobifarm.workloads.paths import bundles_directory
from mobifarm.workloads.scores import quality

FACTS = Path(__file__).parents[2] / "workloads" / "data" / "personal_facts.json"
PROCESSOR, REFERENCE = "int8", "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=bundles_directory() / SMOLLM2_NAME)
    parser.add_argument("--records", type=Path, default=FACTS, help="JSON file in a form that MobiFarm reads")
    parser.add_argument("--every", type=int, default=1, help="take each N-th record")
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--record", action="append", help="id of one of these, and no other")
    parser.add_argument("--loss-noise", type=float, help="nats, in place of the measured: 0 adapts nothing")
    parser.add_argument("--scheme", action="append", choices=list(Scheme), help="[default: w8a16]")
    parser.add_argument("--length", action="append", type=float, help="of a step, ‖v0‖ [default: 0.1 0.5 1]")
    parser.add_argument("--directions", type=int, default=12)
    parser.add_argument("--contexts", type=int, default=2)
    parser.add_argument("--step-limit", type=int, default=20, help="of an edit; 0: no edits")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    arguments = parser.parse_args()
    records = read_records(arguments.records)[:: arguments.every][: arguments.limit]
    records = [r for r in records if not arguments.record or r.record_id in arguments.record]
    lengths = arguments.length or [0.1, 0.5, 1.0]
    base, source = arguments.bundle, source_of_bundle(arguments.bundle)
    models: dict[str, NpuModel | None] = {PROCESSOR: None}
    for scheme in arguments.scheme or [Scheme.W8A16]:
        path = build_npu_bundle(source, base, Scheme(scheme)).path
        graphs = npu_graphs(AcceleratedBundle.open(path, threads=1, verify=False).manifest)
        assert graphs is not None
        if arguments.loss_noise is not None:
            graphs = dataclasses.replace(graphs, loss_noise=arguments.loss_noise)
        models[str(scheme)] = NpuModel(path, graphs, CpuBackend(arguments.threads))
    bundle = AcceleratedBundle.open(base, threads=arguments.threads, verify=False)
    with tempfile.TemporaryDirectory(prefix="mobifarm-fp32-") as folder:
        models[REFERENCE] = _unquantised(Path(folder), source, bundle, arguments.threads)
    rows = []
    for record in records:
        bare = dataclasses.replace(record, paraphrases=(), neighbours=(), portability=())
        slopes = {
            kind: _losses(bundle, model, bare, arguments.contexts, arguments.directions, lengths)
            for kind, model in models.items()
        }
        for kind, model in models.items():
            if kind == REFERENCE:
                continue
            row: dict[str, Any] = {"record_id": record.record_id, "kind": kind}
            row["loss_error"] = slopes[kind][0] - slopes[REFERENCE][0]
            row["cosines"] = {
                f"{length:g}": _cosine(own, exact)
                for length, own, exact in zip(lengths, slopes[kind][1], slopes[REFERENCE][1], strict=True)
            }
            if arguments.step_limit:
                row |= _edit(bundle, model, bare, arguments.contexts, arguments.step_limit)
            rows.append(row)
            print(row, flush=True)
    noise = {kind: model.graphs.loss_noise for kind, model in models.items() if model and kind != REFERENCE}
    document = {
        "model": bundle.name,
        "bundle_hash": bundle.bundle_hash,
        "prepared": bundle.prepared.surrogate is not None,
        "loss_noise_nats": noise,
        "rows": rows,
    }
    _print_table(rows, noise)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1))


def _unquantised(folder: Path, source: Source, bundle: AcceleratedBundle, threads: int) -> NpuModel:
    """The graphs in fp32, with a probe that they pass by definition."""
    model = static_model(source, bundle, SHAPE, Progress())
    backend = CpuBackend(threads)
    probe = next(iter(calibration_feeds(bundle, SHAPE)))
    states = np.zeros((1, SHAPE.reads, bundle.architecture.hidden), np.float32)
    states[...] = 1.0
    feeds = {LAYERS: dict(probe), READ_OUT: {"final_residual": states}}
    outputs = {}
    for graph, write in ((LAYERS, model.layers), (READ_OUT, model.read_out)):
        writer = StaticWriter(graph)
        write(writer)
        onnx.save(writer.model(), folder / graph)
        backend.load(graph, (folder / graph).read_bytes())
        [outputs[graph]] = backend.run(graph, feeds[graph]).values()
    (folder / "probe").write_bytes(pack_probe(dict(feeds), outputs))
    files, steps = {g: g for g in outputs}, dict.fromkeys(outputs, 1.0)
    return NpuModel(folder, NpuGraphs(REFERENCE, SHAPE, files, steps, "probe"), backend)


@contextmanager
def _attached(bundle: AcceleratedBundle, model: NpuModel | None) -> Iterator[None]:
    bundle.attach(model)
    try:
        with bundle.on_accelerator():
            yield
    finally:
        if bundle.calls_on_processor:
            print(f"warning: {bundle.calls_on_processor} calls ran on the other graphs", file=sys.stderr)
        bundle.attach(None)


def _losses(
    bundle: AcceleratedBundle,
    model: NpuModel | None,
    record: EditRecord,
    contexts: int,
    directions: int,
    lengths: Sequence[float],
) -> tuple[float, list[FloatArray]]:
    """The loss at δ = 0, nats per token, and for each length of a step the slopes."""
    with _attached(bundle, model):
        oracle = ContextLoss(
            bundle,
            tokenize_contexts(bundle, record, contexts),
            essence=None,
            kl_weight=0.0,
            probe_contexts=contexts,
            cost=EditCost(),
        )
        hidden = bundle.architecture.hidden
        along = orthonormal_directions(np.random.default_rng(0), directions, hidden)
        steps = [length * oracle.value_norm for length in lengths]
        deltas = np.concatenate([np.zeros((1, hidden)), *(step * along for step in steps)])
        losses = oracle.evaluate(deltas).target
    parts = losses[1:].reshape(len(steps), directions)
    slopes = [forward_difference_slopes(part, step, 0) for part, step in zip(parts, steps, strict=True)]
    return float(losses[0]), slopes


def _edit(
    bundle: AcceleratedBundle, model: NpuModel | None, record: EditRecord, contexts: int, step_limit: int
) -> dict[str, Any]:
    with _attached(bundle, model):
        outcome = edit(
            bundle,
            record,
            method="forward",
            # One goal for all: a plateau would be another one for every edit.
            settings={"contexts": contexts, "step_limit": step_limit, "plateau_probability": 0.9},
            seed=0,
            report=lambda progress: None,
            cancelled=lambda: False,
            clock=time.monotonic,
        )
    scores = [{**dataclasses.asdict(score), "kind": score.kind.value} for score in outcome.scores]
    after, answer = quality(scores, "after"), outcome.scores[0].wanted_after
    return {
        "converged": outcome.status is EditStatus.CONVERGED,
        "edit_success": after.edit_success,
        "first_choice": answer.tokens_argmax == answer.tokens,
        "steps": outcome.cost.steps,
        "loss_evaluations": outcome.cost.loss_evaluations,
        "perturbation": outcome.perturbation,
        "wall_s": outcome.cost.edit_s,
    }


def _cosine(a: FloatArray, b: FloatArray) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


def _print_table(rows: Sequence[dict[str, Any]], noise: dict[str, float]) -> None:
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        print(f"\n{kind}, {len(own)} facts" + (f", noise {noise[kind]:.4f} nats" if kind in noise else ""))
        errors = [row["loss_error"] for row in own]
        size = np.mean(np.abs(errors))
        print(f"  loss error, nats        mean size {size:.3f}, largest {max(errors, key=abs):.3f}")
        for length in own[0]["cosines"]:
            values = sorted(row["cosines"][length] for row in own)
            print(f"  cosine at {length:4} ‖v0‖    median {np.median(values):.4f}, smallest {values[0]:.4f}")
        if "steps" in own[0]:
            for name in ("converged", "edit_success", "first_choice"):
                print(f"  {name:22} {sum(bool(row[name]) for row in own)} of {len(own)}")
            for name in ("steps", "loss_evaluations", "perturbation"):
                values = sorted(row[name] or 0 for row in own)
                print(f"  {name:22} median {np.median(values):g}, {values[0]:g} to {values[-1]:g}")


if __name__ == "__main__":
    try:
        main()
    except (AgentError, WorkloadInputError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
