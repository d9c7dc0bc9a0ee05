"""What solver formulas share: their result and their table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nestgrad import Rules, Status
from nestgrad_reference._tree import Vector


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


SOLVERS: Rules[[np.ndarray, Vector, bool, float], Solve] = Rules("reference")
"""formula(spec, matrix, rhs, symmetric, scale) for matrix · p = scale · rhs, divided by scale; matrix = Jᵀ."""

EPS = float(np.finfo(np.float64).eps)
