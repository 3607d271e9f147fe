from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from mobifarm.agent.editor.bundle import Bundle
from mobifarm.agent.editor.bundle_files import read_manifest, verify_bundle
from mobifarm.agent.editor.prepared import output_gradients
from mobifarm.agent.errors import BundleError
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.build import build_bundle
from mobifarm.workloads.models.cli import app
from mobifarm.workloads.models.sources import TinyRandom
from mobifarm.workloads.preparation import prepare as module
from mobifarm.workloads.preparation.prepare import PreparationSettings, prepare_bundle

SETTINGS = PreparationSettings(
    tokens=1024, facts=24, path_facts=24, trial_facts=3, layers=(0, 1), path_steps=5
)


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, to_learn_from: Callable[[Path, int], dict[str, Path]]
) -> dict[str, Path]:
    return to_learn_from(tmp_path_factory.mktemp("inputs"), 24)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path]) -> Path:
    directory = tmp_path_factory.mktemp("bundles")
    return prepare_bundle(TinyRandom(), directory, settings=SETTINGS, **inputs).path


def test_a_prepared_bundle_is_whole_and_has_another_hash(prepared: Path, inputs: dict[str, Path]) -> None:
    plain = build_bundle(TinyRandom(), prepared.parent / "plain")
    manifest, digest = read_manifest(prepared)
    assert verify_bundle(prepared, digest) == manifest.size_bytes
    assert digest != plain.bundle_hash
    report = manifest.extras["preparation"]
    assert [trial["layer"] for trial in report["layer_trials"]] == [0, 1]
    assert manifest.edit_layer in (0, 1)
    assert -1 <= report["cosine_start"] <= 1
    assert not list(prepared.parent.glob(".*-preparation-*"))


def test_preparing_or_building_again_changes_nothing(prepared: Path, inputs: dict[str, Path]) -> None:
    _, digest = read_manifest(prepared)
    again = prepare_bundle(TinyRandom(), prepared.parent, settings=SETTINGS, **inputs)
    assert (again.built, again.bundle_hash) == (False, digest)
    assert build_bundle(TinyRandom(), prepared.parent).bundle_hash == digest


def test_facts_to_evaluate_on_are_not_learned(
    tmp_path: Path, prepared: Path, inputs: dict[str, Path]
) -> None:
    facts = json.loads(inputs["facts"].read_text())
    kept, judged = tmp_path / "kept.json", tmp_path / "judged.json"
    kept.write_text(json.dumps(facts[5:]))
    judged.write_text(json.dumps(facts[:5]))

    def learned(directory: str, **chosen: Path) -> bytes:
        bundle = prepare_bundle(TinyRandom(), tmp_path / directory, settings=SETTINGS, **{**inputs, **chosen})
        return (bundle.path / "prepared.bin").read_bytes()

    excluded = learned("excluded", exclude=judged)
    assert excluded == learned("kept", facts=kept)
    assert excluded != (prepared / "prepared.bin").read_bytes()


def test_an_interrupted_run_goes_on_and_gives_the_same_bundle(
    tmp_path: Path, prepared: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module._write

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_bundle(TinyRandom(), tmp_path, settings=SETTINGS, **inputs)
    (work,) = tmp_path.glob(".*-preparation-*")
    times = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert {"moments.npz", "trial-0.json", "trial-1.json"} <= times.keys()

    def finished(*arguments: object) -> object:
        assert {path.name: path.stat().st_mtime_ns for path in work.iterdir()} == times
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_write", finished)
    result = prepare_bundle(TinyRandom(), tmp_path, settings=SETTINGS, **inputs)
    assert result.bundle_hash == read_manifest(prepared)[1]


def test_a_fact_that_does_not_fit_is_left_out(
    tmp_path: Path, inputs: dict[str, Path], prepared: Path
) -> None:
    facts = json.loads(inputs["facts"].read_text())
    long = "word " * 300
    too_long = {**facts[20], "prompt": long + facts[20]["prompt"]}
    too_long_to_ask = {**facts[21], "rephrase_prompt": long}
    kept, longer = tmp_path / "kept.json", tmp_path / "longer.json"
    kept.write_text(json.dumps(facts[:20]))
    longer.write_text(json.dumps([too_long, *facts[:20], too_long_to_ask]))

    def learned(directory: str, facts: Path) -> bytes:
        chosen = {**inputs, "facts": facts}
        bundle = prepare_bundle(TinyRandom(), tmp_path / directory, settings=SETTINGS, **chosen)
        return (bundle.path / "prepared.bin").read_bytes()

    assert learned("longer", longer) == learned("kept", kept)


def test_too_few_facts_that_fit_are_told(tmp_path: Path, inputs: dict[str, Path]) -> None:
    facts = json.loads(inputs["facts"].read_text())
    longer = tmp_path / "longer.json"
    long = [{**fact, "prompt": "word " * 300 + fact["prompt"]} for fact in facts[9:]]
    longer.write_text(json.dumps(facts[:9] + long))
    with pytest.raises(WorkloadInputError, match="only 9 facts fit the 512 tokens of the model: at least 16"):
        prepare_bundle(TinyRandom(), tmp_path, settings=SETTINGS, **{**inputs, "facts": longer})


def test_other_prompts_are_another_preparation(
    tmp_path: Path, prepared: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_with(text: str) -> str:
        changed = tmp_path / "contexts.py"
        changed.write_text(text)
        monkeypatch.setattr(module, "_OTHER_CODE", (str(changed),))
        return module._inputs_hash(TinyRandom(), inputs["text"], inputs["facts"], None, SETTINGS)

    assert hash_with("PREFIXES = 1") != hash_with("PREFIXES = 2")
    assert hash_with("PREFIXES = 1") == hash_with("PREFIXES = 1")


def test_of_two_runs_at_once_the_second_finds_the_bundle(tmp_path: Path, inputs: dict[str, Path]) -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(prepare_bundle, TinyRandom(), tmp_path, settings=SETTINGS, **inputs) for _ in range(2)
        ]
        first, second = (run.result(timeout=120) for run in runs)
    assert {first.built, second.built} == {True, False}
    assert first.bundle_hash == second.bundle_hash


def test_the_phone_reads_what_was_learned(prepared: Path) -> None:
    bundle = Bundle.open(prepared, threads=1)
    extras = bundle.prepared
    assert extras.inverse_second_moment is not None
    assert extras.surrogate is not None
    assert extras.subspace is not None
    key = np.random.default_rng(0).standard_normal(bundle.architecture.intermediate)
    assert key @ extras.edit_key(key[None]) == pytest.approx(1)
    directions = np.asarray(extras.subspace.directions, np.float64)
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=5e-3)


