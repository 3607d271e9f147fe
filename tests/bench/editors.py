"""Compares the phone's methods with the baselines on the same records, weights and layer.

python tests/bench/editors.py [--records N] [--methods a,b] [--output FILE]

Every method runs in a process of its own: all edits first, then the peak of its memory is read, then the
edited models are measured. Without the shared data the facts that come with MobiFarm are edited.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mobifarm.agent.editor.bundle_files import MappedTensors
from mobifarm.agent.editor.manifest import MANIFEST_NAME, parse_manifest, prepared_tensors
from mobifarm.agent.editor.methods import METHOD_NAMES
from mobifarm.agent.editor.prepared import load_prepared
from mobifarm.agent.errors import AgentError, InputError
from mobifarm.workloads.baselines.settings import BASELINE_NAMES
from mobifarm.workloads.datasets import read_records, without_subjects_of
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.metrics.comparison import (
    COSTS,
    Estimate,
    MeasuredEdit,
    cost_per_success,
    cost_ratio,
    mean_metric,
    median_cost,
)
from mobifarm.workloads.metrics.language_model import EditedModel, Editor
from mobifarm.workloads.metrics.measures import (
    METRIC_NAMES,
    Extent,
    failed_metrics,
    first_choices,
    mean_nll,
    measure,
    text_windows,
)
from mobifarm.workloads.models.sources import SMOLLM2_NAME, find_source
from mobifarm.workloads.paths import bundles_directory

ROOT = Path(__file__).parents[2]
SHARED_DATA = Path(os.environ.get("MOBIFARM_SHARED_DATA", ROOT.parent / "shared" / "data"))
COUNTERFACT = SHARED_DATA / "counterfact" / "counterfact_full_250.json"
WIKITEXT = SHARED_DATA / "text" / "wikitext2_test.txt"
PERSONAL_FACTS = ROOT / "workloads" / "data" / "personal_facts.json"
METHODS = (*BASELINE_NAMES, *METHOD_NAMES)
# As published, one edit may take 600 steps of 70 whole sequences each.
SLOW = ("mobiedit",)
REFERENCES = ("rome", "mobiedit")
WINDOWS, WINDOW_TOKENS = 4, 128
SEED = 0
MIB = 2**20
_SAME_WHEN_RESUMED = ("model", "edit_layer", "data", "threads", "second_moment")
_LABEL_WIDTH, _CELL_WIDTH = 44, 22


def main() -> None:
    arguments = _arguments()
    try:
        if arguments.worker:
            _work(arguments)
        else:
            _compare(arguments)
    except (WorkloadInputError, AgentError) as error:
        sys.exit(f"error: {error}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    data = COUNTERFACT if COUNTERFACT.is_file() else PERSONAL_FACTS
    parser.add_argument("--model", default=SMOLLM2_NAME, help="a model that `mobifarm models build` takes")
    parser.add_argument("--bundle", type=Path, help="the model's bundle (default: the one in the user cache)")
    parser.add_argument("--data", type=Path, default=data, help="JSON file of edit records")
    parser.add_argument(
        "--exclude",
        type=Path,
        help="leave out facts about the subjects of this file, such as those of a preparation",
    )
    parser.add_argument("--records", type=int, default=4, help="how many, evenly spread; 200 for a full run")
    parser.add_argument(
        "--methods",
        default=",".join(name for name in METHODS if name not in SLOW),
        help=f"of {', '.join(METHODS)};\nNAME:N takes the first N of the records alone, as mobiedit:2;\n"
        "NAME+LABEL is the method once more, with settings of its own",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="a setting, as mobiedit.cache=exact or forward+long.contexts=6",
    )
    parser.add_argument(
        "--second-moment",
        choices=("bundle", "identity"),
        default="bundle",
        help="C of the baselines with ROME: the bundle's, where it was prepared, or the identity",
    )
    parser.add_argument("--text", type=Path, default=WIKITEXT, help="ordinary text for the perplexity")
    parser.add_argument("--with-text", type=int, default=1, help="records with fluency and perplexity drift")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--at-once",
        type=int,
        default=1,
        help="methods that run at the same time; above 1 seconds mean little",
    )
    parser.add_argument("--output", type=Path, help="also write everything as JSON to this file")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="take methods that stand in --output, on these records, from there",
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        arguments.limits = _limits(arguments.methods)
    except ValueError as error:
        parser.error(str(error))
    if min(arguments.records, arguments.threads, arguments.at_once) < 1:
        parser.error("--records, --threads and --at-once must be at least 1")
    if arguments.resume and not arguments.output:
        parser.error("--resume needs --output: name the file of the run to go on with")
    return arguments


def _limits(methods: str) -> dict[str, int | None]:
    """Method → how many records it takes, None for all; raises ValueError for what is no method."""
    limits: dict[str, int | None] = {}
    for text in methods.split(","):
        name, _, number = text.partition(":")
        if _method(name) not in METHODS:
            raise ValueError(f"{_method(name)} is no method: choose of {', '.join(METHODS)}")
        if number and (not number.isdecimal() or not int(number)):
            raise ValueError(f"{text} names no number of records: write {name}:2 for the first two")
        limits[name] = int(number) if number else None
    return limits


def _method(name: str) -> str:
    """The method that runs under this name: ``forward+long`` is ``forward``."""
    return name.partition("+")[0]


# --- one method, in its own process ------------------------------------------------------------------------


def _work(arguments: argparse.Namespace) -> None:
    """Edit, read the peak of the memory, measure; one JSON line per event on stdout."""
    records = _records(arguments)[: arguments.limits[arguments.worker]]
    editor = _editor(arguments)
    _reset_peak_rss()
    edited: list[EditedModel | str] = []
    for record in records:
        try:
            edited.append(editor.edit(record, time.monotonic))
        except InputError as error:
            edited.append(str(error))
        _say(event="edited")
    peak = _peak_rss_bytes()
    unedited = editor.unedited
    windows = []
    if arguments.with_text and arguments.text.is_file():
        text = arguments.text.read_text("utf-8")
        windows = text_windows(unedited.texts, text, count=WINDOWS, tokens=WINDOW_TOKENS)
    nll = mean_nll(unedited, windows) if windows else math.nan
    edits = []
    for number, (record, found) in enumerate(zip(records, edited, strict=True)):
        extent = Extent(seed=SEED)
        if number < arguments.with_text:
            extent = Extent(fluency=True, windows=windows, windows_nll=nll, seed=SEED)
        if isinstance(found, str):
            nothing = dict.fromkeys(COSTS, 0.0)
            edits.append(
                MeasuredEdit(record.record_id, failed_metrics(record, extent), nothing, False, found)
            )
        else:
            metrics = measure(found.model, record, first_choices(unedited, record), extent)
            cost = {name: float(getattr(found.cost, name)) for name in COSTS}
            edits.append(MeasuredEdit(record.record_id, metrics, cost, found.converged))
        _say(event="measured")
    _say(event="done", peak_rss_bytes=peak, edits=[dataclasses.asdict(edit) for edit in edits])


def _editor(arguments: argparse.Namespace) -> Editor:
    method, folder = _method(arguments.worker), _bundle_folder(arguments)
    if method in METHOD_NAMES:
        from mobifarm.agent.editor.bundle import Bundle
        from mobifarm.workloads.metrics.bundle_model import BundleEditor

        bundle = Bundle.open(folder, threads=arguments.threads, verify=False)
        return BundleEditor(bundle, method, _settings(arguments.set, arguments.worker), SEED)
    import torch

    from mobifarm.workloads.baselines.editors import baseline
    from mobifarm.workloads.baselines.texts import BundleTexts
    from mobifarm.workloads.preparation.decoder import TorchDecoder

    torch.set_num_threads(arguments.threads)
    checkpoint = find_source(arguments.model).load(lambda words: None)
    texts = BundleTexts(folder)
    inverse = None
    if arguments.second_moment == "bundle":
        inverse = load_prepared(MappedTensors(folder), texts.manifest).inverse_second_moment
    return baseline(method, TorchDecoder(checkpoint), texts, inverse_second_moment=inverse)


def _records(arguments: argparse.Namespace) -> list[Any]:
    records = read_records(arguments.data)
    if arguments.exclude:
        records = without_subjects_of(records, read_records(arguments.exclude))
    chosen = np.linspace(0, len(records), min(arguments.records, len(records)), endpoint=False)
    return [records[int(index)] for index in chosen]


def _bundle_folder(arguments: argparse.Namespace) -> Path:
    folder: Path = arguments.bundle or bundles_directory() / find_source(arguments.model).name
    if not folder.is_dir():
        raise WorkloadInputError(
            f"there is no bundle of {arguments.model}: run `mobifarm models build {arguments.model}`"
        )
    return folder


def _settings(given: list[str], method: str) -> dict[str, object]:
    settings: dict[str, object] = {}
    for text in given:
        name, _, value = text.partition("=")
        owner, _, setting = name.partition(".")
        if owner == method:
            try:
                settings[setting] = float(value)
            except ValueError:
                settings[setting] = value
    return settings


def _reset_peak_rss() -> None:
    """Loading a checkpoint takes more than editing does, and is no part of it."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def _peak_rss_bytes() -> int:
    # getrusage would also remember the parent's memory; this belongs to the program alone.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


