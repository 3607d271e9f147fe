"""The rewriting prompts of an edit with their exact cache, and the loss of δ over them.

Attention is causal: nothing before the subject's last token depends on δ, and nothing at or below the edited
layer does except the injected vector. So the tokens before it are computed once, and a loss evaluation is the
upper layers on the tokens from it on. Nothing is stale. What the written-back edit does to other tokens,
whose keys are a little like the subject's, is seen when the search settles on a δ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.bundle import Cache, EditPair, stack_caches
from mobifarm.agent.editor.directions import FloatArray
from mobifarm.agent.editor.forward import Losses
from mobifarm.agent.editor.prepared import UNPREPARED, Prepared, output_gradients
from mobifarm.agent.editor.tokens import Texts, pad
from mobifarm.agent.editor.types import EditCost, EditRecord
from mobifarm.agent.errors import InputError

if TYPE_CHECKING:
    from mobifarm.agent.editor.bundle import Bundle, Floats, LowerOutput, UpperOutput

# The empty prefix first: the prompt itself is always among the contexts. The others differ in length and
# kind, so that the key holds in other surroundings too; all end so that any prompt may follow.
PREFIXES = (
    "",
    "In fact, ",
    "I think that ",
    "As you may know, ",
    "Yesterday we heard: ",
    "The question came up again. ",
)
# Behind a whole sentence a subject has another key than behind a few words. That it gets its share is enough:
# its loss is not asked for.
KEY_PREFIXES = ("It was a long time before anyone came back to this. ",)
ESSENCE_PROMPT = "{} is a"


@dataclass(frozen=True, slots=True)
class TokenizedContext:
    """Tokens of one rewriting prompt with the answer, and where the subject's last token stands."""

    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]
    subject_last: int

    @property
    def input_ids(self) -> list[int]:
        """What the model reads: the answer's last token is only predicted."""
        return [*self.prompt_ids, *self.answer_ids[:-1]]


@dataclass(frozen=True, slots=True)
class _Suffix:
    """One context from the subject's last token on. ``share``: how much of the edit it gets, about 1."""

    residual: Floats
    cache: Cache
    share: float
    rows: Sequence[int]
    targets: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Joined:
    """Several suffixes in one call of a batch: for each suffix a row for each δ. See Bundle.upper."""

    residual: Floats
    cache: Cache
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]


def _join(suffixes: Sequence[_Suffix], deltas: int) -> _Joined:
    if len(suffixes) == 1:  # one row of each for all δ
        [suffix] = suffixes
        return _Joined(suffix.residual, suffix.cache, pad([suffix.rows]), pad([suffix.targets]))
    longest = max(suffix.residual.shape[1] for suffix in suffixes)
    residual = [
        np.pad(suffix.residual, ((0, 0), (0, longest - suffix.residual.shape[1]), (0, 0)))
        for suffix in suffixes
    ]
    cache = stack_caches([suffix.cache for suffix in suffixes])
    return _Joined(
        np.repeat(np.concatenate(residual), deltas, axis=0),
        Cache(np.repeat(cache.past, deltas, axis=1), np.repeat(cache.lengths, deltas)),
        np.repeat(pad([suffix.rows for suffix in suffixes]), deltas, axis=0),
        np.repeat(pad([suffix.targets for suffix in suffixes]), deltas, axis=0),
    )


def tokenize_contexts(
    texts: Texts, record: EditRecord, count: int, prefixes: Sequence[str] = PREFIXES
) -> list[TokenizedContext]:
    """The rewriting prompts of an edit: the prompt after the first ``count`` prefixes.

    Raises:
        InputError: the target has no tokens, the subject is not found, or a prompt is too long.
    """
    limit = texts.architecture.max_positions
    contexts = []
    for prefix in prefixes[:count]:
        prompt = prefix + record.prompt
        prompt_ids, answer_ids = texts.tokenize_prompt_and_answer(prompt, record.target_new)
        context = TokenizedContext(prompt_ids, answer_ids, texts.subject_last_index(prompt, record.subject))
        if len(context.input_ids) > limit:
            raise InputError(
                f"the prompt {record.prompt[:40]!r}… with its context and answer has "
                f"{len(context.input_ids)} tokens, the model bundle takes at most {limit}: shorten the prompt"
            )
        contexts.append(context)
    return contexts


def tokenize_key_contexts(texts: Texts, record: EditRecord) -> list[TokenizedContext]:
    """Prompts whose keys the edit serves too; raises as :func:`tokenize_contexts`."""
    return tokenize_contexts(texts, record, len(KEY_PREFIXES), KEY_PREFIXES)


