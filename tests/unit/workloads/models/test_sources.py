"""Where the weights of a bundle came from: known by name, or remembered on this machine beside the bundle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.sources import (
    HuggingFaceFolder,
    SmolLM2,
    TinyRandom,
    note_source,
    source_of_bundle,
)


def bundle_of(source: SmolLM2 | TinyRandom | HuggingFaceFolder, tiny_bundle_path: Path, place: Path) -> Path:
    """A bundle that says it was built from ``source``."""
    shutil.copytree(tiny_bundle_path, place)
    manifest, _ = read_manifest(place)
    provenance = {**source.origin, "versions": {}}
    (place / "manifest.json").write_bytes(replace(manifest, provenance=provenance).to_bytes())
    return place


@pytest.mark.parametrize("source", [SmolLM2(), TinyRandom()])
def test_a_known_model_is_found_by_what_its_bundle_says(
    source: SmolLM2 | TinyRandom, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    assert source_of_bundle(bundle_of(source, tiny_bundle_path, tmp_path / "any-name")) == source


def test_a_folder_is_remembered_until_it_is_gone(tiny_bundle_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    source = HuggingFaceFolder(folder)
    bundle = bundle_of(source, tiny_bundle_path, tmp_path / "bundles" / "model")
    with pytest.raises(WorkloadInputError, match="mobifarm models build FOLDER"):
        source_of_bundle(bundle)
    note_source(bundle, source)
    assert source_of_bundle(bundle) == source
    assert not any(str(tmp_path) in path.read_text(errors="replace") for path in bundle.iterdir())
    shutil.rmtree(folder)
    with pytest.raises(WorkloadInputError, match="leave the baselines out"):
        source_of_bundle(bundle)