# --- all methods, side by side -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What one method's process found."""

    edits: list[MeasuredEdit]
    peak_rss_bytes: int


def _compare(arguments: argparse.Namespace) -> None:
    _bundle_folder(arguments)
    count = len(_records(arguments))
    found = _done_before(arguments) if arguments.resume else {}
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(arguments.at_once) as pool,
    ):
        waiting = {}
        for method, limit in arguments.limits.items():
            if method in found:
                continue
            task = progress.add_task(method, total=2 * (min(limit, count) if limit else count))
            waiting[pool.submit(_run_worker, method, partial(progress.advance, task))] = method
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
            runs = {method: found[method] for method in arguments.limits if method in found}
            if arguments.output:
                # After every method, so that a long run that is cut short leaves what it has.
                text = json.dumps(_document(runs, arguments), indent=1, allow_nan=False)
                arguments.output.write_text(text + "\n")
    table = _table({method: found[method] for method in arguments.limits}, count, arguments)
    Console(width=_LABEL_WIDTH + _CELL_WIDTH * len(found)).print(table)
    if arguments.output:
        print(f"written to {arguments.output}")


def _done_before(arguments: argparse.Namespace) -> dict[str, Run]:
    """The methods that an interrupted run has finished, on the same records under the same settings."""
    if not arguments.output.is_file():
        return {}
    document = json.loads(arguments.output.read_text())
    now = _document({}, arguments)
    if any(document.get(name) != now[name] for name in _SAME_WHEN_RESUMED):
        return {}
    records = [record.record_id for record in _records(arguments)]
    found = {}
    for method, limit in arguments.limits.items():
        stored = document["methods"].get(method)
        if not stored:
            continue
        theirs = [text for text in document["settings"] if text.startswith(f"{method}.")]
        ours = [text for text in arguments.set if text.startswith(f"{method}.")]
        edits = [MeasuredEdit(**edit) for edit in stored["edits"]]
        if theirs == ours and [edit.record_id for edit in edits] == records[:limit]:
            found[method] = Run(edits, stored["peak_rss_bytes"])
    return found


