"""A model bundle in memory: two graphs, run by ONNX Runtime, and the embedding look-up in numpy.

The weights lie in one file that is mapped into memory. Where the model ties its output projection to the
embedding, the look-up reads columns of the same matrix that the upper graph multiplies with. Large batches
are cut: a row's values do not depend on its batch. The methods hold no state between calls; an edit lives in
the arguments.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.bundle_files import MappedTensors, read_manifest, verify_bundle
from mobifarm.agent.editor.manifest import GRAPHS, Architecture, Manifest
from mobifarm.agent.editor.prepared import Prepared, load_prepared
from mobifarm.agent.editor.sessions import Arrays, Pieces, Sessions
from mobifarm.agent.editor.tokenizer import Tokenizer
from mobifarm.agent.errors import BundleError, InputError
from mobifarm.agent.memory import SpareHeap, limit_heap, return_code

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_PROBE_TOKENS = 8
# Bound the memory of the activations. Larger calls would hardly be faster.
_POSITIONS_PER_CALL = 256
_READ_OUTS_PER_CALL = 24
# Freed memory that the calls may keep for each other.
_SPARE_HEAP_BYTES = 20 * 2**20


@dataclass(frozen=True, slots=True)
class EditPair:
    """Rank-R side input of the edited layer: value += (key·keysᵀ)·values. keys [R, f], values [R, d], f32."""

    keys: Floats
    values: Floats


@dataclass(frozen=True, slots=True)
class LowerOutput:
    """Layers 0…l, f32: residual [B, T, w], what :meth:`Bundle.upper` goes on from, and of layer l's
    ``down_proj`` the input, key [B, T, f], and the output, value [B, T, d].

    δ belongs to the first d columns of ``residual``. They are all of it, the residual after layer l, unless
    a norm follows ``down_proj``: then they are the value, and d more columns hold the residual before it.
    """

    residual: Floats
    key: Floats
    value: Floats


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of the layers above l for a prefix.

    Attributes:
        past: [2(L−1−l), b, H, P, h] f32, P ≥ 1; key and value of a layer follow each other.
        lengths: [b] int64, how many of the P positions are real; the rest is masked.
    """

    past: Floats
    lengths: Integers


@dataclass(frozen=True, slots=True)
class UpperOutput:
    """Layers l+1…L−1 at the asked positions.

    Attributes:
        log_probabilities: [B, N] f32, of the targets, nats.
        argmax: [B, N] int64, the model's first choice.
        log_softmax: [B, N, V] f32 where it was asked for.
        final_residual: [B, N, d] f32, before the last norm, where it was asked for.
    """

    log_probabilities: Floats
    argmax: Integers
    log_softmax: Floats | None
    final_residual: Floats | None = None


def stack_caches(caches: Sequence[Cache]) -> Cache:
    """Put the prefixes of several contexts side by side, shorter ones masked, for one batched call."""
    longest = max(cache.past.shape[3] for cache in caches)
    padded = [
        np.pad(cache.past, ((0, 0), (0, 0), (0, 0), (0, longest - cache.past.shape[3]), (0, 0)))
        for cache in caches
    ]
    return Cache(np.concatenate(padded, axis=1), np.concatenate([cache.lengths for cache in caches]))


