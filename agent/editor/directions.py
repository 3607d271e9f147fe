"""Orthonormal search directions and what finite differences along them tell about a gradient. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

# With noise of a third, slopes have a cosine of 0.95 with what they would be without. Longer steps against
# less would cost as much again, because losses bend.
AUDIBLE = 3.0


def orthonormal_directions(
    generator: np.random.Generator, count: int, dimension: int, led_by: Sequence[FloatArray] = ()
) -> FloatArray:
    """Orthonormal rows: first those that span ``led_by``, then uniformly distributed random ones.

    Args:
        generator: source of randomness.
        count: random rows wanted; fewer where the dimension is exhausted.
        dimension: d.
        led_by: at most d vectors [d] of any length but 0; the first row points along the first of them, and
            the first n rows span the first n.

    Returns:
        [rows, d] float64 with rows = min(d, count + len(led_by)).
    """
    rows = min(dimension, count + len(led_by))
    columns = generator.standard_normal((dimension, rows))
    for column, vector in enumerate(led_by[:rows]):
        columns[:, column] = vector / np.linalg.norm(vector)
    basis, triangular = np.linalg.qr(columns)
    # QR leaves the signs open; a positive diagonal makes the rows uniform and keeps the sense of ``led_by``.
    return np.asarray((basis * np.where(np.diag(triangular) < 0, -1.0, 1.0)).T)


def forward_difference_slopes(losses: FloatArray, step: float, led: int) -> FloatArray:
    """Slopes along orthonormal directions from one loss evaluation each.

    A random direction u sees L(δ+μu) = L(δ) + μ g·u + μ²/2 uᵀHu, and uᵀHu is almost the same for all random u
    in many dimensions: subtracting the mean of the losses takes L(δ) and the curvature away together. The
    price is the slope along the sum of the directions, one of many.

    Args:
        losses: [rows] L(δ + step·u) for each row u.
        step: μ > 0.
        led: how many of the first rows are chosen directions; their curvature is not that of random rows, so
            they are left out of the mean.

    Returns:
        [rows] slopes, loss per unit of length.
    """
    random_losses = losses[led:] if led < len(losses) else losses
    return np.asarray((losses - random_losses.mean()) / step)


def audible_step(slopes: FloatArray, step: float, noise: float, shortest: float, longest: float) -> float:
    """A difference step so long that losses along random directions differ by three times their noise.

    Args:
        slopes: of random directions, from differences of the length ``step``; noise is in them.
        step: > 0.
        noise: standard deviation of what rounding adds to a loss.
        shortest: the result where the losses tell enough with it.
        longest: and where they would tell too little with any other.

    Returns:
        A length from ``shortest`` to ``longest``.
    """
    # Losses differ by slope · step, and noise adds its variance to that.
    signal = math.sqrt(max(float(np.var(slopes)) - (noise / step) ** 2, 0.0))
    needed = AUDIBLE * noise
    if needed <= signal * shortest:
        return shortest
    return longest if needed >= signal * longest else max(needed / signal, shortest)


def central_difference_slopes(losses_ahead: FloatArray, losses_behind: FloatArray, step: float) -> FloatArray:
    """Slopes [rows] from L(δ + step·u) and L(δ − step·u); exact for quadratic losses."""
    return np.asarray((losses_ahead - losses_behind) / (2 * step))
