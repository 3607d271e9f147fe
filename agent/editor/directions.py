"""Orthonormal search directions and what finite differences along them tell about a gradient. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]


def orthonormal_directions(
    generator: np.random.Generator, count: int, dimension: int, first: FloatArray | None = None
) -> FloatArray:
    """Random orthonormal rows, uniformly distributed; ``first`` (any length but 0) leads them where given.

    Args:
        generator: source of randomness.
        count: random rows wanted; fewer where the dimension is exhausted.
        dimension: d.
        first: [d], a direction that shall be among the rows.

    Returns:
        [rows, d] float64 with rows = min(d, count + (first is not None)).
    """
    rows = min(dimension, count + (first is not None))
    columns = generator.standard_normal((dimension, rows))
    if first is not None:
        columns[:, 0] = first
    basis, triangular = np.linalg.qr(columns)
    # QR leaves the signs open; a positive diagonal makes the rows uniform and keeps ``first``'s direction.
    return np.asarray((basis * np.where(np.diag(triangular) < 0, -1.0, 1.0)).T)


def forward_difference_slopes(losses: FloatArray, step: float, led: bool) -> FloatArray:
    """Slopes along orthonormal directions from one loss evaluation each.

    A random direction u sees L(δ+μu) = L(δ) + μ g·u + μ²/2 uᵀHu, and uᵀHu is almost the same for all random u
    in many dimensions: subtracting the mean of the losses takes L(δ) and the curvature away together. The
    price is the slope along the sum of the directions, one of many.

    Args:
        losses: [rows] L(δ + step·u) for each row u.
        step: μ > 0.
        led: whether the first row is a chosen direction; its curvature is not that of random rows, so it is
            left out of the mean.

    Returns:
        [rows] slopes, loss per unit of length.
    """
    random_losses = losses[1:] if led and len(losses) > 1 else losses
    return np.asarray((losses - random_losses.mean()) / step)


def central_difference_slopes(losses_ahead: FloatArray, losses_behind: FloatArray, step: float) -> FloatArray:
    """Slopes [rows] from L(δ + step·u) and L(δ − step·u); exact for quadratic losses."""
    return np.asarray((losses_ahead - losses_behind) / (2 * step))
