"""Proximal maps: objects called as prox(params, step_size) -> params, which know how near their kinks are.

Strengths are numbers, 0-d arrays, or trees shaped like params whose leaves are 0-d or of the param's shape. They may be
hyperparameters. Derivatives are those of the active set; on its edge they are one-sided, and `kink_distance` says so:
the least distance of any entry from the edge, relative to the threshold there; infinity where there is no edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import InvalidInput

__all__ = ["box", "elastic_net", "group_lasso", "lasso", "smoothed_abs"]


@dataclass(frozen=True, slots=True)
class lasso:  # noqa: N801  (it is called as a function is)
    """prox of γ Σ strength |w|: soft(z, γ strength)."""

    strength: Any

    def __call__(self, params: Any, step_size: Any) -> Any:
        """The entries drawn towards zero by step_size times the strength."""
        return jax.tree.map(_soft, params, _thresholds(self.strength, params, step_size))

    def kink_distance(self, params: Any, step_size: Any) -> Array:
        """min | |z| / (γ strength) - 1 | over entries that are penalised."""
        return _edges(params, _thresholds(self.strength, params, step_size))


@dataclass(frozen=True, slots=True)
class elastic_net:  # noqa: N801
    """prox of γ Σ (l1 |w| + ½ l2 w²): soft(z, γ l1) / (1 + γ l2)."""

    l1: Any
    l2: Any

    def __call__(self, params: Any, step_size: Any) -> Any:
        """The entries drawn towards zero, then shrunk."""
        shrunk = jax.tree.map(_soft, params, _thresholds(self.l1, params, step_size))
        return jax.tree.map(lambda w, t: w / (1.0 + t), shrunk, _thresholds(self.l2, params, step_size))

    def kink_distance(self, params: Any, step_size: Any) -> Array:
        """min | |z| / (γ l1) - 1 | over entries that are penalised."""
        return _edges(params, _thresholds(self.l1, params, step_size))


@dataclass(frozen=True, slots=True)
class group_lasso:  # noqa: N801
    """prox of γ Σ_g strength |w_g|, a group being the entries along `axis`: (1 - γ strength / |z_g|)₊ z_g.

    Strengths have shape () or that of the groups' norms with the axis kept at length 1.
    """

    strength: Any
    axis: int = -1

    def __call__(self, params: Any, step_size: Any) -> Any:
        """Each group drawn towards zero along itself; its derivative at a zero group is zero."""
        thresholds = _thresholds(self.strength, params, step_size, self.axis)

        def shrink(z: Array, threshold: Array) -> Array:
            size, there = _group_norms(z, self.axis)
            return jnp.where(there & (size > threshold), (1.0 - threshold / size) * z, jnp.zeros_like(z))

        return jax.tree.map(shrink, params, thresholds)

    def kink_distance(self, params: Any, step_size: Any) -> Array:
        """min | |z_g| / (γ strength) - 1 | over groups that are penalised."""
        thresholds = _thresholds(self.strength, params, step_size, self.axis)
        norms = jax.tree.map(lambda z: jnp.where(*_swapped(*_group_norms(z, self.axis))), params)
        return _edges(norms, thresholds)


@dataclass(frozen=True, slots=True)
class box:  # noqa: N801
    """Projection onto low ≤ w ≤ high; outside, its derivative is that of the nearest end."""

    low: Any
    high: Any

    def __call__(self, params: Any, step_size: Any) -> Any:
        """The entries, those outside moved to the nearest end."""

        def project(z: Array, low: Array, high: Array) -> Array:
            return jnp.where(z <= low, low, jnp.where(z >= high, high, z))

        return jax.tree.map(project, params, _spread(self.low, params), _spread(self.high, params))

    def kink_distance(self, params: Any, step_size: Any) -> Array:
        """min(|z - low|, |z - high|) / (high - low) over all entries."""

        def nearest(z: Array, low: Array, high: Array) -> Array:
            width = high - low
            away = jnp.minimum(jnp.abs(z - low), jnp.abs(z - high)) / jnp.where(width > 0, width, jnp.ones_like(width))
            return jnp.where(jnp.isfinite(width) & (width > 0), away, jnp.full_like(away, jnp.inf))

        return _least(jax.tree.map(nearest, params, _spread(self.low, params), _spread(self.high, params)))


def smoothed_abs(x: Any, width: Any) -> Array:
    """sqrt(x² + width²), entry by entry: |x| without its kink."""
    x = jnp.asarray(x)
    return jnp.sqrt(x**2 + jnp.asarray(width, x.dtype) ** 2)


def _soft(z: Array, threshold: Array) -> Array:
    """sign(z) (|z| - t)₊; the branch not taken has no infinity to leak a NaN."""
    return jnp.where(z > threshold, z - threshold, jnp.where(z < -threshold, z + threshold, jnp.zeros_like(z)))


def _group_norms(z: Array, axis: int) -> tuple[Array, Array]:
    """(|z_g| with the axis kept, 1 for a zero group, whether the group is not zero)."""
    squared = (z**2).sum(axis=axis, keepdims=True) if z.ndim else z**2
    there = squared > 0
    return jnp.sqrt(jnp.where(there, squared, jnp.ones_like(squared))), there


def _swapped(size: Array, there: Array) -> tuple[Array, Array, Array]:
    return there, size, jnp.zeros_like(size)


def _thresholds(strength: Any, params: Any, step_size: Any, axis: int | None = None) -> Any:
    return jax.tree.map(lambda s: s * jnp.asarray(step_size, s.dtype), _spread(strength, params, axis))


def _spread(value: Any, params: Any, axis: int | None = None) -> Any:
    """The value as a tree of arrays like params, each spread over its param (or over its groups' norms)."""
    structure = jax.tree.structure(params)
    single = jax.tree.structure(value) == jax.tree.structure(0) and not jnp.ndim(value)
    if not single and jax.tree.structure(value) != structure:
        raise InvalidInput(
            f"prox: strength of structure {jax.tree.structure(value)}, limit: a number or a tree like params, "
            f"{structure}. Remedy: one strength for each param."
        )

    def one(param: Array, given: Any) -> Array:
        shape = jnp.shape(param)
        if axis is not None and shape:
            shape = tuple(1 if i == axis % len(shape) else n for i, n in enumerate(shape))
        if jnp.ndim(given) and jnp.shape(given) != shape:
            raise InvalidInput(f"prox: strength of shape {jnp.shape(given)}, limit: () or {shape}. Remedy: reshape it.")
        return jnp.broadcast_to(jnp.asarray(given, jnp.asarray(param).dtype), shape)

    return jax.tree.map(lambda param: one(param, value), params) if single else jax.tree.map(one, params, value)


def _edges(values: Any, thresholds: Any) -> Array:
    """min | |z| / t - 1 | over entries with t > 0."""

    def away(z: Array, t: Array) -> Array:
        kinked = t > 0
        return jnp.where(kinked, jnp.abs(jnp.abs(z) / jnp.where(kinked, t, jnp.ones_like(t)) - 1.0), jnp.inf)

    return _least(jax.tree.map(away, values, thresholds))


def _least(tree: Any) -> Array:
    return jnp.stack([leaf.min(initial=jnp.inf) for leaf in jax.tree.leaves(tree)]).min()