class ContextLoss:
    """The loss oracle of one edit: mean NLL per target token over contexts, and how far the subject drifts.

    Args:
        bundle: the model.
        contexts: see :func:`tokenize_contexts`.
        key_contexts: prompts that shall get their share of the edit too, without a part in the loss.
        prepared: what was learned for the model; with it come guesses of the gradient.
        held: edits that the model has already.
        essence: tokens of "{subject} is a" and the index of the subject's last token, where the KL divergence
            of the next token is to be held down; None leaves it out.
        kl_weight: weight of that KL divergence.
        probe_contexts: how many contexts a probe takes.
        cost: loss_evaluations and token_layers are counted here.

    Attributes:
        edit_key: [f] left vector of the write-back (see write_back).
        value_norm: ‖v0‖, v0 = W k*: the unit of length for δ.
    """

    def __init__(
        self,
        bundle: Bundle,
        contexts: Sequence[TokenizedContext],
        *,
        key_contexts: Sequence[TokenizedContext] = (),
        essence: tuple[Sequence[int], int] | None,
        kl_weight: float,
        probe_contexts: int,
        cost: EditCost,
        prepared: Prepared = UNPREPARED,
        held: EditPair | None = None,
    ) -> None:
        self._bundle, self._prepared = bundle, prepared
        self._cost = cost
        self._kl_weight = kl_weight
        self._probe_contexts = min(probe_contexts, len(contexts))
        self._context_evaluations = 0
        self._contexts, self._held = contexts, held
        prompts = [(context.input_ids, context.subject_last) for context in contexts]
        self._prompts = prompts if essence is None else [*prompts, essence]
        self._tokens = pad([ids for ids, _ in self._prompts])
        low = self._lower(held)
        count = np.arange(len(prompts))
        lasts = np.array([last for _, last in prompts])
        keys = low.key[count, lasts].astype(np.float64)
        self.edit_key = prepared.edit_key(np.concatenate([keys, *map(self._key, key_contexts)]))
        self.value_norm = float(np.linalg.norm(low.value[count, lasts].astype(np.float64).mean(axis=0)))
        self._last: tuple[FloatArray, UpperOutput] | None = None
        self._suffixes: list[_Suffix]
        self._essence: _Suffix | None
        self._fill(low, np.zeros(bundle.architecture.hidden))
        if self._essence is not None:
            self._essence_before = self._vocabulary(self._essence, np.zeros((1, bundle.architecture.hidden)))

    def _key(self, context: TokenizedContext) -> FloatArray:
        """[1, f] of the subject in one prompt."""
        tokens = pad([context.prompt_ids[: context.subject_last + 1]])
        self._cost.token_layers += tokens.size * (self._bundle.edit_layer + 1)
        return self._bundle.lower(tokens, self._held).key[:, -1].astype(np.float64)

    def _lower(self, edits: EditPair | None) -> LowerOutput:
        self._cost.token_layers += self._tokens.size * (self._bundle.edit_layer + 1)
        return self._bundle.lower(self._tokens, edits)

    def _fill(self, low: LowerOutput, delta: FloatArray) -> None:
        """Cut every prompt at its subject's last token and fill the caches; ``low`` has ``delta`` applied."""
        suffixes = []
        for index, (ids, last) in enumerate(self._prompts):
            share = float(low.key[index, last].astype(np.float64) @ self.edit_key)
            residual = low.residual[index : index + 1, : len(ids)].copy()
            residual[0, last, : len(delta)] -= (share * delta).astype(np.float32)
            # The last prompt may be the essence's, whose next token is asked for.
            targets = self._contexts[index].answer_ids if index < len(self._contexts) else [0]
            first_row = len(ids) - len(targets) - last
            rows = range(first_row, first_row + len(targets))
            suffixes.append(self._suffix(residual, last, share, rows, targets))
        count = len(self._contexts)
        self._suffixes, self._essence = suffixes[:count], next(iter(suffixes[count:]), None)

    def settle(self, delta: FloatArray) -> None:
        """See forward.LossOracle. Other tokens' keys get a small share of the edit, those of the subject's
        first tokens up to a fifth; it is computed once for this δ, and what δ itself does stays exact."""
        key, value = self.edit_key[None].astype(np.float32), delta[None].astype(np.float32)
        if self._held is not None:
            key = np.concatenate([self._held.keys, key])
            value = np.concatenate([self._held.values, value])
        self._fill(self._lower(EditPair(key, value)), delta)

    def evaluate(self, deltas: FloatArray) -> Losses:
        """See forward.LossOracle."""
        remember = self._prepared.surrogate is not None
        target, written = self._target_loss(deltas, self._suffixes, remember=remember)
        return Losses(target + self._drift(deltas), target, written)

    @property
    def guide(self) -> ContextLoss | None:
        """This loss as a forward.Guide, None where nothing was learned that could guide."""
        return None if self._prepared.surrogate is None and self._prepared.subspace is None else self

    @property
    def directions(self) -> FloatArray:
        """See forward.Guide."""
        subspace = self._prepared.subspace
        return np.zeros((0, self._bundle.architecture.hidden)) if subspace is None else subspace.directions

    def guess(self, row: int) -> FloatArray | None:
        """See forward.Guide. It takes no forward pass: the last evaluation's outputs are enough."""
        surrogate = self._prepared.surrogate
        if surrogate is None:
            return None
        assert self._last is not None
        deltas, out = self._last
        assert out.log_softmax is not None
        assert out.final_residual is not None
        count = len(self._suffixes)
        at = np.arange(count) * len(deltas) + row
        places = [
            (out.log_softmax[i, n], out.final_residual[i, n], target)
            for i, suffix in zip(at, self._suffixes, strict=True)
            for n, target in enumerate(suffix.targets)
        ]
        of_tokens = iter(output_gradients(self._bundle, surrogate, *zip(*places, strict=True)))
        gradients = [np.mean([next(of_tokens) for _ in suffix.targets], axis=0) for suffix in self._suffixes]
        shares = np.array([suffix.share for suffix in self._suffixes])
        guesses = surrogate.predict(
            np.stack(gradients),
            out.final_residual[at, 0],
            np.stack([suffix.residual[0, 0, : deltas.shape[1]] for suffix in self._suffixes]),
            shares[:, None] * deltas[row],
        )
        return np.asarray(shares @ guesses / count)

    def probe(self, deltas: FloatArray, step: int) -> FloatArray:
        """See forward.LossOracle."""
        first = step * self._probe_contexts
        chosen = [
            self._suffixes[(first + index) % len(self._suffixes)] for index in range(self._probe_contexts)
        ]
        target, _ = self._target_loss(deltas, chosen)
        return np.asarray(target + self._drift(deltas))

    def _target_loss(
        self, deltas: FloatArray, suffixes: Sequence[_Suffix], *, remember: bool = False
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Mean NLL [B] per target token over some of the contexts, and whether the first of them has every
        token as its first choice [B]."""
        self._last = None  # its memory is needed
        joined, count = _join(suffixes, len(deltas)), len(suffixes)
        shares = np.array([suffix.share for suffix in suffixes])
        out = self._bundle.upper(
            joined.residual,
            joined.cache,
            (shares[:, None, None] * deltas).reshape(count * len(deltas), -1).astype(np.float32),
            joined.rows,
            joined.targets,
            with_log_softmax=remember,
            with_final_residual=remember,
        )
        if remember:
            self._last = (deltas, out)
        self._cost.token_layers += count * len(deltas) * joined.residual.shape[1] * self._bundle.upper_layers
        self._context_evaluations += len(deltas) * count
        self._cost.loss_evaluations = math.ceil(self._context_evaluations / len(self._suffixes))
        nll = np.zeros(len(deltas))
        found = out.log_probabilities.astype(np.float64).reshape(count, len(deltas), -1)
        for suffix, log_probabilities in zip(suffixes, found, strict=True):
            nll -= log_probabilities[:, : len(suffix.targets)].mean(axis=1)
        bare = suffixes[0].targets
        written = (out.argmax[: len(deltas), : len(bare)] == np.array(bare)).all(axis=1)
        return np.asarray(nll / count), written

    def _drift(self, deltas: FloatArray) -> FloatArray:
        """Weighted KL divergence [B] of the next token after "{subject} is a" from the unedited model's."""
        if self._essence is None:
            return np.zeros(len(deltas))
        before, after = self._essence_before, self._vocabulary(self._essence, deltas)
        return np.asarray(self._kl_weight * (np.exp(before) * (before - after)).sum(axis=1))

    def _suffix(
        self,
        residual: Floats,
        subject_last: int,
        share: float,
        rows: Sequence[int],
        targets: Sequence[int],
    ) -> _Suffix:
        cache = self._bundle.fill_cache(residual[:, :subject_last])
        self._cost.token_layers += subject_last * self._bundle.upper_layers
        return _Suffix(residual[:, subject_last:], cache, share, rows, targets)

    def _vocabulary(self, suffix: _Suffix, deltas: FloatArray) -> FloatArray:
        """Log-probabilities [B, V] of the next token."""
        out = self._bundle.upper(
            suffix.residual,
            suffix.cache,
            (deltas * suffix.share).astype(np.float32),
            suffix.rows,
            suffix.targets,
            with_log_softmax=True,
        )
        self._count(suffix, len(deltas))
        assert out.log_softmax is not None
        return out.log_softmax[:, 0]

    def _count(self, suffix: _Suffix, batch: int) -> None:
        self._cost.token_layers += batch * suffix.residual.shape[1] * self._bundle.upper_layers
