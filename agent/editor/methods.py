"""The editing methods by name. A method turns a record into one rank-one edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mobifarm.agent.editor.contexts import (
    ESSENCE_PROMPT,
    ContextLoss,
    TokenizedContext,
    tokenize_contexts,
    tokenize_key_contexts,
)
from mobifarm.agent.editor.forward import Step, minimise
from mobifarm.agent.editor.mobiedit import minimise as minimise_as_mobiedit
from mobifarm.agent.editor.sequence_loss import MOBIEDIT_PREFIXES, SequenceLoss
from mobifarm.agent.editor.settings import ForwardSettings, MobiEditSettings, parse_settings
from mobifarm.agent.editor.tokens import Texts
from mobifarm.agent.editor.types import EditCost, EditRecord
from mobifarm.agent.errors import InputError

if TYPE_CHECKING:
    from mobifarm.agent.editor.bundle import Bundle, EditPair
    from mobifarm.agent.editor.directions import FloatArray


@dataclass(frozen=True, slots=True)
class FoundEdit:
    """The rank-one side input that a method found: edit_key [f], edit_value [d]; see write_back.

    ``perturbation``: the longest difference step of the search in units of ‖v0‖, None where it has none.
    """

    edit_key: FloatArray
    edit_value: FloatArray
    converged: bool
    perturbation: float | None = None


class Method(Protocol):
    """An editing method with its complete settings. Choose one with :func:`method_with`."""

    @property
    def step_limit(self) -> int:
        """Most steps that :meth:`find` takes."""

    def check(self, texts: Texts, record: EditRecord) -> None:
        """Find out whether the record can be edited, without running the model. Raises InputError."""

    def find(
        self,
        bundle: Bundle,
        record: EditRecord,
        *,
        generator: np.random.Generator,
        cost: EditCost,
        on_step: Callable[[Step], None],
        held: EditPair | None = None,
    ) -> FoundEdit:
        """Search the edit.

        Args:
            bundle: the model.
            record: what to edit.
            generator: source of all randomness.
            cost: steps, loss evaluations and token_layers are counted here as they happen.
            on_step: called before every batched call; raise from it to stop.
            held: edits that the model has already, None for none.
        """


@dataclass(frozen=True, slots=True)
class ForwardMethod:
    """Forward-only search with the exact cache, then ROME's rank-one write-back."""

    settings: ForwardSettings

    @property
    def step_limit(self) -> int:
        """See Method."""
        return self.settings.step_limit

    def check(self, texts: Texts, record: EditRecord) -> None:
        """See Method."""
        tokenize_contexts(texts, record, self.settings.contexts)
        tokenize_key_contexts(texts, record)

    def find(
        self,
        bundle: Bundle,
        record: EditRecord,
        *,
        generator: np.random.Generator,
        cost: EditCost,
        on_step: Callable[[Step], None],
        held: EditPair | None = None,
    ) -> FoundEdit:
        """See Method."""
        settings = self.settings
        oracle = ContextLoss(
            bundle,
            tokenize_contexts(bundle, record, settings.contexts),
            key_contexts=tokenize_key_contexts(bundle, record),
            prepared=bundle.prepared.part(settings.prepared),
            held=held,
            essence=_tokenize_essence(bundle, record) if settings.kl_weight > 0 else None,
            kl_weight=settings.kl_weight,
            probe_contexts=settings.probe_contexts,
            cost=cost,
        )
        solution = minimise(
            oracle,
            dimension=bundle.architecture.hidden,
            reference_norm=oracle.value_norm,
            settings=settings,
            generator=generator,
            on_step=_counting(cost, on_step),
            guide=oracle.guide,
            loss_noise=bundle.loss_noise,
        )
        return FoundEdit(oracle.edit_key, solution.delta, solution.converged, solution.perturbation)


@dataclass(frozen=True, slots=True)
class MobiEditMethod:
    """MobiEdit (Lu et al., 2025, arXiv 2506.13772) as published: what the others are compared with.

    It uses nothing that was learned for the bundle.
    """

    settings: MobiEditSettings

    @property
    def step_limit(self) -> int:
        """See Method."""
        return self.settings.step_limit

    def check(self, texts: Texts, record: EditRecord) -> None:
        """See Method."""
        self._contexts(texts, record)

    def find(
        self,
        bundle: Bundle,
        record: EditRecord,
        *,
        generator: np.random.Generator,
        cost: EditCost,
        on_step: Callable[[Step], None],
        held: EditPair | None = None,
    ) -> FoundEdit:
        """See Method."""
        contexts, essence = self._contexts(bundle, record), _tokenize_essence(bundle, record)
        oracle = SequenceLoss(bundle, contexts, essence, self.settings, cost, held)
        solution = minimise_as_mobiedit(
            oracle,
            dimension=bundle.architecture.hidden,
            reference_norm=oracle.value_norm,
            settings=self.settings,
            generator=generator,
            on_step=_counting(cost, on_step),
        )
        return FoundEdit(oracle.edit_key, solution.delta, solution.converged)

    def _contexts(self, texts: Texts, record: EditRecord) -> list[TokenizedContext]:
        return tokenize_contexts(texts, record, self.settings.contexts, MOBIEDIT_PREFIXES)


def _tokenize_essence(texts: Texts, record: EditRecord) -> tuple[list[int], int]:
    """Tokens of "{subject} is a" and the index of the subject's last token."""
    prompt = ESSENCE_PROMPT.format(record.subject)
    return texts.tokenize(prompt), texts.subject_last_index(prompt, record.subject)


def _counting(cost: EditCost, on_step: Callable[[Step], None]) -> Callable[[Step], None]:
    def count(step: Step) -> None:
        cost.steps = step.number
        on_step(step)

    return count


@dataclass(frozen=True, slots=True)
class _Entry:
    settings: type[Any]
    build: Callable[[Any], Method]


_METHODS: Mapping[str, _Entry] = {
    "forward": _Entry(ForwardSettings, ForwardMethod),
    "mobiedit": _Entry(MobiEditSettings, MobiEditMethod),
}

METHOD_NAMES: tuple[str, ...] = tuple(_METHODS)


def _entry(method: str) -> _Entry:
    try:
        return _METHODS[method]
    except KeyError:
        raise InputError(
            f"{method!r} is no editing method: choose one of {', '.join(METHOD_NAMES)}"
        ) from None


def validate_settings(method: str, settings: Mapping[str, object]) -> Mapping[str, int | float | str]:
    """Complete settings of a method: those given, checked, and the defaults of the others.

    Raises:
        InputError: the method is unknown, or the message lists every unknown name and every bad value.
    """
    return dataclasses.asdict(parse_settings(_entry(method).settings, settings))


def method_with(method: str, settings: Mapping[str, object]) -> Method:
    """The method ``method`` with its settings; raises InputError as :func:`validate_settings`."""
    entry = _entry(method)
    return entry.build(parse_settings(entry.settings, settings))
