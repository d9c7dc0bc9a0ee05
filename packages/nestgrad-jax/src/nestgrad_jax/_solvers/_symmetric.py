"""The symmetric system that stands for one that is not, where the Jacobian is a diagonal times a Hessian."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import Status, symmetry_limit
from nestgrad_jax._solvers._common import Goal, Operator, Solve, System, first_of
from nestgrad_jax._tree import dot, norm


@dataclass(frozen=True, slots=True)
class Symmetric:
    """The symmetric system that stands for A p = rhs, with what the probe of its symmetry found.

    With J = P M and P > 0 it is M q = rhs, p = q / P, for A = Jᵀ, and M p = rhs / P for A = J; else A itself.
    weigh turns its residuals into those of the system asked for, enter a p into a q and leave a q into a p.
    """

    system: System
    goal: Goal
    apply: Operator
    rhs: Array
    enter: Operator
    leave: Operator
    weigh: Operator
    defect: Array | None = None
    skewed: Array | bool = False

    @staticmethod
    def of(spec: Any, system: System) -> Symmetric:
        """Three products for the probe where J is not known to be symmetric."""
        goal, apply, rhs, enter, leave, weigh = Goal.of(spec, system), system.apply, system.rhs, _same, _same, _same
        if system.symmetric:
            return Symmetric(system, goal, apply, rhs, enter, leave, weigh)
        if (found := system.diagonal()) is not None:
            gains = jnp.where((found > 0).all(), found, jnp.ones_like(found))
            if system.forward:
                apply, rhs, weigh = (lambda q: system.apply(q) / gains), rhs / gains, (lambda r: gains * r)
            else:
                apply, enter, leave = (lambda q: system.apply(q / gains)), (lambda p: gains * p), (lambda q: q / gains)
        return Symmetric(system, goal, apply, rhs, enter, leave, weigh, *symmetry_defect(apply, rhs))

    def begin(self) -> tuple[Array, Array, int]:
        """(first iterate, its residual, products taken)."""
        if self.system.start is None:
            return jnp.zeros_like(self.rhs), self.rhs, 0
        first = self.enter(self.system.first(self.system.start))
        return first, self.rhs - self.apply(first), 1

    def far(self, residual: Array) -> Array:
        """Whether a residual is above the target."""
        return norm(self.weigh(residual)) > self.goal.target

    def answer(self, solve: Solve) -> Solve:
        """The solve, or where the probe found a defect one that says so and no more."""
        if self.defect is None:
            return solve

        def unless(value: Any) -> Array:
            return jnp.where(self.skewed, jnp.full_like(value, math.nan), value)

        return replace(
            solve,
            solution=unless(solve.solution),
            status=jnp.where(self.skewed, first_of(otherwise=Status.NOT_SYMMETRIC), solve.status),
            residual_norm=unless(solve.residual_norm),
            products=jnp.where(self.skewed, _PROBES, solve.products + _PROBES),
            curvature=unless(solve.curvature),
            asymmetry=self.defect,
        )


_PROBES = 3


def _same(vector: Array) -> Array:
    return vector


def symmetry_defect(operator: Operator, rhs: Array) -> tuple[Array, Array]:
    """max |a'Jb - b'Ja| / (|a||Jb| + |b||Ja|) over pairs of rhs and two fixed vectors, and whether it is too large."""
    probes = [rhs, *jax.random.normal(jax.random.key(0), (2, rhs.size), rhs.dtype)]
    images = [operator(probe) for probe in probes]
    least = float(jnp.finfo(rhs.dtype).tiny)
    defects = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        size = norm(probes[i]) * norm(images[j]) + norm(probes[j]) * norm(images[i])
        gap = jnp.abs(dot(probes[i], images[j]) - dot(probes[j], images[i]))
        defects.append(gap / jnp.maximum(size, least))
    defect = jnp.stack(defects).max()
    return defect, defect > symmetry_limit(float(jnp.finfo(rhs.dtype).eps))
