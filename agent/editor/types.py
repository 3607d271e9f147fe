"""What goes into an edit and what comes out of it. Plain data, no I/O.

Names follow ROME (Meng et al., 2022) and CounterFact: subject, prompt, target_new, target_true,
paraphrases (generalisation), neighbours (locality), portability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mobifarm.agent.errors import InputError


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt about something else than the edit, with the answer that the model should give."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class EditRecord:
    """One fact to write into the model.

    ``prompt`` holds ``subject`` literally; the answers follow the prompt after one space. Where no other
    answer is known, ``target_true`` is "", and nothing is compared in the probability form.

    Raises:
        InputError: naming the field that is empty or does not fit.
    """

    record_id: str
    subject: str
    prompt: str
    target_new: str
    target_true: str
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()

    def __post_init__(self) -> None:
        for name in ("record_id", "subject", "prompt", "target_new"):
            if not getattr(self, name).strip():
                raise InputError(f"{name} is empty: give it some text")
        if self.subject not in self.prompt:
            raise InputError(
                f"the subject {self.subject!r} does not occur in the prompt {self.prompt!r}: "
                "write the subject exactly as it stands in the prompt"
            )


class ProbeKind(Enum):
    """What a scored prompt tells about an edit (editor metrics as in the literature)."""

    EFFICACY = "efficacy"
    PARAPHRASE = "paraphrase"
    NEIGHBOURHOOD = "neighbourhood"
    PORTABILITY = "portability"


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """Teacher-forced score of one answer after one prompt.

    Attributes:
        log_probability: sum over the answer's tokens, nats.
        tokens: number of tokens of the answer.
        tokens_argmax: how many of them are the model's first choice.
    """

    log_probability: float
    tokens: int
    tokens_argmax: int


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """One prompt on the unedited and on the edited quantised model.

    ``wanted`` is target_new for efficacy and paraphrase and the probe's own answer otherwise;
    ``other`` is target_true for efficacy and paraphrase, target_new for neighbourhood, "" for portability;
    where it is "", its scores are None.
    """

    kind: ProbeKind
    prompt: str
    wanted: str
    other: str
    wanted_before: AnswerScore
    wanted_after: AnswerScore
    other_before: AnswerScore | None
    other_after: AnswerScore | None


class EditPhase(Enum):
    """What an attempt is doing."""

    LOADING = "loading"
    EVALUATING_BEFORE = "evaluating_before"
    CACHING = "caching"
    OPTIMISING = "optimising"
    EVALUATING_AFTER = "evaluating_after"


class EditStatus(Enum):
    """How an edit ended."""

    CONVERGED = "converged"
    STEP_LIMIT = "step_limit"


@dataclass(frozen=True, slots=True)
class EditProgress:
    """A sign of life. ``loss`` in nats and ``target_probability`` are NaN before the first step."""

    phase: EditPhase
    step: int = 0
    step_limit: int = 0
    loss: float = float("nan")
    target_probability: float = float("nan")
    loss_evaluations: int = 0


@dataclass(slots=True)
class EditCost:
    """What an edit took.

    Attributes:
        loss_evaluations: one = the loss of one value of δ over all contexts.
        token_layers: tokens × layers computed for the edit (cache included, before/after scores not).
        edit_s: wall seconds from filling the cache to the write-back.
        evaluation_s: wall seconds of the before and after scores.
    """

    steps: int = 0
    loss_evaluations: int = 0
    token_layers: int = 0
    edit_s: float = 0.0
    evaluation_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EditOutcome:
    """A finished edit: how it ended, what it cost, how the model answers before and after.

    ``perturbation``: longest difference step of the search, see FoundEdit.
    """

    status: EditStatus
    cost: EditCost
    scores: tuple[ProbeScore, ...] = field(default=())
    perturbation: float | None = None


class Report(Protocol):
    """Receives progress; called from the editor's thread, must return at once."""

    def __call__(self, progress: EditProgress) -> None: ...


Clock = Callable[[], float]
"""Monotonic seconds; passed in so that tests need no real time."""
