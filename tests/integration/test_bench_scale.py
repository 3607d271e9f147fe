"""The benchmark of large models, from its command line to its JSON, on a tiny shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobifarm.agent.editor.contexts import tokenize_contexts, tokenize_key_contexts
from mobifarm.workloads.baselines.texts import BundleTexts
from mobifarm.workloads.datasets import read_records
from mobifarm.workloads.preparation.fit import LARGEST_RANK

BENCHES = Path(__file__).parents[1] / "bench"
FACTS = Path(__file__).parents[2] / "workloads" / "data" / "personal_facts.json"
NAME = "tiny-shape"


def run(tokenizer: Path, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHES / "scale.py"), "--shape", NAME, "--tokenizer", str(tokenizer)]
    command += ["--work", str(work), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


@pytest.fixture(scope="module")
def work(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("scale")
    outcome = run(
        tiny_bundle_path / "tokenizer.json", work, "--keep", "--threads", "1", "--json", str(work / "a.json")
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "estimated, median of 72 records" in outcome.stdout
    return work


def document_in(path: Path) -> dict[str, Any]:
    [document] = json.loads(path.read_text())["shapes"]
    assert isinstance(document, dict)
    return document


def test_sizes_and_memory_are_measured(work: Path) -> None:
    document = document_in(work / "a.json")
    bundle = work / NAME / "bundles" / NAME
    build, edit, preparation = document["build"], document["edit"], document["preparation"]
    assert build["weights_bytes"] == (bundle / "weights.bin").stat().st_size
    assert preparation["prepared_bundle_bytes"] > build["bundle_bytes"]
    # Rank and sizes are those of a preparation of this shape: d = 64, f = 128.
    rank = min(LARGEST_RANK, 128)
    assert preparation["tensors_bytes"]["second_moment_factor"] == 128 * rank * 2
    assert preparation["tensors_bytes"]["surrogate"] == 7 * 64 * 64 * 2
    assert 0 < edit["most_anonymous_bytes"] < edit["peak_rss_bytes"]
    assert edit["peak_rss_bytes"] < build["peak_rss_bytes"]
    assert edit["steps"] == 2
    assert edit["returned_to_base"]


def test_the_plan_counts_what_the_editor_counts(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHES)
    from scale_plan import plan_edit

    document, texts = document_in(work / "a.json"), BundleTexts(work / NAME / "bundles" / NAME)
    edit, record = document["edit"], read_records(FACTS)[0]
    plan = plan_edit(
        texts.architecture,
        texts.manifest.edit_layer,
        tokenize_contexts(texts, record, 3),
        edit["loss_evaluations"],
        key_contexts=tokenize_key_contexts(texts, record),
        settled=0,
    )
    # A probe takes one context of three, and loss evaluations are rounded up.
    assert 0 <= plan.token_layers - edit["token_layers"] < plan.per_evaluation
    estimated = document["plan"]
    assert estimated["token_layers"] > edit["token_layers"]
    for rate in estimated["npu_seconds"]:
        assert 0 < rate["at_the_rate_of_rows_s"] <= rate["at_the_rate_of_chunks_s"]


def test_what_ran_is_not_run_again_and_goes_in_the_end(work: Path, tiny_bundle_path: Path) -> None:
    outcome = run(tiny_bundle_path / "tokenizer.json", work, "--json", str(work / "b.json"))
    assert outcome.returncode == 0, outcome.stderr
    assert "…" not in outcome.stderr
    assert document_in(work / "b.json") == document_in(work / "a.json")
    assert not (work / NAME).exists()


def test_a_missing_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    outcome = run(tmp_path / "none.json", tmp_path)
    assert outcome.returncode == 2
    assert "error: there is no tokenizer in" in outcome.stderr
    assert "Traceback" not in outcome.stderr
