"""Proximal maps in NumPy that autograd differentiates on the active set: prox(params, step_size) -> params.

Each setting is a number, a 0-d array, or a tree shaped like params (each leaf 0-d or the param's own shape).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_reference._tree import plain, spread, xp


@dataclass(frozen=True, slots=True)
class ElasticNet:
    """soft(z, γ l1) / (1 + γ l2), soft(z, t) = sign(z) max(|z| - t, 0): the prox of γ(l1 |w|₁ + ½ l2 |w|²)."""

    l1: Any
    l2: Any

    def __call__(self, params: Any, step_size: float) -> Any:
        """Entries within their threshold become 0, with derivative 0."""

        def shrink(z: Any, l1: Any, l2: Any) -> Any:
            kept = (xp.abs(z) > step_size * l1) | (l1 == 0.0)
            return xp.where(kept, z - step_size * l1 * xp.sign(z), 0.0 * z) / (1.0 + step_size * l2)

        return tree.map(shrink, params, spread(self.l1, params), spread(self.l2, params))

    def kink_distance(self, params: Any, step_size: float) -> np.ndarray:
        """The least | |z| / (γ l1) - 1 |; infinite where nothing is penalised."""
        return _least(_edges(np.abs, params, spread(self.l1, params), step_size))


@dataclass(frozen=True, slots=True)
class GroupLasso:
    """(1 - γλ / |z_g|)₊ z_g for the groups z_g along `axis` of each leaf; a 0-d leaf is a group of its own."""

    strength: Any
    axis: int = -1

    def __call__(self, params: Any, step_size: float) -> Any:
        """Groups within their threshold become 0, with derivative 0, the zero group included."""

        def shrink(z: Any, strength: Any) -> Any:
            squares = self._squares(z)
            active = squares > (step_size * strength) ** 2
            length = xp.sqrt(xp.where(active, squares, 1.0))  # a root of 0 has no derivative
            return xp.where(active, (1.0 - step_size * strength / length) * z, (strength == 0.0) * z)

        return tree.map(shrink, params, spread(self.strength, params))

    def kink_distance(self, params: Any, step_size: float) -> np.ndarray:
        """The least | |z_g| / (γλ) - 1 |; infinite where nothing is penalised."""

        def length(z: Any) -> np.ndarray:
            return np.sqrt(self._squares(z))

        return _least(_edges(length, params, spread(self.strength, params), step_size))

    def _squares(self, z: Any) -> Any:
        return xp.sum(z**2, axis=self.axis, keepdims=True) if np.ndim(z) else z**2


@dataclass(frozen=True, slots=True)
class Box:
    """min(max(z, low), high), whatever the step size: the projection onto a box."""

    low: Any
    high: Any

    def __call__(self, params: Any, step_size: float) -> Any:
        """Derivative 1 strictly inside; on the sides that of low or high."""

        def clip(z: Any, low: Any, high: Any) -> Any:
            return xp.where(z <= low, low + 0.0 * z, xp.where(z >= high, high + 0.0 * z, z))

        return tree.map(clip, params, spread(self.low, params), spread(self.high, params))

    def kink_distance(self, params: Any, step_size: float) -> np.ndarray:
        """The least min(|z - low|, |z - high|) / (high - low), over 1 where the box has no other side."""

        def distance(z: Any, low: Any, high: Any) -> np.ndarray:
            z, low, high = plain(z), plain(low), plain(high)
            width = np.where(np.isfinite(high - low), high - low, 1.0)
            return np.minimum(np.abs(z - low), np.abs(z - high)) / width

        return _least(tree.leaves(tree.map(distance, params, spread(self.low, params), spread(self.high, params))))


def lasso(strength: Any) -> ElasticNet:
    """The prox of γλ|w|₁: soft thresholding."""
    return ElasticNet(strength, 0.0)


def elastic_net(l1: Any, l2: Any) -> ElasticNet:
    """The prox of γ(l1 |w|₁ + ½ l2 |w|²)."""
    return ElasticNet(l1, l2)


def group_lasso(strength: Any, axis: int = -1) -> GroupLasso:
    """The prox of γλ Σ_g |w_g|."""
    return GroupLasso(strength, axis)


def box(low: Any, high: Any) -> Box:
    """The projection onto low ≤ w ≤ high."""
    return Box(low, high)


def smoothed_abs(x: Any, width: Any) -> Any:
    """√(x² + width²): |x| with its kink rounded off, for use in a plain loss."""
    return xp.sqrt(x**2 + width**2)


def _edges(size: Callable[[Any], Any], params: Any, strengths: Any, step_size: float) -> list[np.ndarray]:
    """| size / threshold - 1 | of every entry that has a threshold."""
    found: list[np.ndarray] = []
    for z, strength in zip(tree.leaves(params), tree.leaves(strengths), strict=True):
        sizes, thresholds = np.broadcast_arrays(size(plain(z)), step_size * plain(strength))
        penalised = thresholds > 0.0
        found.append(np.abs(sizes[penalised] / thresholds[penalised] - 1.0))
    return found


def _least(distances: list[np.ndarray]) -> np.ndarray:
    return np.asarray(min((float(np.min(x)) for x in distances if np.size(x)), default=np.inf))