def _run_worker(method: str, tick: Callable[[], None]) -> Run:
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--worker", method]
    done: dict[str, Any] | None = None
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}  # as an agent's
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "done":
                done = event
            else:
                tick()
    if process.returncode or done is None:
        raise WorkloadInputError(
            f"the process of {method} ended with {process.returncode}; its message stands above"
        )
    return Run([MeasuredEdit(**edit) for edit in done["edits"]], done["peak_rss_bytes"])


def _estimates(runs: dict[str, Run], method: str) -> dict[str, Estimate | None]:
    generator = np.random.default_rng(SEED)
    edits = runs[method].edits
    found = {name: mean_metric(edits, name, generator) for name in METRIC_NAMES}
    for name in COSTS:
        found[f"{name}_median"] = median_cost(edits, name, generator)
        found[f"{name}_per_success"] = cost_per_success(edits, name, generator)
        for reference in REFERENCES:
            if reference in runs:
                ratio = cost_ratio(edits, runs[reference].edits, name, generator)
                found[f"{name}_ratio_{reference}"] = ratio
    return found


def _table(runs: dict[str, Run], count: int, arguments: argparse.Namespace) -> Table:
    model = find_source(arguments.model).name
    title = f"{model}, {count} records of {arguments.data.name}, 95 % intervals in brackets"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("measure", no_wrap=True)
    for method in runs:
        table.add_column(method, justify="right", no_wrap=True)
    estimates = {method: _estimates(runs, method) for method in runs}
    references = [name for name in REFERENCES if name in runs]

    def row(label: str, name: str, scale: float = 1) -> None:
        table.add_row(label, *(_cell(estimates[method][name], scale) for method in runs))

    for name in METRIC_NAMES:
        words = name.replace("_", " ")
        row(f"{words}, bits" if name == "fluency" else f"{words}, %", name, 1 if name == "fluency" else 100)
    table.add_section()
    for name in COSTS:
        row(f"{name}, median of successes", f"{name}_median")
        row(f"{name}, all / successes", f"{name}_per_success")
        for reference in references:
            row(f"  times less than {reference}", f"{name}_ratio_{reference}")
    table.add_row("peak RSS, MiB", *(f"{run.peak_rss_bytes / MIB:.0f}" for run in runs.values()))
    for reference in references:
        peaks = [runs[reference].peak_rss_bytes / run.peak_rss_bytes for run in runs.values()]
        table.add_row(f"  times less than {reference}", *(f"{ratio:.2f}" for ratio in peaks))
    table.add_row(
        "goal of the method reached", *(str(sum(e.converged for e in r.edits)) for r in runs.values())
    )
    table.add_row("records", *(str(len(r.edits)) for r in runs.values()))
    table.add_row("failed", *(str(sum(bool(e.failure) for e in r.edits)) for r in runs.values()))
    return table


