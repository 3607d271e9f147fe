from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.catalogue import bundle_named
from mobifarm.workloads.models.cli import app

HEAVY = ("torch", "transformers", "numpy", "onnx", "onnxruntime", "rich.progress")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBIFARM_CACHE", str(tmp_path))
    return tmp_path


def test_importing_the_commands_is_cheap() -> None:
    code = f"import sys, mobifarm.workloads.models.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"


def test_build_list_show(cache: Path) -> None:
    runner = CliRunner()
    assert json.loads(runner.invoke(app, ["list", "--json"]).stdout) == []
    built = json.loads(runner.invoke(app, ["build", "tiny-random", "--json"]).stdout)
    assert built["built"] is True
    assert built["path"] == str(cache / "bundles" / "tiny-random")
    (listed,) = json.loads(runner.invoke(app, ["list", "--json"]).stdout)
    assert listed["bundle_hash"] == built["bundle_hash"]
    shown = json.loads(runner.invoke(app, ["show", "tiny-random", "--json"]).stdout)
    assert shown["manifest"]["architecture"]["layers"] == 4
    assert "tiny-random" in runner.invoke(app, ["list"]).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "no-such-model"], "neither a known model"),
        (["build", "tiny-random", "--layer", "9"], "layer 9 cannot be edited"),
        (["show", "no-such-bundle"], "there is no bundle"),
    ],
)
def test_mistakes_give_one_sentence_and_exit_code_2(cache: Path, arguments: list[str], words: str) -> None:
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 2
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert words in line
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"model_type": ["llama"]},
        {"model_type": "llama", "layer_types": 5},
        {"model_type": "llama", "rope_scaling": "x"},
    ],
)
def test_a_folder_whose_configuration_is_none_is_refused(cache: Path, config: object) -> None:
    folder = cache / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    outcome = CliRunner().invoke(app, ["build", str(folder)])
    assert outcome.exit_code == 2
    assert "error: model/config.json is no model configuration: check the folder" in outcome.stderr


def test_a_model_that_the_library_cannot_read_is_refused(cache: Path) -> None:
    folder = cache / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": "x"}))
    outcome = CliRunner().invoke(app, ["build", str(folder)])
    assert outcome.exit_code == 2
    assert "error: model cannot be read as a model (" in outcome.stderr


def test_an_older_versions_bundle_is_refused_in_one_sentence_and_built_anew(cache: Path) -> None:
    runner, manifest = CliRunner(), cache / "bundles" / "tiny-random" / "manifest.json"
    runner.invoke(app, ["build", "tiny-random"])
    old = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**old, "schema_version": 1}))
    problem = "the bundle has schema version 1, this version reads 3: build it again"
    assert runner.invoke(app, ["list"]).output.splitlines() == [f"tiny-random: {problem}"]
    shown = runner.invoke(app, ["show", "tiny-random"])
    assert shown.exit_code == 2
    assert shown.output.splitlines() == [f"error: the bundle 'tiny-random' cannot be shown: {problem}"]
    with pytest.raises(WorkloadInputError, match=f"{problem}, with `mobifarm models build`"):
        bundle_named("tiny-random")
    built = runner.invoke(app, ["build", "tiny-random", "--json"])
    assert json.loads(built.stdout)["built"] is True
    assert "preparation" not in built.stderr
    assert json.loads(manifest.read_text()) == old
    assert bundle_named("tiny-random").path == manifest.parent


def test_a_missing_bundle_names_the_command_that_builds_it(cache: Path) -> None:
    with pytest.raises(WorkloadInputError, match="with `mobifarm models build tiny-random --npu w8a16`;"):
        bundle_named("tiny-random-npu")


def test_a_preparation_is_not_lost_in_silence(cache: Path) -> None:
    runner, manifest = CliRunner(), cache / "bundles" / "tiny-random" / "manifest.json"
    runner.invoke(app, ["build", "tiny-random"])
    old = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**old, "schema_version": 1, "extras": {"preparation": {}}}))
    assert (
        "without its preparation; run `mobifarm models prepare` again"
        in runner.invoke(app, ["build", "tiny-random"]).stderr
    )
    assert "preparation" not in runner.invoke(app, ["build", "tiny-random"]).stderr


def test_a_damaged_bundle_is_named_and_the_others_are_listed(cache: Path) -> None:
    runner = CliRunner()
    runner.invoke(app, ["build", "tiny-random"])
    broken = cache / "bundles" / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    outcome = runner.invoke(app, ["list"])
    assert "tiny-random" in outcome.stdout
    assert "broken" in outcome.stderr
