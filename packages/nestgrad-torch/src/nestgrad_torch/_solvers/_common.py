"""What solver rules share: their result and their table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from nestgrad import Rules, Status

Operator = Callable[[Tensor], Tensor]
"""q -> Jᵀq on flat vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solve:
    """A solver's answer and its own numbers; see nestgrad.Stats for their meaning."""

    solution: Tensor
    status: Status
    residual_norm: float
    steps: int
    products: int
    contraction: float = math.nan
    curvature: float = math.nan
    asymmetry: float = math.nan


SOLVERS: Rules[[Operator, Tensor, bool, float], Solve] = Rules("torch")
"""rule(spec, operator, rhs, symmetric, scale): Jᵀp = scale · rhs, divided by scale; rhs's largest entry in [1, 2)."""
