"""What solver formulas share: their arguments, their result, their table."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nestgrad import Rules, Status
from nestgrad_reference._tree import Vector

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solve:
    """A formula's answer and its numbers; see nestgrad.Stats for their meaning."""

    solution: np.ndarray
    status: Status
    residual_norm: float
    steps: int
    products: int = 0
    contraction: float = math.nan
    curvature: float = math.nan
    asymmetry: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a call may add: a start (divided by scale), a diagonal preconditioner, a key, the diagonal P of J = P M.

    forward: the matrix is J itself, not its transpose.
    """

    start: Vector | None = None
    preconditioner: Vector | None = None
    key: Any = None
    repair: Vector | None = None
    forward: bool = False

    def divided(self, scale: float) -> Extras:
        """With the start in the units of rhs / scale."""
        return self if self.start is None else replace(self, start=self.start / scale)


SOLVERS: Rules[[np.ndarray, Vector, bool, float, Extras], Solve] = Rules("reference")
"""formula(spec, matrix, rhs, symmetric, scale, extras) for matrix · p = scale · rhs, divided by scale; matrix = Jᵀ."""


def is_finite(*arrays: np.ndarray | None) -> bool:
    """Whether every entry is finite."""
    return all(np.isfinite(array).all() for array in arrays if array is not None)


def no_number(rhs: Vector, status: Status, asymmetry: float = math.nan) -> Solve:
    """A failed solve: NaN, and nothing that looks like an answer."""
    return Solve(
        solution=np.full_like(rhs, np.nan), status=status, residual_norm=math.nan, steps=0, asymmetry=asymmetry
    )


def begin(rhs: Vector, extras: Extras) -> Vector:
    """The warm start; zero without one, and for a zero right-hand side, whose solution it is."""
    return np.zeros_like(rhs) if extras.start is None or not rhs.any() else extras.start


def diagonal(rhs: Vector, extras: Extras) -> Vector:
    """The preconditioner's diagonal, ones without one."""
    return np.ones_like(rhs) if extras.preconditioner is None else extras.preconditioner
