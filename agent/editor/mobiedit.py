"""The optimiser of MobiEdit (Lu et al., 2025, arXiv 2506.13772): the reference method. Pure.

Plain stochastic descent on zeroth-order estimates: g = Σ [L(δ+μu) − L(δ−μu)]/(2μ)·u over N directions
u ~ N(0, I), summed, not averaged; δ ← δ − η g with a learning rate η that a cosine takes to 0 at the step
limit; ‖δ‖ is clamped. What the paper leaves open is listed in docs/editor.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from mobifarm.agent.editor.directions import FloatArray, central_difference_slopes
from mobifarm.agent.editor.forward import Losses, Solution, Step, clamp_norm
from mobifarm.agent.editor.settings import MobiEditSettings


class SequenceOracle(Protocol):
    """What the optimiser needs from a model."""

    def evaluate(self, deltas: FloatArray, *, fresh: bool) -> Losses:
        """Losses of each row of ``deltas`` [B, d] float64; ``fresh`` uses no cache that may be stale."""

    def refresh(self, delta: FloatArray) -> None:
        """Fill the cache, where there is one, with what δ [d] gives now."""


def zeroth_order_gradient(
    ahead: FloatArray, behind: FloatArray, directions: FloatArray, perturbation: float
) -> FloatArray:
    """The published sum [d] over N directions [N, d] of their central differences.

    Its expectation is N times the gradient, as E[u uᵀ] = I.

    Args:
        ahead: [N] L(δ + μu).
        behind: [N] L(δ − μu).
        directions: [N, d] u.
        perturbation: μ > 0.
    """
    return np.asarray(central_difference_slopes(ahead, behind, perturbation) @ directions)


def cosine_learning_rate(initial: float, step: int, step_limit: int) -> float:
    """Learning rate of step 1 … step_limit: ``initial`` in the first, towards 0 after the last."""
    return initial * 0.5 * (1 + math.cos(math.pi * (step - 1) / step_limit))


class Plateau:
    """Tells whether the loss fell by less than ``gain`` over ``steps`` steps since the last plateau."""

    def __init__(self, gain: float, steps: int) -> None:
        self._gain = gain
        self._losses: deque[float] = deque(maxlen=steps + 1)

    def reached(self, loss: float) -> bool:
        """Take the loss of one more step."""
        self._losses.append(loss)
        if len(self._losses) < (self._losses.maxlen or 0) or self._losses[0] - loss >= self._gain:
            return False
        self._losses.clear()
        return True


def minimise(
    oracle: SequenceOracle,
    *,
    dimension: int,
    reference_norm: float,
    settings: MobiEditSettings,
    generator: np.random.Generator,
    on_step: Callable[[Step], None],
) -> Solution:
    """Search δ ∈ R^d, ‖δ‖ ≤ norm_limit·‖v0‖, from δ = 0; the last δ is the result, as published.

    Args:
        oracle: the loss.
        dimension: d.
        reference_norm: ‖v0‖ > 0.
        settings: see :class:`MobiEditSettings`.
        generator: source of all randomness.
        on_step: called before every batch of evaluations and at the end; raise from it to stop.
    """
    delta: FloatArray = np.zeros(dimension)
    length, count = settings.perturbation, settings.directions
    plateau = Plateau(settings.refresh_gain, settings.refresh_steps)
    loss = probability = confidence = float("nan")
    stale = True
    step = 0
    converged = False
    while step < settings.step_limit and not converged:
        on_step(Step(step, loss, probability))
        step += 1
        directions = generator.standard_normal((count, dimension))
        deltas = np.concatenate([delta + length * directions, delta - length * directions])
        losses = oracle.evaluate(deltas, fresh=stale)
        if stale:
            oracle.refresh(delta)
        penalties = settings.norm_penalty * np.linalg.norm(deltas, axis=1) / reference_norm**2
        objectives = losses.total + penalties
        gradient = zeroth_order_gradient(objectives[:count], objectives[count:], directions, length)
        # A loss that overflowed gives no direction to trust.
        if np.isfinite(gradient).all():
            rate = cosine_learning_rate(settings.learning_rate, step, settings.step_limit)
            delta = clamp_norm(delta - rate * gradient, settings.norm_limit * reference_norm)
        loss, probability = float(objectives.mean()), float(np.exp(-losses.target.mean()))
        stale = plateau.reached(loss)
        if step % settings.stop_every == 0 or step == settings.step_limit:
            on_step(Step(step, loss, probability))
            confidence = float(np.exp(-oracle.evaluate(delta[None], fresh=True).target[0]))
            probability = confidence
            converged = confidence >= settings.stop_probability
    on_step(Step(step, loss, probability))
    return Solution(delta, converged, step, confidence)
