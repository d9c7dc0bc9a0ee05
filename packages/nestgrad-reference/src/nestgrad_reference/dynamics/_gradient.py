"""The derivative of exponents in the point: back through the steps, each by autograd with its directions constant.

With Y = J Q and Y = Q' R at a step, its share of the exponents is ln diag R; what follows depends on it by x' and Q'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd
import numpy as np

from nestgrad import ExponentGradient, ExponentMethod, ExponentObjective, ExponentSpectrum, check_exponents
from nestgrad_reference._derivatives import independence_is_no_news
from nestgrad_reference._tree import Vector, plain, xp
from nestgrad_reference.dynamics._exponents import Sought, orthonormal, sought


def lyapunov_gradient(
    update: Callable[[Any], Any],
    point: Any,
    *,
    num_steps: int,
    objective: ExponentObjective = "largest",
    method: ExponentMethod = ExponentSpectrum(),  # noqa: B008  (frozen)
    directions: Any = None,
    throw: bool = True,
) -> ExponentGradient:
    """d objective / d point, of lyapunov_exponents' with these arguments; a tree like the point, zero at integers.

    The directions found are constants: exact where they are singular vectors of the steps together, and where they are
    given. At ties of "largest" and "smallest" it is that of the first. Errors as lyapunov_exponents', and NonFinite
    where the objective or its derivative is not finite, unless throw is False.
    """
    check_exponents("lyapunov_gradient", num_steps, method, objective)
    at = sought("lyapunov_gradient", update, point, num_steps, method, directions, throw)
    exponents = at.found.exponents
    value, weights = _objective(exponents, objective)
    with independence_is_no_news():
        slopes = _back(at, weights / num_steps)
    if throw:
        at.step.require_finite(np.atleast_1d(value), f"the {objective} of the exponents")
        at.step.require_finite(slopes, f"derivative of the {objective} of the exponents")
    return ExponentGradient(
        value=np.asarray(value),
        gradient=at.step.gradient_as_tree(slopes),
        found=at.found,
        products=at.found.products + 2 * num_steps * len(exponents),
    )


def _objective(exponents: Vector, objective: ExponentObjective) -> tuple[float, Vector]:
    """(its value, its derivative in each exponent)."""
    match objective:
        case "largest":
            which = np.arange(exponents.size) == np.argmax(exponents)
        case "smallest":
            which = np.arange(exponents.size) == np.argmin(exponents)
        case "sum":
            which = np.ones(exponents.size, bool)
        case "entropy":
            which = ~(exponents <= 0.0)
    return float(exponents[which].sum()), which.astype(float)


def _back(at: Sought, weights: Vector) -> Vector:
    """d Σ_i weights_i Σ_t ln (R_t)_ii / dx_0."""
    entering = _entering(at)
    of_x, of_q = np.zeros(at.step.size), np.zeros_like(entering[0])
    for count in reversed(range(len(at.jacobians))):
        jacobian, columns = at.jacobians[count], entering[count]
        of_y = _of_images(jacobian @ columns, of_q, weights)
        of_x = jacobian.T @ of_x + _of_jacobian(at, count, columns, of_y)
        of_q = np.zeros_like(of_q) if count in at.begin else jacobian.T @ of_y
    return of_x


def _entering(at: Sought) -> list[np.ndarray]:
    """Q_0 to Q_{k-1}."""
    found: list[np.ndarray] = []
    columns = at.begin[0]
    for count, jacobian in enumerate(at.jacobians):
        found.append(at.begin.get(count, columns))
        columns, _ = orthonormal(jacobian @ found[-1])
    return found


def _of_images(images: np.ndarray, of_q: np.ndarray, weights: Vector) -> np.ndarray:
    """The derivative of ⟨of_q, Q'⟩ + Σ weights_i ln R_ii in Y."""

    def value(y: Any) -> Any:
        columns, logs = _gram_schmidt(y)
        pairs = zip(columns, of_q.T, logs, weights, strict=True)
        return sum(xp.dot(column, slope) + weight * log for column, slope, log, weight in pairs)

    return autograd.grad(value)(images)  # pyright: ignore[reportCallIssue]


def _of_jacobian(at: Sought, count: int, columns: np.ndarray, of_y: np.ndarray) -> Vector:
    """The derivative of ⟨of_y, J(x) Q⟩ in x, at a step."""
    x, carried = at.points[count]

    def value(y: Any) -> Any:
        back, _, _ = at.step.pullback(y, carried)
        return sum(xp.dot(back(slope), column) for slope, column in zip(of_y.T, columns.T, strict=True))

    return autograd.grad(value)(x)  # pyright: ignore[reportCallIssue]


def _gram_schmidt(y: Any) -> tuple[list[Any], list[Any]]:
    """(q_i, ln R_ii), twice for each column, as once leaves an error of the condition number.

    One that is wiped out has the same q as in the sweep that found the exponents, a constant, and so has its logarithm.
    """
    columns: list[Any] = []
    logs: list[Any] = []
    for which in range(y.shape[1]):
        left = y[:, which]
        for _ in range(2):
            left = left - sum(q * xp.dot(q, left) for q in columns)
        scale = np.abs(plain(left)).max()  # a constant, so that squares neither under- nor overflow
        if scale > 0.0:
            squared = xp.sum((left / scale) ** 2)
            columns.append(left / scale / xp.sqrt(squared))
            logs.append(np.log(scale) + 0.5 * xp.log(squared))
        else:
            columns.append(orthonormal(plain(y))[0][:, which])
            logs.append(0.0)
    return columns, logs
