"""The baselines by name: ROME in full and from the exact cache, fine-tuning, in-context, no edit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from mobifarm.agent.editor.directions import FloatArray
from mobifarm.agent.editor.tokens import pad
from mobifarm.agent.editor.types import Clock, EditCost, EditRecord
from mobifarm.agent.editor.write_back import LinearOperator, edit_key
from mobifarm.workloads.baselines.objective import (
    BACKWARD_FORWARDS,
    CachedObjective,
    FullObjective,
    Objective,
    sequences_of,
)
from mobifarm.workloads.baselines.torch_model import (
    BundleTexts,
    TorchModel,
    changed_weight,
    forward,
    rank_one,
)
from mobifarm.workloads.metrics.language_model import EditedModel, Editor, LanguageModel, PrefixedModel
from mobifarm.workloads.preparation.decoder import TorchDecoder

BaselineName = Literal["unedited", "in_context", "finetune", "rome", "rome_cached", "rome_cached_early"]
BASELINE_NAMES: tuple[BaselineName, ...] = get_args(BaselineName)

# A target probability of 0.7, where the phone's own method stops: the fewest steps that do the same work.
_EARLY_STOP_LOSS = -math.log(0.7)


@dataclass(frozen=True, slots=True)
class RomeSettings:
    """ROME as published (Meng et al., 2022): Adam on δ.

    Attributes:
        contexts: rewriting prompts, the phone's own (see contexts.PREFIXES).
        steps: losses computed at most; the last one takes no step.
        learning_rate: of Adam.
        kl_weight: of the KL divergence after "{subject} is a".
        weight_decay: λ in λ‖δ‖/‖v0‖².
        stop_loss: the edit is done when the loss is below it.
        norm_limit: ‖δ‖ ≤ norm_limit·‖v0‖.
    """

    contexts: int = 6
    steps: int = 25
    learning_rate: float = 0.5
    kl_weight: float = 0.0625
    weight_decay: float = 1e-3
    stop_loss: float = 0.05
    norm_limit: float = 4.0


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """Fine-tuning of one ``down_proj`` on the answer's tokens, as the baseline FT of ROME and EasyEdit.

    Attributes:
        depth_share: the layer, as a share of the depth; 21 of 28 layers are published.
        steps: losses computed at most; the last one takes no step.
        learning_rate: of Adam.
        stop_loss: the edit is done when the loss is below it.
    """

    depth_share: float = 0.75
    steps: int = 25
    learning_rate: float = 5e-4
    stop_loss: float = 0.01


@dataclass(frozen=True, slots=True)
class RomeEditor:
    """Backpropagation to the subject's value, then the rank-one write-back.

    Attributes:
        layer: layer l whose ``down_proj`` is edited.
        cached: compute from the exact cache; the results are the same.
        inverse_second_moment: C⁻¹ of the layer's keys, [f, f]; None stands for the identity.
    """

    unedited: TorchModel
    layer: int
    cached: bool
    inverse_second_moment: LinearOperator | FloatArray | None = None
    settings: RomeSettings = RomeSettings()
    on_step: Callable[[], None] = lambda: None

    def edit(self, record: EditRecord, clock: Clock) -> EditedModel:
        """See Editor."""
        cost = EditCost()
        started = clock()
        objective = self.objective(record, cost)
        delta, converged = self._minimise(objective, cost)
        keys = objective.keys.double().numpy()
        direction = edit_key(keys.mean(axis=0), self.inverse_second_moment)
        # As published, the bare prompt gets exactly δ.
        direction = direction / (keys[0] @ direction)
        addend = rank_one(self.layer, torch.from_numpy(direction).float(), delta)
        cost.edit_s = clock() - started
        return EditedModel(
            TorchModel(self.unedited.decoder, self.unedited.vocabulary, addend), cost, converged
        )

    def objective(self, record: EditRecord, cost: EditCost) -> Objective:
        """The loss of the record; raises InputError where it cannot be edited."""
        sequences = sequences_of(self.unedited.texts, record, self.settings.contexts)
        kind = CachedObjective if self.cached else FullObjective
        return kind(self.unedited.decoder, self.layer, sequences, cost)

    def _minimise(self, objective: Objective, cost: EditCost) -> tuple[torch.Tensor, bool]:
        settings = self.settings
        norm = objective.value.norm()
        delta = torch.zeros_like(objective.value, requires_grad=True)
        optimiser = torch.optim.Adam([delta], lr=settings.learning_rate)
        for step in range(1, settings.steps + 1):
            self.on_step()
            cost.steps = step
            optimiser.zero_grad()
            nll, divergence = objective.losses(delta)
            loss = nll + settings.kl_weight * divergence
            # The length's gradient is not defined at 0; there the penalty is 0 and constant.
            if step > 1:
                loss = loss + settings.weight_decay * delta.norm() / norm**2
            if loss.item() < settings.stop_loss:
                return delta.detach(), True
            if step == settings.steps:
                break
            loss.backward()  # type: ignore[no-untyped-call]
            objective.count_backward()
            optimiser.step()
            with torch.no_grad():
                delta.mul_((settings.norm_limit * norm / delta.norm()).clamp(max=1))
        return delta.detach(), False


@dataclass(frozen=True, slots=True)
class FinetuneEditor:
    """Adam on the weight of a late ``down_proj``, on the prompt with the answer alone."""

    unedited: TorchModel
    settings: FinetuneSettings = FinetuneSettings()
    on_step: Callable[[], None] = lambda: None

    def edit(self, record: EditRecord, clock: Clock) -> EditedModel:
        """See Editor."""
        cost = EditCost()
        started = clock()
        model, settings = self.unedited, self.settings
        a = model.vocabulary.architecture
        layer = min(a.layers - 1, round(a.layers * settings.depth_share))
        prompt, answer = model.texts.tokenize_prompt_and_answer(record.prompt, record.target_new)
        tokens = pad([[*prompt, *answer[:-1]]])
        targets = torch.tensor(answer)
        change = torch.zeros(a.hidden, a.intermediate, requires_grad=True)
        optimiser = torch.optim.Adam([change], lr=settings.learning_rate)
        converged = False
        for step in range(1, settings.steps + 1):
            self.on_step()
            cost.steps = step
            optimiser.zero_grad()
            residual = model.decoder.embed(tokens)
            final = forward(model.decoder, residual, range(a.layers), changed_weight(layer, change))
            log_softmax = model.decoder.log_softmax(final[0, len(prompt) - 1 :])
            loss = -log_softmax.gather(1, targets[:, None]).mean()
            cost.loss_evaluations += 1
            cost.token_layers += tokens.size * a.layers
            converged = loss.item() < settings.stop_loss
            if converged or step == settings.steps:
                break
            loss.backward()  # type: ignore[no-untyped-call]
            cost.loss_evaluations += BACKWARD_FORWARDS
            cost.token_layers += BACKWARD_FORWARDS * tokens.size * (a.layers - layer)
            optimiser.step()
        addend = changed_weight(layer, change.detach())
        cost.edit_s = clock() - started
        return EditedModel(TorchModel(model.decoder, model.vocabulary, addend), cost, converged)


@dataclass(frozen=True, slots=True)
class InContextEditor:
    """The fact stands before everything that the model reads. Its tokens are paid for in every question;
    the cost counts one pass over them, which a cache of keys and values would keep."""

    unedited: LanguageModel

    def edit(self, record: EditRecord, clock: Clock) -> EditedModel:
        """See Editor."""
        started = clock()
        texts = self.unedited.texts
        prefix = tuple(texts.tokenize(f"{record.prompt} {record.target_new}.\n"))
        cost = EditCost(token_layers=len(prefix) * texts.architecture.layers)
        cost.edit_s = clock() - started
        return EditedModel(PrefixedModel(self.unedited, prefix, len(texts.tokenize(""))), cost, True)


@dataclass(frozen=True, slots=True)
class NoEditor:
    """Leaves the model as it is: the row that every other one is compared with."""

    unedited: LanguageModel

    def edit(self, record: EditRecord, clock: Clock) -> EditedModel:
        """See Editor."""
        return EditedModel(self.unedited, EditCost(), False)


def baseline(
    name: BaselineName,
    decoder: TorchDecoder,
    texts: BundleTexts,
    *,
    inverse_second_moment: LinearOperator | FloatArray | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Editor:
    """A baseline on the weights of ``decoder``, at the bundle's edit layer.

    Args:
        name: which one. ``rome_cached_early`` is ``rome_cached`` with a later loss limit: the floor of what
            backpropagation takes to the stop probability of the phone's own method.
        decoder: the model.
        texts: tokenizer, shape and edit layer of the bundle to compare with.
        inverse_second_moment: C⁻¹ for ROME, [f, f], as Prepared has it; None stands for the identity.
        on_step: called before every step.
    """
    model = TorchModel(decoder, texts)
    match name:
        case "unedited":
            return NoEditor(model)
        case "in_context":
            return InContextEditor(model)
        case "finetune":
            return FinetuneEditor(model, on_step=on_step)
        case "rome" | "rome_cached" | "rome_cached_early":
            early = name == "rome_cached_early"
            return RomeEditor(
                model,
                texts.manifest.edit_layer,
                cached=name != "rome",
                inverse_second_moment=inverse_second_moment,
                settings=RomeSettings(stop_loss=_EARLY_STOP_LOSS) if early else RomeSettings(),
                on_step=on_step,
            )
