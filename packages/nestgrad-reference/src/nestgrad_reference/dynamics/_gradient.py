"""The derivative of exponents in the point, by autograd through every step and its dense Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd
import numpy as np

from nestgrad import ExponentGradient, ExponentMethod, ExponentObjective, ExponentSpectrum, check_exponents
from nestgrad_reference._derivatives import independence_is_no_news
from nestgrad_reference._tree import Vector, plain, xp
from nestgrad_reference.dynamics._exponents import sought
from nestgrad_reference.dynamics._map import StepMap


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

    def value(x: Any) -> Any:
        return _objective(_exponents(at.step, x, at.begin, num_steps), objective)

    with independence_is_no_news():
        found, slopes = autograd.value_and_grad(value)(at.step.vector)  # pyright: ignore[reportCallIssue]
    if throw:
        at.step.require_finite(np.atleast_1d(found), f"the {objective} of the exponents")
        at.step.require_finite(slopes, f"derivative of the {objective} of the exponents")
    sweep = num_steps * len(at.found.exponents)
    return ExponentGradient(
        value=np.asarray(found),
        gradient=at.step.gradient_as_tree(slopes),
        found=at.found,
        products=at.found.products + 2 * sweep,
    )


def _exponents(step: StepMap, x: Any, begin: dict[int, np.ndarray], num_steps: int) -> list[Any]:
    """λ_1 to λ_m, differentiable in x."""
    carried, columns, totals = step.carried, list(begin[0].T), [0.0] * begin[0].shape[1]
    for count in range(num_steps):
        columns = list(begin[count].T) if count in begin else columns
        jacobian = step.jacobian(x, carried)
        columns, sizes = _orthonormal([xp.dot(jacobian, column) for column in columns])
        totals = [total + _log(size) for total, size in zip(totals, sizes, strict=True)]
        x, carried = step(x, carried)
    return [total / num_steps for total in totals]


def _orthonormal(columns: list[Any]) -> tuple[list[Any], list[Any]]:
    """(q_i, (R)_ii) by Gram and Schmidt, twice for each column, as once leaves an error of the condition number.

    One that is zero has the same q as in the sweep that found the exponents, a constant.
    """
    whole = np.stack([plain(column) for column in columns], axis=1)
    found: list[Any] = []
    sizes: list[Any] = []
    for which, column in enumerate(columns):
        left = column
        for _ in range(2):
            left = left - sum(q * xp.dot(q, left) for q in found)
        squared = xp.dot(left, left)
        if plain(squared) == 0.0:
            sizes.append(0.0)
            found.append(np.linalg.qr(whole)[0][:, which])
        else:
            sizes.append(xp.sqrt(squared))
            found.append(left / sizes[-1])
    return found, sizes


def _log(size: Any) -> Any:
    return xp.log(size) if plain(size) != 0.0 else -np.inf


def _objective(exponents: list[Any], objective: ExponentObjective) -> Any:
    numbers: Vector = np.array([plain(exponent) for exponent in exponents])
    match objective:
        case "largest":
            return exponents[int(np.argmax(numbers))]
        case "smallest":
            return exponents[int(np.argmin(numbers))]
        case "sum":
            return sum(exponents)
        case "entropy":
            return sum((exponent for exponent in exponents if plain(exponent) > 0.0), start=0.0)