class Bundle:
    """A model that can be edited. Make one with :meth:`open`; keep calls from several threads apart."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        bundle_hash: str,
        threads: int,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Use :meth:`open`, which checks the files."""
        limit_heap()
        self.manifest = manifest
        self.bundle_hash = bundle_hash
        self.tokenizer = tokenizer or Tokenizer(path / manifest.tokenizer.file, manifest.tokenizer)
        self._tensors = tensors = MappedTensors(path)
        stored = manifest.tensors
        blocks = [tensors.tensor(block).T for block in manifest.output_blocks]
        self._output = _Rows(tensors, blocks, _scales(tensors, manifest, "output_scales"))
        self._embedding = self._output
        if "embedding" in stored:
            rows = tensors.tensor(stored["embedding"])
            self._embedding = _Rows(tensors, [rows], _scales(tensors, manifest, "embedding_scales"))
        self._prepared = load_prepared(tensors, manifest)
        self._edited_down_proj = tensors.tensor(stored["edited_down_proj"])
        with tempfile.TemporaryDirectory(prefix="mobifarm-placement-") as folder:
            sessions, heap = Sessions(path, threads, Path(folder)), SpareHeap(_SPARE_HEAP_BYTES)
            self._lower, self._upper, self._read_out = (
                Pieces(manifest.graphs[name], sessions, tensors, heap) for name in GRAPHS
            )
            presents = 2 * self.upper_layers
            self._present_names = [f"present_{index}" for index in range(presents)]
            # Reading the tokenizer and the graphs takes twice the memory that they need, and other code.
            heap.settle()
            return_code()
            self._probe()  # the first runs, which are traced
            heap.settle()
            graphs = (self._lower, self._upper, self._read_out)
            self._placement = sum((graph.placement() for graph in graphs), Counter[str]())

    @classmethod
    def open(
        cls, path: Path, *, threads: int = 2, verify: bool = True, tokenizer: Tokenizer | None = None
    ) -> Self:
        """Load the bundle in the folder ``path``.

        Args:
            path: folder with ``manifest.json``.
            threads: threads of ONNX Runtime for one call.
            verify: check all files against the manifest first.
            tokenizer: the bundle's, where it is loaded already: a second one would take its memory again.

        Raises:
            BundleNotFound: there is no bundle.
            BundleError: the bundle is damaged or of another version.
        """
        manifest, bundle_hash = read_manifest(path)
        if verify:
            verify_bundle(path, bundle_hash)
        try:
            return cls(path, manifest, bundle_hash, threads, tokenizer)
        except BundleError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BundleError(f"bundle {manifest.name} cannot be loaded ({reason}): push it again") from error

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.manifest.name

    @property
    def architecture(self) -> Architecture:
        """Shape of the model."""
        return self.manifest.architecture

    @property
    def edit_layer(self) -> int:
        """Layer l, from 0, whose ``down_proj`` is edited."""
        return self.manifest.edit_layer

    @property
    def prepared(self) -> Prepared:
        """What was learned for this model; empty where the bundle was not prepared."""
        return self._prepared

    @property
    def upper_layers(self) -> int:
        """Number of layers above l."""
        return self.architecture.layers - 1 - self.edit_layer

    def tokenize(self, text: str) -> list[int]:
        """See Tokenizer.tokenize."""
        return self.tokenizer.tokenize(text)

    def tokenize_prompt_and_answer(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """See Tokenizer.tokenize_prompt_and_answer."""
        return self.tokenizer.tokenize_prompt_and_answer(prompt, answer)

    def subject_last_index(self, prompt: str, subject: str) -> int:
        """See Tokenizer.subject_last_index."""
        return self.tokenizer.subject_last_index(prompt, subject)

    def embed(self, token_ids: NDArray[np.integer[Any]]) -> Floats:
        """Embeddings [..., d] f32 of token ids [...]."""
        return self._embedding.pick(token_ids)

    def output_rows(self, token_ids: NDArray[np.integer[Any]]) -> Floats:
        """Rows [..., d] f32 of the output projection for token ids [...]."""
        return self._output.pick(token_ids)

    def lower(self, token_ids: NDArray[np.integer[Any]], edits: EditPair | None = None) -> LowerOutput:
        """Layers 0…l. Shorter sequences of a batch are padded on the right with any token.

        Args:
            token_ids: [B, T] int.
            edits: side input of layer l; None for the unedited model.

        Raises:
            InputError: a sequence is longer than the bundle takes.
        """
        self._check_length(token_ids.shape[1])
        a = self.architecture
        if edits is None or len(edits.keys) == 0:
            edits = EditPair(np.zeros((1, a.intermediate), np.float32), np.zeros((1, a.hidden), np.float32))
        feeds = {
            "embeddings": self.embed(token_ids),
            "edit_keys": np.asarray(edits.keys, np.float32),
            "edit_values": np.asarray(edits.values, np.float32),
        }
        return LowerOutput(*self._lower.run(["residual", "key", "value"], feeds))

    def empty_cache(self) -> Cache:
        """The cache of an empty prefix."""
        a = self.architecture
        past = np.zeros((2 * self.upper_layers, 1, a.key_value_heads, 1, a.head_dim), np.float32)
        return Cache(past, np.zeros(1, np.int64))

    def fill_cache(self, residual: Floats, lengths: Sequence[int] | None = None) -> Cache:
        """Keys and values of the layers above l for prefixes that start a sequence.

        Args:
            residual: [b, P, w], output of :meth:`lower` for the prefix; P may be 0.
            lengths: tokens of each prefix without padding; all P where None.
        """
        (batch, length, _), hidden = residual.shape, self.architecture.hidden
        if length == 0:
            return stack_caches([self.empty_cache()] * batch)
        nothing = np.zeros((1, 1), np.int64)
        feeds = self._upper_feeds(
            residual, self.empty_cache(), np.zeros((batch, hidden), np.float32), nothing, nothing
        )
        presents = self._upper.run(self._present_names, feeds)
        counts = np.full(batch, length, np.int64) if lengths is None else np.asarray(lengths, np.int64)
        return Cache(np.stack(presents), counts)

    def upper(
        self,
        residual: Floats,
        cache: Cache | None,
        delta: Floats,
        rows: NDArray[np.integer[Any]] | Sequence[int],
        targets: NDArray[np.integer[Any]] | Sequence[int],
        *,
        with_log_softmax: bool = False,
        with_final_residual: bool = False,
    ) -> UpperOutput:
        """Layers l+1…L−1 on the tokens after a prefix, for a batch of δ.

        Args:
            residual: [b, S, w], output of :meth:`lower` at the S positions after the prefix; b is 1 or B.
            cache: keys and values of the prefix, for b = 1 or B contexts; None where there is no prefix.
            delta: [B, d], added to the first of the S positions; zeros for none.
            rows: [N] or [b, N], positions within S to read: the answer's first token is predicted at the
                position before it.
            targets: [N] or [b, N], token ids whose probability is wanted at these positions.
            with_log_softmax: also return the log-probabilities of the whole vocabulary.
            with_final_residual: also return the residual before the last norm.

        Raises:
            InputError: prefix and suffix together are longer than the bundle takes.
        """
        cache = self.empty_cache() if cache is None else cache
        self._check_length(residual.shape[1] + int(cache.lengths.max()))
        feeds = self._upper_feeds(
            residual,
            cache,
            np.asarray(delta, np.float32),
            np.atleast_2d(np.asarray(rows, np.int64)),
            np.atleast_2d(np.asarray(targets, np.int64)),
        )
        names = ["log_probabilities", "argmax", *["log_softmax"] * with_log_softmax]
        batch, length, reads = len(delta), residual.shape[1], feeds["rows"].shape[1]
        found = [
            self._upper.run(["final_residual"], part)[0]
            for part in _parts(feeds, batch, length, _POSITIONS_PER_CALL)
        ]
        feeds = {**feeds, "final_residual": _concatenate(found)}
        parts = (self._read_out.run(names, part) for part in _parts(feeds, batch, reads, _READ_OUTS_PER_CALL))
        outputs = dict(zip(names, _gathered(parts, batch), strict=True))
        return UpperOutput(
            outputs["log_probabilities"],
            outputs["argmax"],
            outputs.get("log_softmax"),
            feeds["final_residual"] if with_final_residual else None,
        )

    @property
    def loss_noise(self) -> float:
        """Standard deviation of the rounding in one loss, nats; 0 where it needs no heed."""
        return 0.0

    def placement(self) -> dict[str, int]:
        """Execution provider → number of nodes that it ran, from the trace of the first real call."""
        return dict(self._placement)

    def base_hash(self) -> str:
        """sha256 over what an edit could change: the edited ``down_proj`` as it is mapped, and all outputs of
        both graphs for fixed tokens without an edit, bit by bit. Equal before and after an undone edit."""
        digest = hashlib.sha256()
        for array in (self._edited_down_proj, *self._probe()):
            # Of a large model each of these is some 100 MB: no copies.
            digest.update(np.ascontiguousarray(array).data.cast("B"))
        return digest.hexdigest()

    def _probe(self) -> list[NDArray[Any]]:
        tokens = np.arange(_PROBE_TOKENS)[None] % self.architecture.vocabulary
        low = self.lower(tokens)
        delta = np.zeros((1, self.architecture.hidden), np.float32)
        rows = np.arange(_PROBE_TOKENS)
        high = self.upper(low.residual, None, delta, rows, tokens, with_log_softmax=True)
        assert high.log_softmax is not None
        return [low.residual, low.key, low.value, high.log_softmax]

    def _upper_feeds(
        self, residual: Floats, cache: Cache, delta: Floats, rows: Integers, targets: Integers
    ) -> Arrays:
        return {
            "residual": residual,
            "delta": delta,
            "past": cache.past,
            "past_lengths": cache.lengths,
            "rows": rows,
            "targets": targets,
        }

    def _check_length(self, tokens: int) -> None:
        limit = self.architecture.max_positions
        if tokens > limit:
            raise InputError(
                f"the text has {tokens} tokens, the model bundle takes at most {limit}: shorten it"
            )


class _Rows:
    """Rows [V, d] that may be stored in blocks, each on pages of its own, and their scales [V]."""

    def __init__(self, tensors: MappedTensors, blocks: Sequence[NDArray[Any]], scales: Floats | None) -> None:
        self._tensors, self._blocks, self._scales = tensors, blocks, scales

    def pick(self, indices: NDArray[np.integer[Any]]) -> Floats:
        """The rows [..., d] f32 at ``indices`` [...]."""
        picked = np.empty((*indices.shape, self._blocks[0].shape[1]), np.float32)
        start = 0
        for block in self._blocks:
            here = (indices >= start) & (indices < start + len(block))
            if here.any():
                picked[here] = block[indices[here] - start]
                self._tensors.release()
            start += len(block)
        if self._scales is not None:
            picked *= self._scales[indices][..., None]
        return picked


def _scales(tensors: MappedTensors, manifest: Manifest, name: str) -> Floats | None:
    return np.array(tensors.tensor(manifest.tensors[name])) if name in manifest.tensors else None


def _concatenate(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _gathered(parts: Iterable[Sequence[NDArray[Any]]], batch: int) -> list[NDArray[Any]]:
    """What several calls gave for the rows of a batch, in one array for each output.

    They are filled as the calls go on: the whole vocabulary for every row is not to be held twice.
    """
    gathered: list[NDArray[Any]] = []
    start = 0
    for part in parts:
        if len(part[0]) == batch:
            return list(part)
        gathered = gathered or [np.empty((batch, *array.shape[1:]), array.dtype) for array in part]
        stop = start + len(part[0])
        for whole, array in zip(gathered, part, strict=True):
            whole[start:stop] = array
        start = stop
    return gathered


def _parts(feeds: Arrays, batch: int, width: int, limit: int) -> Iterator[Arrays]:
    """Cut a batch whose rows are ``width`` positions each into calls of at most ``limit``."""
    step = max(limit // max(width, 1), 1)
    for start in range(0, batch, step):
        yield {name: _rows(name, array, slice(start, start + step), batch) for name, array in feeds.items()}


def _rows(name: str, array: NDArray[Any], rows: slice, batch: int) -> NDArray[Any]:
    axis = 1 if name == "past" else 0
    if array.shape[axis] != batch:
        return array  # one for all
    return array[:, rows] if axis else array[rows]
