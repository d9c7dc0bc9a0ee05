"""The dense derivatives of a problem, for judging any approximation of its hypergradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import BilevelProblem
from nestgrad_reference._derivatives import linearize, outer_gradients
from nestgrad_reference._tree import Vector, as_hparams, as_params


@dataclass(frozen=True, slots=True)
class Materialized:
    """Every derivative in total = direct - Bᵀ J⁻ᵀ v as a float64 array, params and hparams flattened in order.

    residual F (n), jacobian J (n, n), mixed B (n, m), outer_gradient v (n), direct (m), outer_loss. Where a
    WeightUpdate carries its state, n counts the weights and then the floating leaves of the state, in which v is 0.
    repair: the diagonal P = ∂u/∂(gradient) (n) of a WeightUpdate that does not, None otherwise.
    """

    residual: Vector
    jacobian: np.ndarray
    mixed: np.ndarray
    outer_gradient: Vector
    direct: Vector
    outer_loss: float
    repair: Vector | None = None


def materialize(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
) -> Materialized:
    """The dense derivatives of a small problem at a point."""
    weights, values = as_params(params), as_hparams(hparams)
    point = linearize(problem.inner, weights, values, inner_batch, opt_state)
    loss, slope, direct = outer_gradients(problem.outer_loss, weights, values, outer_batch)
    v = np.append(slope, np.zeros(point.residual.size - slope.size))
    return Materialized(point.residual, point.jacobian, point.mixed, v, direct, loss, point.repair)
