"""The static graphs: what they compute, on the processor and on Qualcomm's HTP emulator."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

from mobifarm.agent.accelerator import WORKER_SOCKET, Accelerator
from mobifarm.agent.backends import BackendError
from mobifarm.agent.backends.cpu import CpuBackend
from mobifarm.agent.backends.interface import Backend, Placement
from mobifarm.agent.backends.serve import serve
from mobifarm.agent.backends.snapdragon import CHIPS
from mobifarm.agent.backends.worker import SpawnedLink
from mobifarm.agent.editor import EditRecord, edit
from mobifarm.agent.editor.bundle_files import read_manifest, verify_bundle
from mobifarm.agent.editor.evaluation import Scorer, questions, tokenize_questions
from mobifarm.agent.editor.npu import AcceleratedBundle, NpuModel, npu_graphs
from mobifarm.agent.model_runner import ModelRunner
from mobifarm.agent.runner import EditJob, FinishedEdit
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.cli import app as models
from mobifarm.workloads.models.compile import compile_bundle
from mobifarm.workloads.models.npu import build_npu_bundle
from mobifarm.workloads.models.sources import find_source
from mobifarm.workloads.models.static_graph import Scheme

RECORD = EditRecord("1", "Mira", "Mira is", "A", "9", paraphrases=("I know Mira. Mira is",))
QUICK = {"contexts": 2, "directions": 4, "step_limit": 2, "memory": 1}
CHIP = "SM8650"


@pytest.fixture(scope="module")
def npu_bundle(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    base = Path(shutil.copytree(tiny_bundle_path, folder / "tiny-random"))
    return build_npu_bundle(find_source("tiny-random"), base).path


def open_bundle(path: Path, backend: Backend) -> AcceleratedBundle:
    bundle = AcceleratedBundle.open(path, threads=1)
    graphs = npu_graphs(bundle.manifest)
    assert graphs is not None
    bundle.attach(NpuModel(path, graphs, backend))
    return bundle


def test_the_bundle_beside_it_stays_as_it_is(npu_bundle: Path, tiny_bundle_path: Path) -> None:
    base, _ = read_manifest(npu_bundle.parent / "tiny-random")
    assert base == read_manifest(tiny_bundle_path)[0]
    manifest, _ = read_manifest(npu_bundle)
    verify_bundle(npu_bundle)
    assert {name: manifest.files[name] for name in base.files} == dict(base.files)
    again = build_npu_bundle(find_source("tiny-random"), npu_bundle.parent / "tiny-random")
    assert not again.built


def test_a_forced_build_mends_both_bundles(npu_bundle: Path, tmp_path: Path) -> None:
    for name in ("tiny-random", npu_bundle.name):
        shutil.copytree(npu_bundle.parent / name, tmp_path / name)
        (tmp_path / name / "tokenizer.json").unlink()
    manifest, _ = read_manifest(npu_bundle)
    # As a file that both have by a hard link: damaged in both, and as long as before.
    damaged = tmp_path / "tiny-random" / "tokenizer.json"
    damaged.write_bytes(bytes(manifest.files["tokenizer.json"].size))
    (tmp_path / npu_bundle.name / "tokenizer.json").hardlink_to(damaged)
    command = ["build", "tiny-random", "--npu", "w8a16", "--output", str(tmp_path), "--json"]
    done = CliRunner().invoke(models, [*command, "--force"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["built"]
    for name in ("tiny-random", npu_bundle.name):
        verify_bundle(tmp_path / name)
    assert not json.loads(CliRunner().invoke(models, command).stdout)["built"]


def test_static_graphs_compute_what_the_others_do(npu_bundle: Path) -> None:
    bundle = open_bundle(npu_bundle, CpuBackend())
    tokens = np.array([bundle.tokenize("The dog of Ada is")])
    low = bundle.lower(tokens)
    cache = bundle.fill_cache(low.residual[:, :9])
    random = np.random.default_rng(0)
    delta = random.standard_normal((11, 64)).astype(np.float32)
    delta[0] = 0
    call = (low.residual[:, 9:], cache, delta, [2, 7], [65, 66])
    wanted = bundle.upper(*call, with_log_softmax=True, with_final_residual=True)
    with bundle.on_accelerator():
        found = bundle.upper(*call, with_log_softmax=True, with_final_residual=True)
    assert bundle.calls_on_processor == 0
    # Weights have 8 bits in both, activations 16 here and 14 there.
    assert np.abs(found.log_probabilities - wanted.log_probabilities).max() < 0.02
    assert found.log_softmax is not None
    assert wanted.log_softmax is not None
    assert found.final_residual is not None
    assert wanted.final_residual is not None
    assert np.abs(found.final_residual - wanted.final_residual).max() < 0.05
    assert np.abs(found.log_softmax - wanted.log_softmax).max() < 0.05
    effect = found.log_probabilities[1:] - found.log_probabilities[0]
    expected = wanted.log_probabilities[1:] - wanted.log_probabilities[0]
    assert np.corrcoef(effect.ravel(), expected.ravel())[0, 1] > 0.999


def test_a_sequence_that_does_not_fit_is_counted(npu_bundle: Path) -> None:
    bundle = open_bundle(npu_bundle, CpuBackend())
    low = bundle.lower(np.zeros((1, 65), np.int64))
    with bundle.on_accelerator():
        bundle.upper(low.residual, None, np.zeros((1, 64), np.float32), [0], [0])
    assert bundle.calls_on_processor == 1


def test_answers_of_unequal_length_are_scored_there_too(npu_bundle: Path) -> None:
    bundle = open_bundle(npu_bundle, CpuBackend())
    record = EditRecord("1", "Ada", "The dog of Ada is", "Rex", "Hieronymus", ("Ada's dog is",))
    scorer = Scorer(bundle, tokenize_questions(bundle, questions(record)))
    wanted = scorer.score(None, lambda: None)
    with bundle.on_accelerator():
        found = scorer.score(None, lambda: None)
    assert bundle.calls_on_accelerator > 0
    assert bundle.calls_on_processor == 0
    differences = [
        abs(here.log_probability - there.log_probability)
        for pair in zip(found, wanted, strict=True)
        for here, there in zip(*pair, strict=True)
        if here is not None and there is not None
    ]
    assert len(differences) == 4
    assert 0 < max(differences) < 0.05


def test_a_backend_that_computes_something_else_is_refused(npu_bundle: Path) -> None:
    class Wrong(CpuBackend):
        def run(self, graph, feeds):  # type: ignore[no-untyped-def]
            return {name: -array for name, array in super().run(graph, feeds).items()}

    with pytest.raises(BackendError, match="computes something else than the processor"):
        open_bundle(npu_bundle, Wrong())


def run_edit(home: Path, bundle_hash: str, backend: Backend | None = None) -> FinishedEdit:
    """One edit on a phone, by its worker or by ``backend`` in the place of one."""
    accelerator = Accelerator(home)
    accelerator._backend = backend
    runner = ModelRunner(home / "bundles", threads=1, accelerator=accelerator)
    job = EditJob(bundle_hash, RECORD, "forward", QUICK, 0)
    try:
        return runner.run(job, report=lambda progress: None, cancelled=lambda: False)
    finally:
        accelerator.close()


@pytest.fixture
def home(npu_bundle: Path, tmp_path: Path) -> tuple[Path, str]:
    _, bundle_hash = read_manifest(npu_bundle)
    shutil.copytree(npu_bundle, tmp_path / "bundles" / bundle_hash)
    return tmp_path, bundle_hash


def test_without_a_worker_the_processor_edits_and_says_so(home: tuple[Path, str]) -> None:
    finished = run_edit(*home)
    assert finished.accelerator == "cpu"
    assert "no worker" in json.loads(finished.accelerator_json)["reason"]
    assert set(finished.nodes_by_provider) == {"CPUExecutionProvider"}


@pytest.fixture(scope="module")
def qnn() -> ModuleType:
    return pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's HTP emulator: pip install mobifarm[htp]")


@pytest.fixture
def worker(home: tuple[Path, str], qnn: ModuleType, worker_command: list[str]) -> Iterator[SpawnedLink]:
    link = SpawnedLink([*worker_command, "--soc", CHIP], home[0] / WORKER_SOCKET)
    with link.connect(60):  # it listens now
        pass
    yield link
    link.close()


def test_an_edit_runs_on_the_emulated_htp_and_agrees_with_the_processor(
    home: tuple[Path, str], worker: SpawnedLink
) -> None:
    finished = run_edit(*home)
    assert finished.accelerator == "htp_emulator", finished.accelerator_json
    told = json.loads(finished.accelerator_json)
    assert told["operators"] == told["operators_on_accelerator"] > 100
    assert finished.nodes_by_provider["htp_emulator"] == told["operators"]
    assert told["calls_on_accelerator"] > 0
    assert told["calls_on_processor"] == 0
    assert not told["compiled_ahead"]
    for check in told["probe"].values():
        assert 0 < check["rms_steps"] <= check["allowed_rms_steps"]
    assert told["processor"]["largest_score_difference_nats"] < 0.05
    # The losses are loud enough as it is.
    assert told["perturbation"] == 0.5
    assert 0 < told["loss_noise_nats"] < 0.01
    assert finished.returned_to_base


def test_a_worker_that_goes_away_quarantines_the_htp_not_the_phone(
    home: tuple[Path, str], worker: SpawnedLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, bundle_hash = home
    accelerator = Accelerator(folder)
    runner = ModelRunner(folder / "bundles", threads=1, accelerator=accelerator)
    job = EditJob(bundle_hash, RECORD, "forward", QUICK, 0)

    def run() -> FinishedEdit:
        return runner.run(job, report=lambda progress: None, cancelled=lambda: False)

    assert run().accelerator == "htp_emulator"
    worker.close()
    monkeypatch.setattr("mobifarm.agent.backends.worker.CONNECT_DEADLINE_S", 1)
    assert accelerator._backend is not None
    accelerator._backend._connect_s = 1  # type: ignore[attr-defined]
    finished = run()
    assert finished.accelerator == "cpu"
    assert "failed twice" in json.loads(finished.accelerator_json)["reason"]
    # It stays so, and the phone goes on.
    assert run().accelerator == "cpu"


def test_a_worker_that_computes_something_else_is_not_used_and_the_result_says_why(
    home: tuple[Path, str],
) -> None:
    class Wrong(CpuBackend):
        accelerator = "htp_hardware"

        def run(self, graph, feeds):  # type: ignore[no-untyped-def]
            return {name: 1.1 * array for name, array in super().run(graph, feeds).items()}

    place = home[0] / WORKER_SOCKET
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(place.parent):
        listener.bind(place.name)
        listener.listen(1)
        threading.Thread(target=serve, args=(listener, Wrong()), daemon=True).start()
        finished = run_edit(*home)
        listener.shutdown(socket.SHUT_RDWR)
    assert finished.accelerator == "cpu"
    told = json.loads(finished.accelerator_json)
    assert told["bundle_has_graphs"]
    assert "htp_hardware computes something else than the processor" in told["reason"]
    assert finished.returned_to_base


def test_a_worker_that_dies_after_the_edit_does_not_take_it_along(home: tuple[Path, str]) -> None:
    class Dying(CpuBackend):
        accelerator = "htp_hardware"
        runs = 0

        def run(self, graph, feeds):  # type: ignore[no-untyped-def]
            self.runs += 1
            return super().run(graph, feeds)

        def placement(self) -> Placement:
            if self.runs > 2:  # those of the probe batch
                raise BackendError("the accelerator's worker failed twice in a call")
            return Placement(self.runs, self.runs, None, "counted")

    finished = run_edit(*home, Dying())
    assert finished.accelerator == "htp_hardware"
    told = json.loads(finished.accelerator_json)
    assert (told["operators"], told["operators_on_accelerator"], told["proof"]) == (2, 2, "counted")
    assert finished.nodes_by_provider["htp_hardware"] == 2


def test_a_worker_for_the_processor_says_that_it_is_one(home: tuple[Path, str]) -> None:
    finished = run_edit(*home, CpuBackend())
    assert finished.accelerator == "cpu"
    told = json.loads(finished.accelerator_json)
    assert told["calls_on_accelerator"] > 0
    assert "--soc cpu" in told["reason"]


def test_graphs_compiled_ahead_give_the_same_numbers(npu_bundle: Path, qnn: ModuleType) -> None:
    from mobifarm.agent.backends.qnn_htp import opened

    made = compile_bundle(npu_bundle, CHIP)
    assert made.built
    assert not compile_bundle(npu_bundle, CHIP).built
    manifest, _ = read_manifest(npu_bundle)
    graphs = npu_graphs(manifest)
    assert graphs is not None
    checks = []
    for compiled in (None, made.path):
        with opened(CHIPS[CHIP]) as backend:
            npu = NpuModel(npu_bundle, graphs, backend, compiled)
            assert npu.compiled is (compiled is not None)
            assert backend.placement().share == 1
            checks.append(npu.checks)
    assert checks[0] == checks[1]


def test_graphs_are_compiled_again_by_another_version_of_the_compiler(
    npu_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = ""

    def version_of(package: str) -> str:
        if not version:
            raise metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(metadata, "version", version_of)
    monkeypatch.setattr(
        "mobifarm.agent.backends.qnn_htp.compile_for",
        lambda chip, model, place: place.write_text(version),
    )
    # The last one is without a compiler, which could make no others.
    for version, built in (("2.7", True), ("2.7", False), ("2.8", True), ("2.8", False), ("", False)):
        made = compile_bundle(npu_bundle, "SM8750")
        assert made.built is built
        assert {file.read_text() for file in made.path.iterdir()} == {version or "2.8"}


def test_a_graph_that_the_htp_does_not_take_is_an_error(qnn: ModuleType) -> None:
    from onnx import TensorProto, helper

    from mobifarm.agent.backends.qnn_htp import opened

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, (1, 2, 2))],
        [value("y", TensorProto.FLOAT, (1,))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with opened(CHIPS[CHIP]) as backend, pytest.raises(BackendError, match="does not take the graph"):
        backend.load("g", model.SerializeToString())


@pytest.mark.parametrize(
    ("bundle", "soc", "says"), [("tiny-random", CHIP, "--npu"), ("tiny-random-npu", "SDM845", "HTP")]
)
def test_what_cannot_be_compiled_is_said(npu_bundle: Path, bundle: str, soc: str, says: str) -> None:
    with pytest.raises(WorkloadInputError, match=says):
        compile_bundle(npu_bundle.parent / bundle, soc)


def test_w8a8_computes_the_same_more_coarsely(npu_bundle: Path) -> None:
    base = npu_bundle.parent / "tiny-random"
    coarse = build_npu_bundle(find_source("tiny-random"), base, Scheme.W8A8)
    assert coarse.name == "tiny-random-npu-w8a8"
    outcomes = []
    for path in (npu_bundle, coarse.path):
        bundle = open_bundle(path, CpuBackend())
        with bundle.on_accelerator():
            outcomes.append(
                edit(
                    bundle,
                    RECORD,
                    method="forward",
                    settings=QUICK,
                    seed=0,
                    report=lambda progress: None,
                    cancelled=lambda: False,
                    clock=time.monotonic,
                )
            )
    fine, rough = (outcome.scores[0].wanted_before.log_probability for outcome in outcomes)
    assert 0 < abs(fine - rough) < 1
    noises = []
    for path in (npu_bundle, coarse.path):
        graphs = npu_graphs(read_manifest(path)[0])
        assert graphs is not None
        noises.append(graphs.loss_noise)
    assert 0 < 20 * noises[0] < noises[1]
    # Coarse losses need longer differences to be told apart.
    shorter, longer = (outcome.perturbation for outcome in outcomes)
    assert shorter == 0.5
    assert longer is not None
    assert longer > 0.5


def test_the_benchmark_compares_with_the_same_graphs_in_fp32(npu_bundle: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "bench" / "npu_quality.py"
    bundle, found = npu_bundle.parent / "tiny-random", tmp_path / "found.json"
    options = [
        "--limit",
        "1",
        "--directions",
        "6",
        "--step-limit",
        "1",
        "--threads",
        "1",
        "--json",
        str(found),
    ]
    done = subprocess.run(
        [sys.executable, str(script), "--bundle", str(bundle), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["kind"]: row for row in json.loads(found.read_text())["rows"]}
    assert set(rows) == {"int8", "w8a16"}
    assert 0 < abs(rows["w8a16"]["loss_error"]) < 0.02
    assert 0.99 < rows["w8a16"]["cosines"]["0.5"] < 1
    assert rows["w8a16"]["steps"] == 1
