from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mobifarm.agent.editor.bundle import Bundle
from mobifarm.agent.editor.bundle_files import read_manifest, verify_bundle
from mobifarm.agent.editor.manifest import manifest_hash, parse_manifest
from mobifarm.agent.errors import BundleError, BundleNotFound


@pytest.fixture
def copy(tiny_bundle_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle_path, tmp_path / "copy"))


def test_the_hash_is_that_of_the_manifest_on_disk(tiny_bundle_path: Path) -> None:
    raw = (tiny_bundle_path / "manifest.json").read_bytes()
    manifest, digest = read_manifest(tiny_bundle_path)
    assert digest == manifest_hash(raw) == hashlib.sha256(raw).hexdigest()
    assert manifest.to_bytes() == raw
    assert parse_manifest(raw) == manifest


def test_a_whole_bundle_passes(tiny_bundle_path: Path) -> None:
    manifest, digest = read_manifest(tiny_bundle_path)
    files = [path for path in tiny_bundle_path.iterdir() if path.name != "manifest.json"]
    assert {path.name for path in files} == set(manifest.files)
    assert verify_bundle(tiny_bundle_path, digest) == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("name", ["weights.bin", "lower_000.onnx", "upper_000.onnx", "tokenizer.json"])
def test_one_flipped_bit_is_found(copy: Path, name: str) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(BundleError, match=rf"{name} .* is damaged"):
        Bundle.open(copy)


def test_a_missing_or_shortened_file_is_found(copy: Path) -> None:
    whole = (copy / "upper_000.onnx").read_bytes()
    (copy / "upper_000.onnx").write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=r"upper_000.onnx .* instead of"):
        verify_bundle(copy)
    (copy / "upper_000.onnx").unlink()
    with pytest.raises(BundleError, match=r"upper_000.onnx .* cannot be read"):
        verify_bundle(copy)


def test_another_bundle_than_expected_is_refused(tiny_bundle_path: Path) -> None:
    with pytest.raises(BundleError, match="push it again"):
        verify_bundle(tiny_bundle_path, "0" * 64)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="build or push it first"):
        Bundle.open(tmp_path)


def test_unverified_damage_is_still_one_sentence(copy: Path) -> None:
    (copy / "upper_000.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match="cannot be loaded") as caught:
        Bundle.open(copy, verify=False)
    assert "\n" not in str(caught.value)


def _piece(file: str) -> dict[str, Any]:
    return {"file": file, "inputs": [], "weights": [], "outputs": []}


@pytest.mark.parametrize("weights", [[], [10**12], [-64]], ids=["too few", "outside", "before the start"])
def test_weights_that_do_not_fit_a_graph_are_refused(copy: Path, weights: list[int]) -> None:
    path = copy / "manifest.json"
    raw = json.loads(path.read_text())
    raw["graphs"]["upper"][1]["weights"] = weights
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="cannot be loaded"):
        Bundle.open(copy, verify=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"architecture": {}}, "incomplete"),
        ({"edit_layer": 3}, "outside the model"),
        ({"graphs": {"lower": [_piece("../lower_000.onnx")]}}, "only files of the bundle's folder"),
        ({"graphs": {"lower": [_piece("lower_000.onnx")]}}, "lacks a needed entry"),
        ({"graphs": {"lower": [{"file": "lower_000.onnx"}]}}, "incomplete"),
        ({"graphs": {"lower": ["lower_000.onnx"]}}, "incomplete"),
        ({"files": {}}, "lacks a needed entry"),
    ],
)
def test_manifest_that_does_not_fit(tiny_bundle_path: Path, change: dict[str, Any], words: str) -> None:
    raw = json.loads((tiny_bundle_path / "manifest.json").read_text())
    with pytest.raises(BundleError, match=words):
        parse_manifest(json.dumps({**raw, **change}).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"\xff\xfe", b"3"])
def test_bytes_that_are_no_manifest(raw: bytes) -> None:
    with pytest.raises(BundleError, match="not a bundle manifest"):
        parse_manifest(raw)
