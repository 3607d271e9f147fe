"""The baselines behind an agent's service, on a small model: scores, costs, refusals, cancelling."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobifarm.agent.conversion import finished_result
from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.agent.editor.edit import EditOrder
from mobifarm.agent.editor.types import EditPhase, EditProgress, EditRecord, EditStatus, Probe, ProbeKind
from mobifarm.agent.errors import BundleError, BundleNotFound, Cancelled, InputError
from mobifarm.agent.runner import EditJob, FinishedEdit
from mobifarm.workloads.baselines.runner import BaselineRunner
from mobifarm.workloads.baselines.settings import BASELINE_NAMES
from mobifarm.workloads.messages import result_to_mapping
from mobifarm.workloads.models.build import build_bundle
from mobifarm.workloads.models.sources import TinyRandom
from mobifarm.workloads.scores import quality

RECORD = EditRecord(
    record_id="r1",
    subject="Ada",
    prompt="The dog of Ada is",
    target_new="Rex",
    target_true="Bo",
    paraphrases=("Ada's dog is called",),
    neighbours=(Probe("The dog of Tim is", "Max"),),
    portability=(Probe("The dog of Ada starts with", "R"),),
)
KINDS = [ProbeKind.EFFICACY, ProbeKind.PARAPHRASE, ProbeKind.NEIGHBOURHOOD, ProbeKind.PORTABILITY]

Place = Callable[[Path], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundles"
    made.mkdir()
    return made


@pytest.fixture
def place(folder: Path) -> Place:
    """Links a bundle as the farm does, under its hash."""

    def link(bundle: Path) -> str:
        _, bundle_hash = read_manifest(bundle)
        (folder / bundle_hash).symlink_to(bundle, target_is_directory=True)
        return bundle_hash

    return link


@pytest.fixture
def bundle_hash(place: Place, tiny_bundle_path: Path) -> str:
    return place(tiny_bundle_path)


@pytest.fixture
def runner(folder: Path) -> BaselineRunner:
    return BaselineRunner(folder, threads=1)


def job(bundle_hash: str, method: str = "rome", **settings: Any) -> EditJob:
    return EditJob(bundle_hash, RECORD, method, settings, seed=0)


def run(runner: BaselineRunner, wanted: EditJob, signs: list[EditProgress] | None = None) -> FinishedEdit:
    runner.validate(wanted)
    report = [] if signs is None else signs
    return runner.run(wanted, report=report.append, cancelled=lambda: False)


def test_every_baseline_gives_a_phones_kind_of_result(runner: BaselineRunner, bundle_hash: str) -> None:
    assert runner.check_bundle(bundle_hash).bundle_hash == bundle_hash
    before = []
    for name in BASELINE_NAMES:
        finished = run(runner, job(bundle_hash, name))
        outcome = finished.outcome
        assert [score.kind for score in outcome.scores] == KINDS
        before.append([(score.wanted_before, score.other_before) for score in outcome.scores])
        assert finished.returned_to_base
        result = result_to_mapping(finished_result("a1", job(bundle_hash, name), finished, kept=False))
        assert result["execution"]["settings_hash"]
        found = quality(result["scores"], "after").edit_success
        assert found == (quality(result["scores"], "before").edit_success if name == "unedited" else 1.0), (
            name
        )
        assert (outcome.cost.edit_s > 0) == (name != "unedited")
    # Whatever was edited before, every edit starts from the same model.
    assert all(scores == before[0] for scores in before)


def test_the_unedited_model_answers_the_same_before_and_after(
    runner: BaselineRunner, bundle_hash: str
) -> None:
    finished = run(runner, job(bundle_hash, "unedited"))
    assert finished.outcome.status is EditStatus.STEP_LIMIT
    assert finished.outcome.cost.token_layers == 0
    for score in finished.outcome.scores:
        assert (score.wanted_after, score.other_after) == (score.wanted_before, score.other_before)


def test_the_model_is_loaded_once_and_settings_are_complete(runner: BaselineRunner, bundle_hash: str) -> None:
    signs: list[EditProgress] = []
    first = run(runner, job(bundle_hash, "rome", steps=3), signs)
    second = run(runner, job(bundle_hash, "rome", steps=3))
    assert first.load_s > 0
    assert second.load_s == 0
    assert second.outcome.scores == first.outcome.scores
    settings = json.loads(first.settings_json)
    assert (settings["steps"], settings["contexts"]) == (3, 6)
    assert [sign.phase for sign in signs if sign.phase is not EditPhase.OPTIMISING] == [
        EditPhase.LOADING,
        EditPhase.EVALUATING_BEFORE,
        EditPhase.CACHING,
        EditPhase.EVALUATING_AFTER,
    ]
    steps = [sign for sign in signs if sign.phase is EditPhase.OPTIMISING]
    assert [sign.step for sign in steps] == [1, 2, 3]
    assert steps[-1].step_limit == 3
    assert steps[2].target_probability > steps[1].target_probability > 0


def test_a_cancelled_edit_stops_and_leaves_the_model_as_it_was(
    runner: BaselineRunner, bundle_hash: str
) -> None:
    whole = run(runner, job(bundle_hash))
    steps: list[EditProgress] = []

    def report(progress: EditProgress) -> None:
        if progress.phase is EditPhase.OPTIMISING:
            steps.append(progress)

    with pytest.raises(Cancelled):
        runner.run(job(bundle_hash), report=report, cancelled=lambda: len(steps) == 2)
    assert len(steps) == 2
    assert run(runner, job(bundle_hash)).outcome.scores == whole.outcome.scores


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "forward"}, "no baseline"),
        ({"settings": {"magic": 1}}, "magic"),
        ({"settings": {"steps": 0}}, "steps is 0"),
        ({"record": replace(RECORD, prompt="Ada " + "and so on " * 100)}, "tokens"),
        ({"record": replace(RECORD, target_true=" \n")}, "answer"),
        (
            {"method": "in_context", "record": replace(RECORD, prompt="Ada " + "and so on " * 30)},
            "the fact and the longest question",
        ),
        ({"bundle_hash": "../etc"}, "64 hexadecimal digits"),
        ({"keep": EditOrder.TOGETHER}, "keeps no edits"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_starts(
    runner: BaselineRunner, bundle_hash: str, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        runner.validate(replace(job(bundle_hash), **change))


def test_a_bundle_that_is_not_there_or_damaged_is_no_fault_of_the_edit(
    runner: BaselineRunner, place: Place, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleNotFound):
        runner.validate(job("0" * 64))
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle_path, copy)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        runner.check_bundle(place(copy))


def test_weights_that_are_not_those_of_the_bundle_are_refused(
    runner: BaselineRunner, place: Place, tmp_path: Path
) -> None:
    other = build_bundle(TinyRandom(seed=1), tmp_path / "other").path
    manifest, _ = read_manifest(other)
    claimed = replace(manifest, provenance={**manifest.provenance, **TinyRandom().origin})
    (other / "manifest.json").write_bytes(claimed.to_bytes())
    bundle_hash = place(other)
    with pytest.raises(BundleError, match="not those that the model bundle tiny-random was built"):
        run(runner, job(bundle_hash))


def test_a_bundle_that_was_built_anew_is_not_taken_for_the_one_before(
    runner: BaselineRunner, place: Place, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle_path, copy)
    bundle_hash = place(copy)
    runner.validate(job(bundle_hash))
    manifest, _ = read_manifest(copy)
    (copy / "manifest.json").write_bytes(replace(manifest, edit_layer=2).to_bytes())
    with pytest.raises(BundleError, match="built anew"):
        run(runner, job(bundle_hash))


def test_a_bundle_without_its_source_is_refused(
    runner: BaselineRunner, place: Place, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(tiny_bundle_path, foreign)
    manifest, _ = read_manifest(foreign)
    origin = {"model": "Foreign", "source": "local Hugging Face folder", "licence": "unknown"}
    (foreign / "manifest.json").write_bytes(replace(manifest, provenance=origin).to_bytes())
    with pytest.raises(BundleError, match="are not on this computer"):
        runner.check_bundle(place(foreign))
