"""Reading model folders tensor by tensor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.safetensors_files import SafetensorsFiles

NORM = "model.norm.weight"
VALUES = torch.tensor([1.0, -0.5, 3.25], dtype=torch.bfloat16)


def test_a_tensor_is_read_as_single_precision(tmp_path: Path) -> None:
    save_file({NORM: VALUES}, tmp_path / "model.safetensors")
    files = SafetensorsFiles(tmp_path)
    found = files.read(NORM)
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, -0.5, 3.25]
    assert NORM in files
    assert "lm_head.weight" not in files
    with pytest.raises(KeyError):
        files.read("lm_head.weight")


def test_the_index_says_which_files_belong_to_the_model(tmp_path: Path) -> None:
    save_file({NORM: VALUES}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"lm_head.weight": VALUES}, tmp_path / "model-00002-of-00002.safetensors")
    save_file({"norm.weight": VALUES}, tmp_path / "consolidated.safetensors")
    weight_map = {
        NORM: "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    files = SafetensorsFiles(tmp_path)
    assert files.read("lm_head.weight").tolist() == files.read(NORM).tolist() == [1.0, -0.5, 3.25]


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({NORM: VALUES}, tmp_path / f"{name}.safetensors")
    weight_map = {NORM: "a.safetensors", "lm_head.weight": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WorkloadInputError, match=r"model\.norm\.weight is in both a\.safetensors and b\."):
        SafetensorsFiles(tmp_path)


def test_a_model_that_was_saved_without_its_output_projection_has_shorter_names(tmp_path: Path) -> None:
    save_file({"norm.weight": VALUES}, tmp_path / "model.safetensors")
    files = SafetensorsFiles(tmp_path)
    assert NORM in files
    assert files.read(NORM).tolist() == [1.0, -0.5, 3.25]


@pytest.mark.parametrize(
    "index",
    [
        *("", "{}", "[]", "[" * 100_000),
        *('{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "gone.safetensors"}}'),
    ],
)
def test_a_broken_index_is_one_sentence(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WorkloadInputError, match="cannot be read as a model") as caught:
        SafetensorsFiles(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    save_file({NORM: VALUES}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-2])
    with pytest.raises(WorkloadInputError, match="cannot be read as a model"):
        SafetensorsFiles(tmp_path)


def test_tensors_of_another_model_are_refused(tmp_path: Path) -> None:
    """Their numbers would make a bundle all the same, and a model that says nonsense."""
    save_file({NORM: VALUES, "lm_head.weight": VALUES.to(torch.int8)}, tmp_path / "model.safetensors")
    files = SafetensorsFiles(tmp_path)
    files.require({NORM: [3]})
    with pytest.raises(WorkloadInputError, match=r"lacks 1 of the model's tensors, such as model\.a"):
        files.require({NORM: [3], "model.a": [3]})
    with pytest.raises(WorkloadInputError, match=r"has model\.norm\.weight of shape \[3\], .* \[4\]"):
        files.require({NORM: [4]})
    with pytest.raises(WorkloadInputError, match=r"has lm_head\.weight in I8, .* unquantised"):
        files.require({"lm_head.weight": [3]})


def test_what_was_read_before_does_not_stay_in_memory(tmp_path: Path) -> None:
    names, size = [f"model.layers.{index}.weight" for index in range(4)], 8 * 2**20
    save_file({name: torch.ones(size, dtype=torch.float16) for name in names}, tmp_path / "model.safetensors")
    # A process of its own: the heap of this one keeps what other tests freed, more or less of it each time.
    script = """
import sys
from pathlib import Path
from mobifarm.agent.memory import rss_bytes
from mobifarm.workloads.models.safetensors_files import SafetensorsFiles
files, names = SafetensorsFiles(Path(sys.argv[1])), sys.argv[2:]
files.read(names[0])
before = rss_bytes()
for name in names:
    assert files.read(name)[-1] == 1
print(rss_bytes() - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < size * 2, "less than one tensor of the file"
