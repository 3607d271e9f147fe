"""The forward-only optimiser: finds δ from loss values alone. Pure: no model, no clock, no I/O.

Each step (1) probes the loss along fresh random orthonormal directions and the last few gradient estimates in
one batched call, on a share of the contexts that changes from step to step, (2) projects the gradient onto
these directions, (3) searches along its negative with a few step lengths in a second batched call, over all
contexts, which also tells whether the edit is done. Step lengths grow and shrink with the line search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.directions import (
    FloatArray,
    audible_step,
    central_difference_slopes,
    forward_difference_slopes,
    orthonormal_directions,
)
from mobifarm.agent.editor.settings import ForwardSettings

STEP_FACTORS = (0.25, 0.7, 2.0)
TRIM_FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_STEP = 0.02
# ‖v0‖: no difference step is made longer than this for noise; losses bend too much.
LONGEST_PERTURBATION = 2.0
# Fewer say too little about how much losses differ.
ENOUGH_SLOPES = 4
# Whoever stops at a smaller probability does not ask for a first choice.
WRITTEN_FROM = 0.5
# Nats: from a probability of one half on, what holds a search up may be the norm penalty.
NEAR_GOAL = 0.69
# δ counts as being at its longest from here on.
AT_LIMIT = 0.99
# A search that gained less than so many nats in its last so many steps hardly moves any more.
PLATEAU_NATS = 0.1
PLATEAU_STEPS = 4
# The written-back edit may fall this many nats short of what stopped the search: 0.82 for a goal of 0.9.
SETTLED_SLACK = 0.09


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of a batch of δ, [B] float64 nats each.

    Attributes:
        total: what is minimised, the norm penalty aside.
        target: the part that decides when to stop: mean NLL per target token over the contexts.
        written: bool, whether the model now writes the target by itself after the bare prompt, which no mean
            over contexts can tell; None where it does not matter.
    """

    total: FloatArray
    target: FloatArray
    written: NDArray[np.bool_] | None = None


class LossOracle(Protocol):
    """What the optimiser needs from a model."""

    def evaluate(self, deltas: FloatArray) -> Losses:
        """Losses of each row of ``deltas`` [B, d] float64 over all contexts."""

    def probe(self, deltas: FloatArray, step: int) -> FloatArray:
        """What is minimised, [B], over the contexts that step ``step`` takes: for slopes only."""

    def settle(self, delta: FloatArray) -> None:
        """Let what the written-back ``delta`` [d] does beside its own place count in all losses to come."""


class Guide(Protocol):
    """What was learned once for the model about its gradients."""

    @property
    def directions(self) -> FloatArray:
        """[k, d] orthonormal rows: where gradients mostly lie, the most important first; k may be 0."""

    def guess(self, row: int) -> FloatArray | None:
        """Guess [d] of the gradient's direction at a row of the oracle's last :meth:`LossOracle.evaluate`,
        None where only directions were learned."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where the search stands; ``loss`` is the objective with its penalty, nats."""

    number: int
    loss: float
    target_probability: float


@dataclass(frozen=True, slots=True)
class Solution:
    """The best δ [d] found and how the search ended.

    ``perturbation``: the longest difference step that was taken, in units of ‖v0‖; None where none was.
    """

    delta: FloatArray
    converged: bool
    steps: int
    target_probability: float
    perturbation: float | None = None


def clamp_norm(deltas: FloatArray, limit: float) -> FloatArray:
    """Shorten every row of [B, d] that is longer than ``limit`` to it; the others stay as they are."""
    norms = np.linalg.norm(deltas, axis=-1, keepdims=True)
    shares = np.divide(limit, norms, out=np.ones_like(norms), where=norms > limit)
    return np.asarray(deltas * shares)


