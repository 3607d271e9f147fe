from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mobifarm.agent.editor.bundle_files import read_manifest, verify_bundle
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.build import Precision, build_bundle
from mobifarm.workloads.models.sources import HuggingFaceFolder, TinyRandom, find_source


def test_a_second_build_finds_the_first(tmp_path: Path) -> None:
    first = build_bundle(TinyRandom(), tmp_path)
    second = build_bundle(TinyRandom(), tmp_path)
    assert first.built
    assert not second.built
    assert first.bundle_hash == second.bundle_hash
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["tiny-random"]


def test_the_same_inputs_give_the_same_bundle(tmp_path: Path) -> None:
    first = build_bundle(TinyRandom(), tmp_path)
    again = build_bundle(TinyRandom(), tmp_path, force=True)
    elsewhere = build_bundle(TinyRandom(), tmp_path / "elsewhere")
    assert again.built
    assert first.bundle_hash == again.bundle_hash == elsewhere.bundle_hash
    assert str(tmp_path) not in (tmp_path / "tiny-random" / "manifest.json").read_text()


@pytest.mark.parametrize("change", ["layer", "weights", "file"])
def test_other_inputs_or_a_lost_file_lead_to_a_new_build(tmp_path: Path, change: str) -> None:
    first = build_bundle(TinyRandom(), tmp_path)
    source = replace(TinyRandom(), seed=1) if change == "weights" else TinyRandom()
    if change == "file":
        (first.path / "upper_000.onnx").unlink()
    second = build_bundle(source, tmp_path, edit_layer=2 if change == "layer" else None)
    assert second.built
    assert verify_bundle(second.path, second.bundle_hash) == second.size_bytes
    assert (second.bundle_hash == first.bundle_hash) == (change == "file")


def test_fp32_has_its_own_name(tmp_path: Path) -> None:
    result = build_bundle(TinyRandom(), tmp_path, precision=Precision.FP32)
    assert result.path.name == result.name == "tiny-random-fp32"
    manifest, digest = read_manifest(result.path)
    assert digest == result.bundle_hash
    assert manifest.quantisation["weight_bits"] == 32


@pytest.mark.parametrize("layer", [-1, 3, 40])
def test_layer_outside_the_model(tmp_path: Path, layer: int) -> None:
    with pytest.raises(WorkloadInputError, match="choose one from 0 to 2"):
        build_bundle(TinyRandom(), tmp_path, edit_layer=layer)
    assert not (tmp_path / "tiny-random").exists()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_find_source(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert find_source("tiny-random") == TinyRandom()
    assert find_source(str(tmp_path)) == HuggingFaceFolder(tmp_path)
    with pytest.raises(WorkloadInputError, match="neither a known model"):
        find_source("gpt-5")