def test_the_output_gradient_is_that_of_the_graph(prepared: Path) -> None:
    """A step against the gradient at the final residual must change log p as predicted: compare with
    central differences of the read-out, done in numpy from the bundle's own tensors."""
    bundle = Bundle.open(prepared, threads=1)
    surrogate = bundle.prepared.surrogate
    assert surrogate is not None
    tokens = bundle.tokenize("Person 3 lives in")
    low = bundle.lower(np.array([tokens]))
    delta = np.zeros((1, bundle.architecture.hidden), np.float32)
    out = bundle.upper(
        low.residual,
        None,
        delta,
        [len(tokens) - 1],
        [65],
        with_log_softmax=True,
        with_final_residual=True,
    )
    assert out.log_softmax is not None
    assert out.final_residual is not None
    rows = np.asarray(bundle.output_rows(np.arange(bundle.architecture.vocabulary)), np.float64)

    def nll(state: np.ndarray) -> float:
        normed = state / np.sqrt((state**2).mean() + surrogate.epsilon) * surrogate.final_norm
        logits = rows @ normed
        return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[65])

    state = out.final_residual[0, 0].astype(np.float64)
    assert nll(state) == pytest.approx(-float(out.log_probabilities[0, 0]), abs=0.02)
    [gradient] = output_gradients(bundle, surrogate, out.log_softmax[0], [state], [65])
    numeric = np.array([(nll(state + 1e-4 * unit) - nll(state - 1e-4 * unit)) / 2e-4 for unit in np.eye(64)])
    cosine = gradient @ numeric / np.linalg.norm(gradient) / np.linalg.norm(numeric)
    assert cosine > 0.999


def test_a_manifest_whose_preparation_lacks_a_tensor_is_refused(prepared: Path, tmp_path: Path) -> None:
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = json.loads((tmp_path / "manifest.json").read_text())
    del raw["extras"]["preparation"]["tensors"]["surrogate"]
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="prepare it again"):
        Bundle.open(tmp_path, threads=1)


def test_bundles_without_extras_use_the_identity(tmp_path: Path) -> None:
    bundle = Bundle.open(build_bundle(TinyRandom(), tmp_path).path, threads=1)
    key = np.arange(1.0, 1 + bundle.architecture.intermediate)
    np.testing.assert_allclose(bundle.prepared.edit_key(key[None]), key / (key @ key))
    assert bundle.prepared.surrogate is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "missing.txt"}, "cannot be read"),
        ({"facts": "missing.json"}, "cannot be read"),
        ({"layers": "7"}, "choose from 0 to 2"),
        ({"exclude": "facts.json"}, "has 0 facts beside those of facts.json: at least 16"),
    ],
)
def test_mistakes_give_one_sentence(
    tmp_path: Path, inputs: dict[str, Path], changes: dict[str, str], words: str
) -> None:
    files = {
        name: str(tmp_path / changes[name] if name in changes else path) for name, path in inputs.items()
    }
    arguments = ["prepare", "tiny-random", "--output", str(tmp_path), "--text", files["text"]]
    arguments += ["--facts", files["facts"]]
    if "layers" in changes:
        arguments += ["--layer", changes["layers"]]
    if "exclude" in changes:
        arguments += ["--exclude", files["facts"]]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 2, outcome.output
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert words in line
