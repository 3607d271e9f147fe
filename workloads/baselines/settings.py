"""Names and settings of the baselines. Importing it needs no torch: specs are checked where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from mobifarm.agent.editor.settings import ForwardSettings, parse_settings

BaselineName = Literal["unedited", "in_context", "finetune", "rome", "rome_cached", "rome_cached_early"]
BASELINE_NAMES: tuple[BaselineName, ...] = get_args(BaselineName)


def _setting(default: Any, minimum: float, maximum: float) -> Any:
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum})


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

    contexts: int = _setting(6, 1, 6)
    steps: int = _setting(25, 1, 100_000)
    learning_rate: float = _setting(0.5, 1e-9, 1e3)
    kl_weight: float = _setting(0.0625, 0.0, 100.0)
    weight_decay: float = _setting(1e-3, 0.0, 100.0)
    stop_loss: float = _setting(0.05, 0.0, 100.0)
    norm_limit: float = _setting(4.0, 0.01, 100.0)


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """Fine-tuning of one ``down_proj`` on the answer's tokens, as the baseline FT of ROME and EasyEdit.

    Attributes:
        depth_share: the layer, as a share of the depth; 21 of 28 layers are published.
        steps: losses computed at most; the last one takes no step.
        learning_rate: of Adam.
        stop_loss: the edit is done when the loss is below it.
    """

    depth_share: float = _setting(0.75, 0.0, 1.0)
    steps: int = _setting(25, 1, 100_000)
    learning_rate: float = _setting(5e-4, 1e-9, 1e3)
    stop_loss: float = _setting(0.01, 0.0, 100.0)


@dataclass(frozen=True, slots=True)
class NoSettings:
    """Nothing to choose."""


BaselineSettings = RomeSettings | FinetuneSettings | NoSettings

# ``rome_cached_early`` stops at the target probability that is the goal of the phone's own method: the fewest
# steps that do the same work.
_DEFAULTS: Mapping[BaselineName, BaselineSettings] = {
    "unedited": NoSettings(),
    "in_context": NoSettings(),
    "finetune": FinetuneSettings(),
    "rome": RomeSettings(),
    "rome_cached": RomeSettings(),
    "rome_cached_early": RomeSettings(stop_loss=-math.log(ForwardSettings().stop_probability)),
}


def baseline_settings(name: BaselineName, values: Mapping[str, object]) -> BaselineSettings:
    """The settings of a baseline: those given, and its defaults for the others.

    Raises:
        InputError: the message lists every unknown name and every bad value.
    """
    default = _DEFAULTS[name]
    return parse_settings(type(default), {**asdict(default), **values})