def minimise(
    oracle: LossOracle,
    *,
    dimension: int,
    reference_norm: float,
    settings: ForwardSettings,
    generator: np.random.Generator,
    on_step: Callable[[Step], None],
    guide: Guide | None = None,
    loss_noise: float = 0.0,
) -> Solution:
    """Search δ ∈ R^d, ‖δ‖ ≤ norm_limit·‖v0‖, from δ = 0 until the target is probable enough.

    Args:
        oracle: the loss.
        dimension: d.
        reference_norm: ‖v0‖ > 0, the unit of all lengths in the settings.
        settings: see :class:`ForwardSettings`.
        generator: source of all randomness.
        on_step: called before every batched call and at the end; raise from it to stop.
        guide: where there is one, its guess and some of its directions are probed with fewer random ones, and
            the first line search follows the guess alone.
        loss_noise: standard deviation of what rounding adds to a loss, nats. Difference steps grow where
            losses tell too little beside it, and shrink again.
    """
    return _Search(oracle, dimension, reference_norm, settings, generator, on_step, guide, loss_noise).run()


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Evaluated δ [B, d]: objective with its penalty [B], target loss [B], whether the model writes the
    target by itself (or need not), and whether that is the goal."""

    deltas: FloatArray
    objectives: FloatArray
    target_losses: FloatArray
    written: NDArray[np.bool_]
    done: NDArray[np.bool_]


class _Search:
    def __init__(
        self,
        oracle: LossOracle,
        dimension: int,
        reference_norm: float,
        settings: ForwardSettings,
        generator: np.random.Generator,
        on_step: Callable[[Step], None],
        guide: Guide | None,
        loss_noise: float,
    ) -> None:
        self._oracle, self._guide = oracle, guide
        self._unit = reference_norm
        self._settings = settings
        self._generator = generator
        self._on_step = on_step
        self._stop_loss = -float(np.log(settings.stop_probability))
        self._plateau_loss = -float(np.log(settings.plateau_probability))
        self._delta: FloatArray = np.zeros(dimension)
        self._objective = self._target_loss = float("nan")
        self._written = self._done = False
        self._recent_losses: deque[float] = deque(maxlen=PLATEAU_STEPS + 1)
        self._penalty_weight = settings.norm_penalty
        self._loss_noise = loss_noise
        self._perturbation = settings.perturbation * reference_norm
        self._longest_taken = 0.0
        self._step_length = settings.initial_step * reference_norm
        self._last_gradients: deque[FloatArray] = deque(maxlen=settings.memory)
        self._guess: FloatArray | None = None
        self._steps = 0

    def run(self) -> Solution:
        self._announce()
        self._move(self._evaluate(self._delta[None]), 0)
        self._take_guess(0)
        self._descend()
        while self._done and self._delta.any():
            self._announce()
            self._trim()
            self._announce()
            if self._settle():
                break
            self._descend()
        self._announce()
        taken = self._longest_taken / self._unit or None
        return Solution(self._delta, self._done, self._steps, float(np.exp(-self._target_loss)), taken)

    def _descend(self) -> None:
        """Step until the goal, a plateau near it or the step limit."""
        self._recent_losses.clear()
        while self._steps < self._settings.step_limit and not self._done:
            self._announce()
            self._steps += 1
            if self._steps == 1 and self._guess is not None:
                gradient = self._guess
            else:
                gradient = self._estimate_gradient()
                self._announce()
            # A flat loss gives no direction, and one that overflowed none to trust.
            if np.isfinite(gradient).all() and gradient.any():
                self._line_search(gradient)
                self._last_gradients.appendleft(gradient)
            self._accept_plateau()

    def _accept_plateau(self) -> None:
        """Be content with where the search stands, if that is nearly the goal and it hardly moves any more:
        a tenth of all edits would spend a third of all evaluations on the little that is missing."""
        self._recent_losses.append(self._target_loss)
        gains = self._recent_losses[0] - self._target_loss
        slow = len(self._recent_losses) > PLATEAU_STEPS and gains < PLATEAU_NATS
        if slow and not self._done and self._written and self._target_loss <= self._plateau_loss:
            self._stop_loss, self._done = max(self._stop_loss, self._target_loss), True

    def _announce(self) -> None:
        probability = float(np.exp(-self._target_loss))
        self._on_step(Step(self._steps, self._objective, probability))

    def _evaluate(self, deltas: FloatArray, slack: float = 0.0) -> _Candidates:
        losses = self._oracle.evaluate(deltas)
        written = np.ones(len(deltas), dtype=np.bool_)
        if losses.written is not None and self._settings.stop_probability >= WRITTEN_FROM:
            written = losses.written
        done = written & (losses.target <= self._stop_loss + slack)
        return _Candidates(deltas, losses.total + self._penalty(deltas), losses.target, written, done)

    def _penalty(self, deltas: FloatArray) -> FloatArray:
        return np.asarray(self._penalty_weight * (deltas**2).sum(axis=-1) / self._unit**2)

    def _estimate_gradient(self) -> FloatArray:
        """Projection of the objective's gradient onto the directions, [d]."""
        settings = self._settings
        leaders, learned, fresh = list(self._last_gradients), self._learned_directions(), settings.directions
        if self._guess is not None:
            leaders, fresh = [self._guess, *leaders], settings.guided_directions
        directions = orthonormal_directions(self._generator, fresh, len(self._delta), [*leaders, *learned])
        rows, length = len(directions), self._perturbation
        probes = [self._delta + length * directions]
        if settings.differences == "central":
            probes.append(self._delta - length * directions)
        deltas = np.concatenate(probes)
        objectives = self._oracle.probe(deltas, self._steps) + self._penalty(deltas)
        if settings.differences == "central":
            slopes = central_difference_slopes(objectives[:rows], objectives[rows:], length)
        else:
            slopes = forward_difference_slopes(objectives, length, led=len(leaders))
        self._adapt_perturbation(slopes[len(leaders) :])
        return np.asarray(slopes @ directions)

    def _adapt_perturbation(self, slopes: FloatArray) -> None:
        """Take for the next estimate a step that its losses can be told apart with."""
        self._longest_taken = max(self._longest_taken, self._perturbation)
        shortest = self._settings.perturbation
        if self._loss_noise and len(slopes) >= ENOUGH_SLOPES and np.isfinite(slopes).all():
            self._perturbation = audible_step(
                slopes,
                self._perturbation,
                self._loss_noise,
                shortest * self._unit,
                max(shortest, LONGEST_PERTURBATION) * self._unit,
            )

    def _learned_directions(self) -> list[FloatArray]:
        """The guide's directions, a few in turn."""
        if self._guide is None:
            return []
        count, rows = self._settings.learned_directions, self._guide.directions
        first = (self._steps - 1) * count
        return [rows[(first + index) % len(rows)] for index in range(min(count, len(rows)))]

    def _take_guess(self, row: int) -> None:
        """Remember the guess at a row of the last evaluation, where δ now is."""
        if self._guide is not None:
            guess = self._guide.guess(row)
            usable = guess is not None and np.isfinite(guess).all() and guess.any()
            self._guess = guess if usable else None

    def _line_search(self, gradient: FloatArray) -> None:
        """Move to the best of a few points downhill; shorten the next steps where none is better."""
        downhill = self._downhill(gradient)
        lengths = self._step_length * np.array(STEP_FACTORS)
        candidates = clamp_norm(
            self._delta + lengths[:, None] * downhill, self._settings.norm_limit * self._unit
        )
        found = self._evaluate(candidates)
        # The shortest step that reaches the goal disturbs the rest of the model least.
        done = np.flatnonzero(found.done)
        best = int(done[0]) if len(done) else int(found.objectives.argmin())
        if len(done) or found.objectives[best] < self._objective:
            self._move(found, best)
            self._take_guess(best)
        else:
            best = 0
            if self._target_loss < NEAR_GOAL:
                self._leave_penalty_out()
        longest = self._settings.norm_limit * self._unit / STEP_FACTORS[-1]
        self._step_length = min(max(float(lengths[best]), SMALLEST_STEP * self._unit), longest)

    def _leave_penalty_out(self) -> None:
        """From here on: near the goal its pull inwards is as strong as what the target still gains, and the
        best compromise of the two may lie short of the goal."""
        self._objective -= float(self._penalty(self._delta))
        self._penalty_weight = 0.0

    def _downhill(self, gradient: FloatArray) -> FloatArray:
        """Unit vector against the gradient. A δ at its longest moves along the sphere: outwards, the clamp
        would take every step back."""
        downhill, length = -gradient, float(np.linalg.norm(self._delta))
        if length >= AT_LIMIT * self._settings.norm_limit * self._unit:
            outward = max(float(downhill @ self._delta) / length**2, 0.0)
            along = downhill - outward * self._delta
            downhill = along if along.any() else downhill
        return np.asarray(downhill / np.linalg.norm(downhill))

    def _settle(self) -> bool:
        """Write δ back for the losses to come; whether the goal still stands then."""
        self._oracle.settle(self._delta)
        self._move(self._evaluate(self._delta[None], slack=SETTLED_SLACK), 0)
        self._take_guess(0)
        return self._done

    def _trim(self) -> None:
        """Shorten δ as far as the goal allows: what is too much only disturbs the rest of the model."""
        found = self._evaluate(np.array(TRIM_FACTORS)[:, None] * self._delta)
        done = np.flatnonzero(found.done)
        if len(done):
            self._move(found, int(done[0]))

    def _move(self, to: _Candidates, row: int) -> None:
        self._delta = to.deltas[row]
        self._written, self._done = bool(to.written[row]), bool(to.done[row])
        self._objective, self._target_loss = float(to.objectives[row]), float(to.target_losses[row])
