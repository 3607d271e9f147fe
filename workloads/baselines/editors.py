"""The baselines by name: ROME in full and from the exact cache, fine-tuning, in-context, no edit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from mobifarm.agent.editor.directions import FloatArray
from mobifarm.agent.editor.forward import Step
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
from mobifarm.workloads.baselines.settings import (
    BaselineName,
    FinetuneSettings,
    RomeSettings,
    baseline_settings,
)
from mobifarm.workloads.baselines.texts import BundleTexts
from mobifarm.workloads.baselines.torch_model import TorchModel, changed_weight, forward, rank_one
from mobifarm.workloads.metrics.language_model import EditedModel, Editor, LanguageModel, PrefixedModel
from mobifarm.workloads.preparation.decoder import TorchDecoder


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
    settings: RomeSettings = field(default_factory=RomeSettings)
    on_step: Callable[[Step], None] = lambda step: None

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
        seen, probability = math.nan, math.nan
        for step in range(1, settings.steps + 1):
            self.on_step(Step(step, seen, probability))
            cost.steps = step
            optimiser.zero_grad()
            nll, divergence = objective.losses(delta)
            loss = nll + settings.kl_weight * divergence
            # The length's gradient is not defined at 0; there the penalty is 0 and constant.
            if step > 1:
                loss = loss + settings.weight_decay * delta.norm() / norm**2
            seen, probability = loss.item(), math.exp(-nll.item())
            if seen < settings.stop_loss:
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
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    on_step: Callable[[Step], None] = lambda step: None

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
        converged, seen = False, math.nan
        for step in range(1, settings.steps + 1):
            self.on_step(Step(step, seen, math.exp(-seen)))
            cost.steps = step
            optimiser.zero_grad()
            residual = model.decoder.embed(tokens)
            final = forward(model.decoder, residual, range(a.layers), changed_weight(layer, change))
            log_softmax = model.decoder.log_softmax(final[0, len(prompt) - 1 :])
            loss = -log_softmax.gather(1, targets[:, None]).mean()
            cost.loss_evaluations += 1
            cost.token_layers += tokens.size * a.layers
            seen = loss.item()
            converged = seen < settings.stop_loss
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
    settings: Mapping[str, object] = MappingProxyType({}),
    on_step: Callable[[Step], None] = lambda step: None,
) -> Editor:
    """A baseline on the weights of ``decoder``, at the bundle's edit layer.

    Args:
        name: which one. ``rome_cached_early`` is ``rome_cached`` with a later loss limit: the floor of what
            backpropagation takes to the stop probability of the phone's own method.
        decoder: the model.
        texts: tokenizer, shape and edit layer of the bundle to compare with.
        inverse_second_moment: C⁻¹ for ROME, [f, f], as Prepared has it; None stands for the identity.
        settings: settings that differ from the baseline's defaults.
        on_step: called before every step with what the one before it saw; raise from it to stop.

    Raises:
        InputError: the settings do not fit.
    """
    model, chosen = TorchModel(decoder, texts), baseline_settings(name, settings)
    match name:
        case "unedited":
            return NoEditor(model)
        case "in_context":
            return InContextEditor(model)
        case "finetune":
            assert isinstance(chosen, FinetuneSettings)
            return FinetuneEditor(model, chosen, on_step)
        case "rome" | "rome_cached" | "rome_cached_early":
            assert isinstance(chosen, RomeSettings)
            return RomeEditor(
                model,
                texts.manifest.edit_layer,
                cached=name != "rome",
                inverse_second_moment=inverse_second_moment,
                settings=chosen,
                on_step=on_step,
            )
