"""Which layer to edit: small real edits of facts that nothing was learned from, at each candidate layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mobifarm.agent.editor import EditRecord
from mobifarm.agent.editor.prepared import InverseSecondMoment
from mobifarm.agent.editor.tokens import Texts, pad
from mobifarm.agent.editor.write_back import edit_key
from mobifarm.workloads.preparation.decoder import RankOneEdits, TorchDecoder
from mobifarm.workloads.preparation.gradients import BATCH, search
from mobifarm.workloads.preparation.samples import Sample, sample_of, targets_of

STEP_LIMIT = 16


@dataclass(frozen=True, slots=True)
class LayerTrial:
    """What editing at one layer gave. Shares from 0 to 1 of questions answered as wanted, in the probability
    form; None without such questions.

    Attributes:
        layer: l.
        success: share of prompts.
        paraphrase: share of paraphrases.
        neighbourhood: share of neighbours.
        converged: share of facts whose search reached the target in time.
        steps: mean steps of backpropagation.
    """

    layer: int
    success: float
    paraphrase: float | None
    neighbourhood: float | None
    converged: float
    steps: float

    @property
    def score(self) -> float:
        """Harmonic mean of the shares, ROME's score."""
        shares = [s for s in (self.success, self.paraphrase, self.neighbourhood) if s is not None]
        return 0.0 if min(shares) == 0 else len(shares) / sum(1 / share for share in shares)


def try_layer(
    decoder: TorchDecoder,
    texts: Texts,
    records: Sequence[EditRecord],
    layer: int,
    inverse: InverseSecondMoment | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LayerTrial:
    """Edit every record at ``layer`` by backpropagation, write back with C (None: the identity), and ask."""
    right: dict[str, list[bool]] = {"success": [], "paraphrase": [], "neighbourhood": []}
    steps, converged = [], []
    for start in range(0, len(records), BATCH):
        batch = records[start : start + BATCH]
        samples = [sample_of(texts, index, record) for index, record in enumerate(batch)]
        found = search(decoder, samples, layer, step_limit=STEP_LIMIT)
        steps += list(found.steps)
        converged += list(found.converged)
        keys = np.stack([edit_key(key, inverse) for key in found.keys.numpy().astype(np.float64)])
        edits = RankOneEdits(torch.tensor(keys.astype(np.float32)), found.deltas)
        questions = [
            (kind, index, prompt, wanted, other)
            for index, record in enumerate(batch)
            for kind, prompt, wanted, other in _questions(record)
        ]
        answers = [
            _log_probabilities(
                decoder,
                [
                    _answer(texts, index, prompt, (wanted, other)[which])
                    for _, index, prompt, wanted, other in questions
                ],
                layer,
                edits,
            )
            for which in (0, 1)
        ]
        for (kind, *_), wanted_score, other_score in zip(questions, *answers, strict=True):
            right[kind].append(bool(wanted_score > other_score))
        progress(start + len(batch), len(records))
    shares = {kind: float(np.mean(hits)) if hits else None for kind, hits in right.items()}
    return LayerTrial(
        layer,
        shares["success"] if shares["success"] is not None else float(np.mean(converged)),
        shares["paraphrase"],
        shares["neighbourhood"],
        float(np.mean(converged)),
        float(np.mean(steps)),
    )


def choose_layer(trials: Sequence[LayerTrial], cosines: Mapping[int, float], tolerance: float) -> int:
    """The layer whose gradients the surrogate guesses best, among those near the best score.

    How well gradients are guessed decides how many loss evaluations a forward-only search needs; the steps of
    backpropagation do not tell.

    Args:
        trials: what edits gave at each layer.
        cosines: layer → cosine between guessed and true gradients.
        tolerance: how far a score may fall behind the best.
    """
    best = max(trial.score for trial in trials)
    good = [trial.layer for trial in trials if trial.score >= best - tolerance]
    return max(good, key=lambda layer: (cosines[layer], -layer))


def _questions(record: EditRecord) -> list[tuple[str, str, str, str]]:
    new, true = record.target_new, record.target_true
    asked = [("success", record.prompt), *(("paraphrase", prompt) for prompt in record.paraphrases[:2])]
    return [
        *((kind, prompt, new, true) for kind, prompt in asked if true),
        *(("neighbourhood", probe.prompt, probe.answer, new) for probe in record.neighbours[:4]),
    ]


def _answer(texts: Texts, fact: int, prompt: str, answer: str) -> Sample:
    return Sample(fact, *texts.tokenize_prompt_and_answer(prompt, answer), 0)


def _log_probabilities(
    decoder: TorchDecoder, samples: Sequence[Sample], layer: int, edits: RankOneEdits
) -> list[float]:
    """Mean log-probability per token of every sample's answer; ``fact`` says whose edit is in place."""
    scores = [0.0] * len(samples)
    order = sorted(range(len(samples)), key=lambda index: len(samples[index].input_ids))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = [samples[index] for index in chosen]
        own = torch.tensor([sample.fact for sample in batch])
        with torch.no_grad():
            residual = decoder.embed(pad([sample.input_ids for sample in batch]))
            if layer > 0:
                residual = decoder.run(residual, range(layer))[-1].residual
            final = decoder.run(
                residual,
                range(layer, decoder.architecture.layers),
                addend=RankOneEdits(edits.keys[own], edits.values[own]).of_key,
            )[-1].residual
            nll = targets_of(batch, from_subject=False).nll(decoder, final)
        for index, value in zip(chosen, nll, strict=True):
            scores[index] = -float(value)
    return scores
