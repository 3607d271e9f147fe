"""Models with the shapes of 3B models and random weights: bundle, memory, and what an edit would take.

python tests/bench/scale.py [--shape NAME] [--layers N] [--json FILE]

Nothing is downloaded. For each shape it writes a model folder with random weights, builds the bundle, adds a
preparation of random numbers, and lets an agent make the first steps of one edit. Sizes, memory and
token_layers of these steps are measured here; token_layers of a whole edit and seconds on a neural processor
are estimated. It needs some 10 GB of disk and, for the builder, 3 GB of memory. An interrupted run goes on
where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scale_agent import edit_on_agent, most_memory
from scale_plan import RATES, Plan, layer_weights, plan_edit, seconds

from mobifarm.agent.errors import AgentError
from mobifarm.workloads.errors import WorkloadInputError

ROOT = Path(__file__).parents[2]
FACTS = ROOT / "workloads" / "data" / "personal_facts.json"
CONTEXTS = 3  # as `forward` takes by default
# Of `forward` on SmolLM2-135M, prepared, 200 CounterFact records (README): an assumption for larger models.
EVALUATIONS = 102
GIB, MIB = 2**30, 2**20


def main() -> None:
    arguments = _arguments()
    if arguments.build:
        print(json.dumps(_build(arguments.build)))
        return
    documents = []
    for name in arguments.shape:
        documents.append(_measure(name, arguments))
        _print(documents[-1])
        if arguments.json:
            arguments.json.write_text(json.dumps({"shapes": documents}, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = ("qwen2.5-3b-shape", "llama-3.2-3b-shape", "tiny-shape")
    parser.add_argument("--shape", action="append", choices=known, help="default: both 3B shapes")
    parser.add_argument("--layers", type=int, help="so many layers instead of all, for a quick look")
    parser.add_argument("--work", type=Path, default=Path("scale-work"), help="folder for models and bundles")
    parser.add_argument("--keep", action="store_true", help="leave models and bundles there")
    parser.add_argument(
        "--tokenizer", type=Path, help="byte-level BPE tokenizer.json; default: that of SmolLM2's bundle"
    )
    parser.add_argument("--records", type=Path, default=FACTS, help="JSON file in a form that MobiFarm reads")
    parser.add_argument("--record", type=int, default=0, help="which record is edited")
    parser.add_argument("--steps", type=int, default=2, help="of the edit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS, help="assumed for a whole edit")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.shape = arguments.shape or list(known[:2])
    return arguments


def _measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from scale_model import SHAPES

    shape = dict(SHAPES[name])
    if arguments.layers:
        shape["num_hidden_layers"] = arguments.layers
        name = f"{name}-{arguments.layers}-layers"
    place = arguments.work.resolve() / name
    bundle = place / "bundles" / name
    place.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "model": _stage(place, "model", lambda: _write_model(place / name, shape, arguments)),
        "build": _stage(place, "build", lambda: _build_apart(place / name)),
        "preparation": _stage(place, "preparation", lambda: _add_random_preparation(bundle)),
        "edit": _stage(place, "edit", lambda: _edit(bundle, arguments)),
        "plan": _plan(bundle, arguments),
    }
    if not arguments.keep:
        shutil.rmtree(place)
    return document


def _stage(place: Path, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a stage found, from its file where it ran before."""
    path = place / f"{name}.json"
    if not path.exists():
        print(f"{place.name}: {name} …", file=sys.stderr, flush=True)
        started_s = time.monotonic()
        found = {**run(), "wall_s": time.monotonic() - started_s}
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found))
        os.replace(unfinished, path)
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _write_model(folder: Path, shape: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    from scale_model import write_model

    from mobifarm.workloads.models.sources import SMOLLM2_NAME
    from mobifarm.workloads.paths import bundles_directory

    tokenizer = arguments.tokenizer or bundles_directory() / SMOLLM2_NAME / "tokenizer.json"
    if not tokenizer.is_file():
        raise WorkloadInputError(
            f"there is no tokenizer in {tokenizer}: run `mobifarm models build {SMOLLM2_NAME}` or name "
            "another one with --tokenizer"
        )

    def progress(done: int, total: int) -> None:
        print(f"\r{done} of {total} files", end="" if done < total else "\n", file=sys.stderr, flush=True)

    parameters = write_model(folder, shape, tokenizer.read_text("utf-8"), progress)
    return {"parameters": parameters, "size_bytes": sum(path.stat().st_size for path in folder.iterdir())}


def _build_apart(folder: Path) -> dict[str, Any]:
    """What the builder found in a process of its own, and the most memory that it had."""
    command = [sys.executable, __file__, "--build", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with most_memory(process.pid) as most:
            output = process.stdout.read()
    if process.returncode:
        sys.exit(process.returncode)  # it said why
    return {**json.loads(output), **most}


def _build(folder: Path) -> dict[str, Any]:
    from mobifarm.workloads.models.build import Progress, build_bundle
    from mobifarm.workloads.models.sources import HuggingFaceFolder

    class Shown(Progress):
        def status(self, words: str) -> None:
            print(words, file=sys.stderr, flush=True)

        def layers(self, done: int, total: int) -> None:
            print(
                f"\r{done} of {total} layers", end="" if done < total else "\n", file=sys.stderr, flush=True
            )

    result = build_bundle(HuggingFaceFolder(folder), folder.parent / "bundles", force=True, progress=Shown())
    graphs = {path.name: path.stat().st_size for path in sorted(result.path.glob("*.onnx"))}
    return {
        "bundle_bytes": result.size_bytes,
        "weights_bytes": (result.path / "weights.bin").stat().st_size,
        "tokenizer_bytes": (result.path / "tokenizer.json").stat().st_size,
        "graphs_bytes": graphs,
        "edit_layer": result.edit_layer,
        "processor_s": time.process_time(),
    }


def _add_random_preparation(bundle: Path) -> dict[str, Any]:
    """Random numbers in place of what `models prepare` learns: of the same sizes, and used alike."""
    import numpy as np

    from mobifarm.agent.editor.bundle_files import read_manifest
    from mobifarm.agent.editor.manifest import PREPARATION
    from mobifarm.workloads.preparation.fit import LARGEST_RANK, SUBSPACE_SIZE, with_core
    from mobifarm.workloads.preparation.prepare import add_preparation

    manifest, _ = read_manifest(bundle)
    a, generator = manifest.architecture, np.random.default_rng(0)

    def drawn(*size: int) -> Any:
        return generator.standard_normal(size, np.float32)

    width, rank = a.intermediate, min(LARGEST_RANK, a.intermediate)
    factor = (drawn(width, rank) * width**-0.5).astype(np.float16)
    inverse = with_core(np.full(width, 0.01, np.float32), factor)
    directions, _ = np.linalg.qr(drawn(a.hidden, min(SUBSPACE_SIZE, a.hidden)))
    tensors = {
        "second_moment_diagonal": inverse.diagonal,
        "second_moment_factor": inverse.factor,
        "second_moment_core": inverse.core,
        "surrogate": (drawn(7 * a.hidden, a.hidden) * a.hidden**-0.5).astype(np.float16),
        "final_norm": np.ones(a.hidden, np.float32),
        "subspace": directions.T.astype(np.float16),
        "subspace_variances": np.sort(generator.random(directions.shape[1], np.float32))[::-1].copy(),
    }
    extras = {**manifest.extras, PREPARATION: {"inputs": "random numbers"}}
    manifest = add_preparation(bundle, tensors, extras=extras, build_inputs=manifest.build_inputs)
    second_moments = 4 * 8 * width**2
    weights = 4 * (a.vocabulary * a.hidden * (1 if a.tied else 2) + layer_weights(a))
    return {
        "tensors_bytes": {name: array.nbytes for name, array in tensors.items()},
        "prepared_bundle_bytes": manifest.size_bytes,
        "models_prepare_needs_bytes": {"weights in f32": weights, "four second moments": second_moments},
    }


def _edit(bundle: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from mobifarm.workloads.datasets import read_records

    record = read_records(arguments.records)[arguments.record]
    settings = {"step_limit": arguments.steps, "contexts": CONTEXTS}
    return edit_on_agent(bundle, record, settings, arguments.threads)


def _plan(bundle: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from mobifarm.agent.editor.contexts import tokenize_contexts, tokenize_key_contexts
    from mobifarm.workloads.baselines.texts import BundleTexts
    from mobifarm.workloads.datasets import read_records
    from mobifarm.workloads.statistics import quantile

    texts, records = BundleTexts(bundle), read_records(arguments.records)
    a, layer = texts.architecture, texts.manifest.edit_layer
    plans = [
        plan_edit(
            a,
            layer,
            tokenize_contexts(texts, record, CONTEXTS),
            arguments.evaluations,
            key_contexts=tokenize_key_contexts(texts, record),
        )
        for record in records
    ]

    def median(value: Callable[[Plan], float]) -> float:
        return quantile([float(value(plan)) for plan in plans], 0.5)

    return {
        "estimated": True,
        "records": arguments.records.name,
        "records_planned": len(plans),
        "assumed_loss_evaluations": arguments.evaluations,
        "edit_layer": layer,
        "upper_layers": a.layers - 1 - layer,
        "suffix_tokens": median(lambda plan: plan.suffix_tokens),
        "token_layers_per_evaluation": median(lambda plan: plan.per_evaluation),
        "token_layers": median(lambda plan: plan.token_layers),
        "token_layers_on_the_processor": median(lambda plan: plan.once),
        "read_out_as_token_layers": median(lambda plan: plan.read_out),
        "rows_of_chunks_as_token_layers": median(lambda plan: plan.chunk_rows),
        "npu_seconds": [
            {
                **dataclasses.asdict(rate),
                "at_the_rate_of_rows_s": median(lambda plan, rate=rate: seconds(plan, a, rate)[0]),
                "at_the_rate_of_chunks_s": median(lambda plan, rate=rate: seconds(plan, a, rate)[1]),
            }
            for rate in RATES
        ],
    }


def _print(document: dict[str, Any]) -> None:
    build, edit, plan = document["build"], document["edit"], document["plan"]
    prepared = document["preparation"]
    rows: Sequence[tuple[str, str]] = (
        ("parameters", f"{document['model']['parameters'] / 1e9:.3f} billion"),
        ("model folder, f16", f"{document['model']['size_bytes'] / GIB:.2f} GiB"),
        ("bundle, int8", f"{build['bundle_bytes'] / GIB:.2f} GiB, edit layer {build['edit_layer']}"),
        ("largest graph file", f"{max(build['graphs_bytes'].values()) / MIB:.1f} MiB"),
        ("preparation", f"{sum(prepared['tensors_bytes'].values()) / MIB:.0f} MiB (random numbers)"),
        ("builder: peak RSS", f"{build['peak_rss_bytes'] / GIB:.2f} GiB, {build['wall_s']:.0f} s"),
        ("  most anonymous", f"{build['most_anonymous_bytes'] / GIB:.2f} GiB"),
        ("agent: peak RSS", f"{edit['peak_rss_bytes'] / MIB:.0f} MiB, {edit['threads']} threads"),
        ("  most anonymous", f"{edit['most_anonymous_bytes'] / MIB:.0f} MiB"),
        ("  most of mapped files", f"{edit['most_file_bytes'] / MIB:.0f} MiB"),
        ("edit of so many steps", f"{edit['steps']} ({edit['loss_evaluations']} loss evaluations)"),
        ("  token_layers", f"{edit['token_layers']:,}"),
        (
            "  seconds",
            f"{edit['edit_s']:.0f} (scores {edit['evaluation_s']:.0f}, loading {edit['load_s']:.0f})",
        ),
    )
    print(f"\n{document['name']}, measured here")
    for name, value in rows:
        print(f"{name:28} {value}")
    print(
        f"estimated, median of {plan['records_planned']} records of {plan['records']}, "
        f"{plan['assumed_loss_evaluations']} loss evaluations assumed"
    )
    print(
        f"{'tokens from the subject on':28} {plan['suffix_tokens']:.0f}, {plan['upper_layers']} layers above"
    )
    print(f"{'token_layers an evaluation':28} {plan['token_layers_per_evaluation']:,.0f}")
    print(f"{'token_layers an edit':28} {plan['token_layers']:,.0f}")
    for rate in plan["npu_seconds"]:
        name = f"{rate['device']}, {rate['tokens_per_second']:.0f} tokens/s of {rate['model']}"
        print(f"{name:60} {rate['at_the_rate_of_rows_s']:.1f} to {rate['at_the_rate_of_chunks_s']:.1f} s")


if __name__ == "__main__":
    try:
        main()
    except (AgentError, WorkloadInputError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
