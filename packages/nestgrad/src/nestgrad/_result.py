"""What the calls return."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nestgrad._certificate import Certificate
from nestgrad._status import Status

Tree = Any
"""Nested dicts, lists and tuples of arrays; None is an empty subtree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The method's own numbers, all of them by-products: nothing here costs an extra product. NaN where there is none.

    residual_norm: |Jᵀp - v|, recomputed for solvers with a tolerance; without one it may be the recurrence's own, and
    for Neumann it is that before its last term.
    rhs_norm: |v|, v the outer loss's gradient in params. adjoint_norm: |p|. indirect_norm: |Bᵀp|.
    steps: terms, iterations or unrolled steps taken. products: products with J or its transpose.
    inner_optimality: |F|, the norm of the inner residual at params; for Unrolled that of its last update.
    params_norm: |w|. contraction: last ratio of successive Neumann terms.
    curvature: smallest curvature p'Jp / p'p met by CG, smallest Ritz value in size for MINRES, 1/|J⁻¹| for Dense,
    (1 - contraction) / step_size for Neumann.
    asymmetry: symmetry defect where it was probed. kink_distance: of a ProximalGradient, relative to the thresholds.
    eps: machine epsilon of the dtype computed in.
    """

    residual_norm: Any = math.nan
    rhs_norm: Any = math.nan
    adjoint_norm: Any = math.nan
    indirect_norm: Any = math.nan
    steps: Any = 0
    products: Any = 0
    inner_optimality: Any = math.nan
    params_norm: Any = math.nan
    contraction: Any = math.nan
    curvature: Any = math.nan
    asymmetry: Any = math.nan
    kink_distance: Any = math.nan
    eps: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperGradient:
    """d outer_loss / d hparams and how it was come by.

    total = direct + indirect, each a tree shaped like hparams; direct is the outer loss's own derivative in hparams,
    indirect the part through params. outer_loss is a scalar. status is a Status, or its integer under a user's own jit.

    adjoint: for Implicit, p: a tree shaped like params, fit for the next call's warm_start (for a WeightUpdate that
    carries its state {"params": …, "opt_state": list of the state's floating leaves}); other methods say what it is.
    params, opt_state: what an unrolling method ended with; None for Implicit.
    """

    total: Tree
    direct: Tree
    indirect: Tree
    outer_loss: Any
    status: Status | Any
    stats: Stats
    adjoint: Tree = None
    params: Tree = None
    opt_state: Tree = None

    @property
    def certificate(self) -> Certificate:
        """What speaks for and against this number, from its own statistics; needs concrete values."""
        stats = self.stats
        return Certificate(
            status=Status(int(self.status)),
            residual=_quotient(stats.residual_norm, stats.rhs_norm),
            inner_optimality=float(stats.inner_optimality),
            relative_inner_optimality=_quotient(stats.inner_optimality, stats.params_norm),
            curvature=float(stats.curvature),
            contraction=float(stats.contraction),
            solve_error=_quotient(
                float(stats.residual_norm) * float(stats.indirect_norm),
                abs(float(stats.curvature)) * float(stats.adjoint_norm),
            ),
            inner_error=_quotient(
                float(stats.inner_optimality) * float(stats.indirect_norm),
                abs(float(stats.curvature)) * float(stats.params_norm),
            ),
            size=float(stats.indirect_norm),
            products=int(stats.products),
            kink_distance=float(stats.kink_distance),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperGradientJVP:
    """The derivative of outer_loss along a direction ξ in hparams, by forward mode.

    total = direct + indirect, scalars: direct = ξᵀ ∂L_out/∂λ, indirect = vᵀ response; response = (dw/dλ) ξ, shaped like
    params (for a WeightUpdate that carries its state, the part in params). status and stats as in HyperGradient, of the
    solve J z = -B ξ.
    """

    total: Any
    direct: Any
    indirect: Any
    response: Tree
    outer_loss: Any
    status: Status | Any
    stats: Stats


def _quotient(above: Any, below: Any) -> float:
    """above / below; 0 for 0 / 0, infinity for a / 0, NaN kept."""
    numerator, denominator = float(above), float(below)
    if denominator != 0.0:
        return numerator / denominator
    return numerator if numerator == 0.0 or math.isnan(numerator) else math.inf
