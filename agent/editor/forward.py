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

from mobifarm.agent.editor.directions import (
    FloatArray,
    central_difference_slopes,
    forward_difference_slopes,
    orthonormal_directions,
)
from mobifarm.agent.editor.settings import ForwardSettings

STEP_FACTORS = (0.25, 0.5, 1.0, 2.0)
TRIM_FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_STEP = 0.02


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of a batch of δ, [B] float64 nats each.

    Attributes:
        total: what is minimised, the norm penalty aside.
        target: the part that decides when to stop: mean NLL per target token over the contexts.
    """

    total: FloatArray
    target: FloatArray


class LossOracle(Protocol):
    """What the optimiser needs from a model."""

    def evaluate(self, deltas: FloatArray) -> Losses:
        """Losses of each row of ``deltas`` [B, d] float64 over all contexts."""

    def probe(self, deltas: FloatArray, step: int) -> FloatArray:
        """What is minimised, [B], over the contexts that step ``step`` takes: for slopes only."""


class Guide(Protocol):
    """What was learned once for the model about its gradients."""

    @property
    def directions(self) -> FloatArray:
        """[k, d] orthonormal rows: where gradients mostly lie, the most important first."""

    def guess(self, row: int) -> FloatArray:
        """Guess [d] of the gradient's direction at a row of the oracle's last :meth:`LossOracle.evaluate`."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where the search stands; ``loss`` is the objective with its penalty, nats."""

    number: int
    loss: float
    target_probability: float


@dataclass(frozen=True, slots=True)
class Solution:
    """The best δ [d] found and how the search ended."""

    delta: FloatArray
    converged: bool
    steps: int
    target_probability: float


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
    """
    return _Search(oracle, dimension, reference_norm, settings, generator, on_step, guide).run()


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
    ) -> None:
        self._oracle, self._guide = oracle, guide
        self._unit = reference_norm
        self._settings = settings
        self._generator = generator
        self._on_step = on_step
        self._stop_loss = -float(np.log(settings.stop_probability))
        self._delta: FloatArray = np.zeros(dimension)
        self._objective = self._target_loss = float("nan")
        self._step_length = settings.initial_step * reference_norm
        self._last_gradients: deque[FloatArray] = deque(maxlen=settings.memory)
        self._guess: FloatArray | None = None
        self._steps = 0

    def run(self) -> Solution:
        self._announce()
        objectives, target_losses = self._evaluate(self._delta[None])
        self._move(self._delta, objectives[0], target_losses[0])
        self._take_guess(0)
        while self._steps < self._settings.step_limit and not self._done():
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
        converged = self._done()
        if converged and self._delta.any():
            self._announce()
            self._trim()
        self._announce()
        probability = float(np.exp(-self._target_loss))
        return Solution(self._delta, converged, self._steps, probability)

    def _done(self) -> bool:
        return self._target_loss <= self._stop_loss

    def _announce(self) -> None:
        probability = float(np.exp(-self._target_loss))
        self._on_step(Step(self._steps, self._objective, probability))

    def _evaluate(self, deltas: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Objective [B], penalty included, and target loss [B]."""
        losses = self._oracle.evaluate(deltas)
        return losses.total + self._penalty(deltas), losses.target

    def _penalty(self, deltas: FloatArray) -> FloatArray:
        return np.asarray(self._settings.norm_penalty * (deltas**2).sum(axis=-1) / self._unit**2)

    def _estimate_gradient(self) -> FloatArray:
        """Projection of the objective's gradient onto the directions, [d]."""
        settings = self._settings
        leaders, learned, fresh = list(self._last_gradients), self._learned_directions(), settings.directions
        if self._guess is not None:
            leaders, fresh = [self._guess, *leaders], settings.guided_directions
        directions = orthonormal_directions(self._generator, fresh, len(self._delta), [*leaders, *learned])
        rows, length = len(directions), settings.perturbation * self._unit
        probes = [self._delta + length * directions]
        if settings.differences == "central":
            probes.append(self._delta - length * directions)
        deltas = np.concatenate(probes)
        objectives = self._oracle.probe(deltas, self._steps) + self._penalty(deltas)
        if settings.differences == "central":
            slopes = central_difference_slopes(objectives[:rows], objectives[rows:], length)
        else:
            slopes = forward_difference_slopes(objectives, length, led=len(leaders))
        return np.asarray(slopes @ directions)

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
            self._guess = guess if np.isfinite(guess).all() and guess.any() else None

    def _line_search(self, gradient: FloatArray) -> None:
        """Move to the best of a few points along −gradient; shorten the next steps where none is better."""
        downhill = -gradient / np.linalg.norm(gradient)
        lengths = self._step_length * np.array(STEP_FACTORS)
        candidates = clamp_norm(
            self._delta + lengths[:, None] * downhill, self._settings.norm_limit * self._unit
        )
        objectives, target_losses = self._evaluate(candidates)
        # The shortest step that reaches the goal disturbs the rest of the model least.
        done = np.flatnonzero(target_losses <= self._stop_loss)
        best = int(done[0]) if len(done) else int(objectives.argmin())
        if len(done) or objectives[best] < self._objective:
            self._move(candidates[best], objectives[best], target_losses[best])
            self._take_guess(best)
        else:
            best = 0
        longest = self._settings.norm_limit * self._unit / STEP_FACTORS[-1]
        self._step_length = min(max(float(lengths[best]), SMALLEST_STEP * self._unit), longest)

    def _trim(self) -> None:
        """Shorten δ as far as the goal allows: what is too much only disturbs the rest of the model."""
        candidates = np.array(TRIM_FACTORS)[:, None] * self._delta
        objectives, target_losses = self._evaluate(candidates)
        done = np.flatnonzero(target_losses <= self._stop_loss)
        if len(done):
            self._move(candidates[done[0]], objectives[done[0]], target_losses[done[0]])

    def _move(self, delta: FloatArray, objective: float, target_loss: float) -> None:
        self._delta, self._objective, self._target_loss = delta, float(objective), float(target_loss)