def _cell(estimate: Estimate | None, scale: float = 1) -> str:
    if estimate is None:
        return "–"
    value, low, high = (
        _short(scale * x) for x in (estimate.value, estimate.interval.low, estimate.interval.high)
    )
    return value if value == low == high else f"{value} [{low}, {high}]"


def _short(value: float) -> str:
    if not math.isfinite(value):
        return "∞"
    if abs(value) >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _document(runs: dict[str, Run], arguments: argparse.Namespace) -> dict[str, Any]:
    manifest = parse_manifest((_bundle_folder(arguments) / MANIFEST_NAME).read_bytes())
    prepared = bool(prepared_tensors(manifest))

    def plain(estimate: Estimate | None) -> dict[str, Any] | None:
        if estimate is None:
            return None
        numbers = (estimate.value, estimate.interval.low, estimate.interval.high)
        value, low, high = (x if math.isfinite(x) else None for x in numbers)
        return {"value": value, "low": low, "high": high, "records": estimate.count}

    return {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": find_source(arguments.model).name,
        "edit_layer": manifest.edit_layer,
        "data": arguments.data.name,
        "excluded": arguments.exclude.name if arguments.exclude else None,
        "threads": arguments.threads,
        "methods_at_once": arguments.at_once,
        "second_moment": "bundle" if prepared and arguments.second_moment == "bundle" else "identity",
        "settings": arguments.set,
        "methods": {
            method: {
                "peak_rss_bytes": run.peak_rss_bytes,
                "estimates": {name: plain(e) for name, e in _estimates(runs, method).items()},
                "edits": [dataclasses.asdict(edit) for edit in run.edits],
            }
            for method, run in runs.items()
        },
    }


if __name__ == "__main__":
    main()
