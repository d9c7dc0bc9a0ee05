"""CG: conjugate gradients from zero in one traced loop."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import CG, Status, symmetry_limit
from nestgrad_jax._solvers._common import SOLVERS, Operator, Solve, first_of
from nestgrad_jax._tree import dot, norm


class _State(NamedTuple):
    """What one step hands to the next; `active` until the target is met or the curvature is not positive."""

    solution: Array
    residual: Array
    direction: Array
    squared: Array
    smallest: Array
    largest: Array
    active: Array
    negative: Array
    flat: Array
    steps: Array
    products: Array


@SOLVERS.register(CG)
def cg(spec: CG, operator: Operator, rhs: Array, symmetric: bool, scale: Array) -> Solve:
    """One product a step, one for the recomputed residual, two for the symmetry probe where J is no Hessian."""
    eps = float(jnp.finfo(rhs.dtype).eps)
    probes, defect = (0, jnp.full((), math.nan, rhs.dtype)) if symmetric else (2, _symmetry_defect(operator, rhs))
    skewed = defect > symmetry_limit(eps)
    size = norm(rhs)
    limit = jnp.maximum(spec.rtol * size, spec.atol / scale)
    target = jnp.maximum(limit, eps * size) ** 2

    end = _iterate(spec, operator, rhs, target, start=~skewed)
    left = norm(rhs - operator(end.solution))
    status = first_of(
        (skewed, Status.NOT_SYMMETRIC),
        (~jnp.isfinite(left), Status.NONFINITE),
        ((left <= limit) & (not spec.truncated), Status.CONVERGED),
        (end.negative, Status.INDEFINITE),
        (end.flat, Status.SINGULAR),
        (end.active & (not spec.truncated), Status.MAX_STEPS_REACHED),
        otherwise=Status.TRUNCATED if spec.truncated else Status.STAGNATED,
    )
    return Solve(
        solution=jnp.where(skewed, math.nan, end.solution),
        status=status,
        residual_norm=jnp.where(skewed, math.nan, left),
        steps=end.steps,
        products=end.products + jnp.where(skewed, probes, probes + 1).astype(jnp.int32),
        curvature=jnp.where(skewed, math.nan, end.smallest),
        asymmetry=defect,
    )


def _iterate(spec: CG, operator: Operator, rhs: Array, target: Array, *, start: Array) -> _State:
    """At most max_steps steps; squared residuals at or below target end them."""
    noise = max(10.0, math.sqrt(rhs.size)) * float(jnp.finfo(rhs.dtype).eps)

    def step(s: _State) -> _State:
        image = operator(s.direction)
        squared_direction = dot(s.direction, s.direction)
        curvature = dot(s.direction, image) / squared_direction
        largest = jnp.maximum(s.largest, jnp.abs(curvature))
        negative = curvature < -noise * largest
        flat = jnp.abs(curvature) <= noise * largest
        goes = ~negative & ~flat
        length = jnp.where(goes, s.squared / (squared_direction * curvature), 0.0)
        residual = s.residual - length * jnp.where(goes, image, 0.0)
        following = dot(residual, residual)
        return _State(
            solution=s.solution + length * s.direction,
            residual=residual,
            direction=jnp.where(goes, residual + (following / s.squared) * s.direction, s.direction),
            squared=jnp.where(goes, following, s.squared),
            smallest=jnp.minimum(s.smallest, curvature),
            largest=largest,
            active=goes & (following > target),
            negative=negative,
            flat=flat,
            steps=s.steps + goes.astype(jnp.int32),
            products=s.products + 1,
        )

    no, none, zero = jnp.asarray(False), jnp.zeros((), jnp.int32), jnp.zeros((), rhs.dtype)
    first = _State(
        solution=jnp.zeros_like(rhs),
        residual=rhs,
        direction=rhs,
        squared=dot(rhs, rhs),
        smallest=jnp.full((), math.inf, rhs.dtype),
        largest=zero,
        active=start & (dot(rhs, rhs) > target),
        negative=no,
        flat=no,
        steps=none,
        products=none,
    )
    return lax.while_loop(lambda s: s.active & (s.products < spec.max_steps), step, first)


def _symmetry_defect(operator: Operator, rhs: Array) -> Array:
    """|a'Jb - b'Ja| / (|a||Jb| + |b||Ja|) for a = rhs and one fixed random b."""
    other = jax.random.normal(jax.random.key(0), rhs.shape, rhs.dtype)
    image, other_image = operator(rhs), operator(other)
    size = norm(rhs) * norm(other_image) + norm(other) * norm(image)
    return jnp.abs(dot(rhs, other_image) - dot(other, image)) / jnp.maximum(size, float(jnp.finfo(rhs.dtype).tiny))
