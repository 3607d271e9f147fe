"""The manifest of a model bundle: what the folder holds, checked when it is read. Pure data, no I/O.

A bundle is a folder with ``manifest.json``, ``tokenizer.json``, the graphs of which the pieces of ``lower``,
``upper`` and ``read_out`` are made and ``weights.bin``, which the pieces and the embedding look-up read from
one map. The sha256 of the manifest's bytes names the bundle; the manifest holds that of every other file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mobifarm.agent.errors import BundleError

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 3
WEIGHTS_FILE = "weights.bin"
GRAPHS = ("lower", "upper", "read_out")
PREPARATION = "preparation"
PREPARED_TENSORS = (
    "second_moment_diagonal",
    "second_moment_factor",
    "second_moment_core",
    "surrogate",
    "final_norm",
    "subspace",
    "subspace_variances",
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape of a decoder of the Llama, Qwen or Gemma families. What sets them apart is data here; the norms'
    weights are what is multiplied, with Gemma's added 1.

    Attributes:
        family: Hugging Face ``model_type``; for people, nothing branches on it.
        layers: number of decoder layers L.
        hidden: width d of the residual stream.
        heads: query heads.
        key_value_heads: key and value heads (grouped-query attention).
        head_dim: width of one head.
        intermediate: width f of the MLP, input of ``down_proj``.
        vocabulary: rows of the embedding.
        rope_theta: base of the rotary position embedding.
        rms_epsilon: constant of the RMS norms.
        tied: whether the output projection is the embedding.
        max_positions: longest sequence the graphs take.
        activation: of the MLP's gate, ``silu`` or ``gelu_tanh``.
        embedding_scale: factor on the embeddings where they enter the first layer.
        attention_scale: factor on query·key; head_dim^-½ where None.
        attention_softcap: attention scores s become c·tanh(s/c); None for none.
        logit_softcap: the same for the logits.
        query_key_norm: whether every head's query and key pass an RMS norm before the rotary embedding.
        post_norms: whether the outputs of attention and MLP pass an RMS norm before they are added.
        local_layers: layers that see the last ``window`` tokens only, with a rotary embedding of their own.
        window: tokens that a local layer sees, its own included; None without local layers.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    rope_theta: float
    rms_epsilon: float
    tied: bool
    max_positions: int
    activation: str = "silu"
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    query_key_norm: bool = False
    post_norms: bool = False
    local_layers: tuple[int, ...] = ()
    window: int | None = None

    @property
    def state_width(self) -> int:
        """Width of what passes between the graphs; the edit is added to the first ``hidden`` columns. One d
        (the residual after the edited layer), or with ``post_norms`` two: the output of ``down_proj``, which
        still has to pass its norm, and the residual before it."""
        return 2 * self.hidden if self.post_norms else self.hidden


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in one of the bundle's files that is read without a graph: little-endian, C order."""

    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """One run of a graph file. Pieces that differ by nothing but their weights, such as layers, share a file.

    Attributes:
        file: the graph.
        inputs: what its first inputs are: inputs of the whole, or outputs of earlier pieces.
        weights: where in the weights file its other inputs lie; the graph knows their types and shapes.
        outputs: what its outputs are called.
    """

    file: str
    inputs: tuple[str, ...]
    weights: tuple[int, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BundleFile:
    """Hash and size of one file of the bundle."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """The tokenizer's file and special tokens; ``prepend_bos``: the family starts texts with bos."""

    file: str
    bos_id: int | None
    eos_id: int | None
    prepend_bos: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle is and holds.

    Attributes:
        name: the bundle's name, e.g. ``smollm2-135m-instruct``.
        architecture: shape of the model.
        edit_layer: layer l (from 0) whose ``down_proj`` is edited; ``lower`` ends after it.
        tokenizer: tokenizer file and special tokens.
        graphs: the pieces of ``lower``, ``upper`` and ``read_out`` in their order.
        tensors: ``output_block_NNN`` [d, columns], the output projection in blocks of its columns, and where
            it is not tied ``embedding`` [V, d]; with int8 also ``output_scales`` and ``embedding_scales``
            [V]; ``edited_down_proj`` [f, d].
        files: every file but the manifest → hash and size.
        quantisation: scheme, bits and what it leaves in floating point.
        provenance: source, licence and versions of what built the bundle.
        build_inputs: sha256 of what went into the build; where it is equal, a rebuild gives the same bundle.
        extras: later additions: name → settings of that addition; ``preparation`` holds ``tensors`` as
            above (see :func:`prepared_tensors`) and how they were learned.
    """

    name: str
    architecture: Architecture
    edit_layer: int
    tokenizer: TokenizerInfo
    graphs: Mapping[str, tuple[Piece, ...]]
    tensors: Mapping[str, StoredTensor]
    files: Mapping[str, BundleFile]
    quantisation: Mapping[str, Any]
    provenance: Mapping[str, Any]
    build_inputs: str
    extras: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, so that equal manifests have equal hashes."""
        return (json.dumps(asdict(self), sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()

    @property
    def output_blocks(self) -> list[StoredTensor]:
        """Of the output projection, in the order of the vocabulary."""
        return [tensor for name, tensor in sorted(self.tensors.items()) if name.startswith("output_block_")]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.size for file in self.files.values())


def manifest_hash(manifest_bytes: bytes) -> str:
    """The name by which phones know a bundle: sha256 of the manifest's bytes, hex."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def parse_manifest(manifest_bytes: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: the bytes are no manifest of this schema version; the message says what is wrong.
    """
    try:
        raw = json.loads(manifest_bytes)
        version = raw["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{MANIFEST_NAME} is not a bundle manifest: build the bundle again") from error
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"the bundle has schema version {version}, this version reads {SCHEMA_VERSION}: build it again"
        )
    try:
        manifest = Manifest(
            name=str(raw["name"]),
            architecture=_architecture(raw["architecture"]),
            edit_layer=int(raw["edit_layer"]),
            tokenizer=TokenizerInfo(**raw["tokenizer"]),
            graphs={name: tuple(map(_piece, pieces)) for name, pieces in raw["graphs"].items()},
            tensors={
                name: StoredTensor(t["file"], int(t["offset"]), t["dtype"], tuple(t["shape"]))
                for name, t in raw["tensors"].items()
            },
            files={name: BundleFile(f["sha256"], int(f["size"])) for name, f in raw["files"].items()},
            quantisation=raw["quantisation"],
            provenance=raw["provenance"],
            build_inputs=str(raw["build_inputs"]),
            extras=raw["extras"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{MANIFEST_NAME} is incomplete ({error}): build the bundle again") from error
    _check(manifest)
    return manifest


def prepared_tensors(manifest: Manifest) -> Mapping[str, StoredTensor]:
    """The tensors of ``models prepare``, see prepared.Prepared; empty where the bundle was not prepared.

    Raises:
        BundleError: the entry is incomplete or names a file that is not of the bundle.
    """
    if PREPARATION not in manifest.extras:
        return {}
    try:
        stored = manifest.extras[PREPARATION]["tensors"]
        tensors = {
            name: StoredTensor(t["file"], int(t["offset"]), t["dtype"], tuple(t["shape"]))
            for name, t in ((name, stored[name]) for name in PREPARED_TENSORS)
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"the preparation of bundle {manifest.name} is incomplete ({error}): prepare it again"
        ) from error
    foreign = sorted({tensor.file for tensor in tensors.values()} - manifest.files.keys())
    if foreign:
        raise BundleError(f"the preparation of bundle {manifest.name} names {foreign}: prepare it again")
    return tensors


def _architecture(raw: Mapping[str, Any]) -> Architecture:
    return Architecture(**{**raw, "local_layers": tuple(raw.get("local_layers", ()))})


def _piece(raw: Mapping[str, Any]) -> Piece:
    weights = tuple(int(offset) for offset in raw["weights"])
    return Piece(str(raw["file"]), tuple(raw["inputs"]), weights, tuple(raw["outputs"]))


def _check(manifest: Manifest) -> None:
    names = {
        manifest.tokenizer.file,
        WEIGHTS_FILE,
        *(piece.file for pieces in manifest.graphs.values() for piece in pieces),
        *(tensor.file for tensor in manifest.tensors.values()),
    }
    for name in (*manifest.files, *names):
        if "/" in name or "\\" in name or name in ("", ".", "..", MANIFEST_NAME):
            raise BundleError(
                f"{MANIFEST_NAME} names {name!r}: only files of the bundle's folder are allowed"
            )
    missing = sorted(names - manifest.files.keys())
    graphs = all(manifest.graphs.get(name) for name in GRAPHS)
    if missing or not graphs or not manifest.output_blocks:
        raise BundleError(f"{MANIFEST_NAME} lacks a needed entry {missing}: build the bundle again")
    if not 0 <= manifest.edit_layer < manifest.architecture.layers - 1:
        raise BundleError(
            f"{MANIFEST_NAME} has edit_layer {manifest.edit_layer} outside the model: build the bundle again"
        )
