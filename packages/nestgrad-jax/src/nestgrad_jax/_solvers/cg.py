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
    """One product a step, one for the recomputed residual, three for the symmetry probe where J is no Hessian."""
    eps = float(jnp.finfo(rhs.dtype).eps)
    probes, defect = (0, jnp.full((), math.nan, rhs.dtype)) if symmetric else (3, _symmetry_defect(operator, rhs))
    skewed, nan = defect > symmetry_limit(eps), jnp.full_like(rhs, math.nan)
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
        solution=jnp.where(skewed, nan, end.solution),
        status=status,
        residual_norm=jnp.where(skewed, nan[0], left),
        steps=end.steps,
        products=end.products + (probes + (~skewed).astype(jnp.int32)),
        curvature=jnp.where(skewed, nan[0], end.smallest),
        asymmetry=defect,
    )


def _iterate(spec: CG, operator: Operator, rhs: Array, target: Array, *, start: Array) -> _State:
    """At most max_steps steps; squared residuals at or below target end them."""
    noise = max(10.0, math.sqrt(rhs.size)) * float(jnp.finfo(rhs.dtype).eps)
    no, none, zero = jnp.zeros((), bool), jnp.zeros((), jnp.int32), jnp.zeros((), rhs.dtype)

    def step(s: _State) -> _State:
        image = operator(s.direction)
        squared_direction = dot(s.direction, s.direction)
        curvature = dot(s.direction, image) / squared_direction
        largest = jnp.maximum(s.largest, jnp.abs(curvature))
        negative = curvature < -noise * largest
        flat = jnp.abs(curvature) <= noise * largest
        goes = ~negative & ~flat
        length = jnp.where(goes, s.squared / (squared_direction * curvature), zero)
        residual = s.residual - length * jnp.where(goes, image, zero)
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
    """max |a'Jb - b'Ja| / (|a||Jb| + |b||Ja|) over pairs of rhs and two fixed random vectors."""
    probes = [rhs, *jax.random.normal(jax.random.key(0), (2, rhs.size), rhs.dtype)]
    images = [operator(probe) for probe in probes]
    least = float(jnp.finfo(rhs.dtype).tiny)
    defects = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        size = norm(probes[i]) * norm(images[j]) + norm(probes[j]) * norm(images[i])
        gap = jnp.abs(dot(probes[i], images[j]) - dot(probes[j], images[i]))
        defects.append(gap / jnp.maximum(size, least))
    return jnp.stack(defects).max()
