"""Exponents from the dense Jacobians of every step: nestgrad._dynamics.exponents says what they are.

Nothing is iterated to find a singular vector: they are those of a dense singular value decomposition. Where there are
several of one singular value, the one found is what iterating would come to: the part in their space of the direction
that it would begin at. Products are counted of the sweeps alone, m for each step of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import (
    ExponentMethod,
    ExponentSpectrum,
    InvalidInput,
    LargestExponent,
    LyapunovExponents,
    TunedDirection,
    check_exponents,
)
from nestgrad_reference._tree import Vector
from nestgrad_reference.dynamics._map import Carried, StepMap

Point = tuple[Vector, Carried]
"""x_t, and what is carried along with it."""

_SAME = 1e-9  # singular values of one direction and its neighbour in one space, as parts of the larger


def lyapunov_exponents(
    update: Callable[[Any], Any],
    point: Any,
    *,
    num_steps: int,
    method: ExponentMethod = ExponentSpectrum(),  # noqa: B008  (frozen)
    directions: Any = None,
    throw: bool = True,
) -> LyapunovExponents:
    """λ_i = (1/k) Σ_t ln (R_t)_ii, J_t Q_t = Q_{t+1} R_t, of k = num_steps steps of update from point.

    update: from a tree like point to another, in autograd.numpy. directions: where to begin, a tree like point with a
    leading axis of m on each floating leaf, orthonormalised here. InvalidInput for trees that do not fit; NonFinite,
    saying at which step, unless throw is False. (Benettin et al. 1980.)
    """
    return sought("lyapunov_exponents", update, point, num_steps, method, directions, throw).found


@dataclass(frozen=True, slots=True)
class Sought:
    """What was found, with what a derivative of it needs: where each step began, and the directions it began with.

    begin: the directions that were not carried to a step but put there, step 0 the first of these.
    """

    found: LyapunovExponents
    step: StepMap
    points: list[Point]
    jacobians: list[np.ndarray]
    begin: dict[int, np.ndarray]


def sought(
    caller: str, update: Callable[[Any], Any], point: Any, num_steps: int, method: Any, directions: Any, throw: bool
) -> Sought:
    """As lyapunov_exponents."""
    check_exponents(caller, num_steps, method)
    step = StepMap(caller, update, point)
    start = _start(step, method, directions)
    points, jacobians = _trajectory(step, num_steps, throw)
    begin = _begin(method, jacobians, start)
    logs, _, lost = sweep(jacobians, begin)
    exponents = logs / num_steps
    if throw and lost is not None:
        bad = np.isnan(logs) | (logs == np.inf)  # -∞ is a number here
        step.require_finite(np.where(bad, np.nan, 0.0), f"growth along directions at step {lost}")
    count = start.shape[1]
    rounds = method.refinements if isinstance(method, ExponentSpectrum) else 0
    found = LyapunovExponents(
        exponents=exponents,
        directions=step.directions_as_tree(begin[0]),
        end=step.as_tree(*points[-1]),
        products=num_steps * count * (2 * rounds + 1),
    )
    return Sought(found, step, points, jacobians, begin)


def _start(step: StepMap, method: ExponentMethod, directions: Any) -> np.ndarray:
    """Orthonormal directions (n, m): those given, or drawn, or the unit ones."""
    count = method.num_exponents if isinstance(method, ExponentSpectrum) else 1
    if directions is None:
        if count is None:
            return np.eye(step.size)
        _at_most(step, count, f"num_exponents={count}")
        return orthonormal(np.random.default_rng(method.seed).normal(size=(count, step.size)).T)[0]
    given = step.directions_as_columns(directions)
    if count is not None and given.shape[1] != count:
        raise InvalidInput(
            f"{step.caller}: directions: got {given.shape[1]}, limit: {count} as {type(method).__name__} asks for. "
            "Remedy: pass as many as that, or none."
        )
    _at_most(step, given.shape[1], f"directions: got {given.shape[1]}")
    return _independent(step, given)


def _at_most(step: StepMap, count: int, what: str) -> None:
    if count > step.size:
        raise InvalidInput(
            f"{step.caller}: {what}, limit: {step.size}, the floating entries of the point. Remedy: ask for fewer."
        )


def _independent(step: StepMap, given: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(given, axis=0)
    safe = np.where(np.isfinite(lengths) & (lengths > 0.0), lengths, np.nan)
    found, left = orthonormal(given / safe)
    limit = 10.0 * step.size * np.finfo(np.float64).eps
    for which, rest in enumerate(left):
        if not rest > limit:
            raise InvalidInput(
                f"{step.caller}: directions: number {which} has length {lengths[which]:g}, of which {rest:.1e} is not "
                f"in those before it, limit: finite, above 0, and a part above {limit:.1e}. Remedy: pass independent "
                "directions."
            )
    return found


def _trajectory(step: StepMap, num_steps: int, throw: bool) -> tuple[list[Point], list[np.ndarray]]:
    """(x_0 to x_k, J_0 to J_{k-1})."""
    if throw:
        step.require_finite(step.vector, "point at step 0")
    points, jacobians = [(step.vector, step.carried)], list[np.ndarray]()
    for count in range(1, num_steps + 1):
        jacobian, x, carried = step.linearize(*points[-1])
        if throw:
            step.require_finite(x, f"point at step {count}")
            step.require_finite(jacobian, f"Jacobian of step {count}")
        points.append((x, carried))
        jacobians.append(jacobian)
    return points, jacobians


def _begin(method: ExponentMethod, jacobians: Sequence[np.ndarray], start: np.ndarray) -> dict[int, np.ndarray]:
    """The directions at step 0, and those that take the place of the ones carried along at later steps."""
    match method:
        case ExponentSpectrum(refinements=rounds):
            for _ in range(rounds):
                _, end, _ = sweep(jacobians, {0: start})
                _, start, _ = sweep([jacobian.T for jacobian in reversed(jacobians)], {0: end})
            return {0: start}
        case LargestExponent():
            return {0: _leading(_product(jacobians), start)}
        case TunedDirection(at="first step"):
            return {0: _leading(jacobians[0], start)}
        case TunedDirection():
            return {count: _leading(jacobian, start) for count, jacobian in enumerate(jacobians)}


def sweep(matrices: Sequence[np.ndarray], begin: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray, int | None]:
    """(Σ_t ln (R_t)_ii, the last Q, the first step, from 1, at which a growth is no number)."""
    columns, logs, lost = begin[0], np.zeros(begin[0].shape[1]), None
    for count, matrix in enumerate(matrices):
        columns, diagonal = orthonormal(matrix @ begin.get(count, columns))
        if lost is None and not np.isfinite(diagonal).all():
            lost = count + 1
        with np.errstate(divide="ignore"):
            logs = logs + np.log(diagonal)
    return logs, columns, lost


def orthonormal(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Q, the diagonal of R), the diagonal not negative."""
    q, r = np.linalg.qr(columns)
    diagonal = np.diagonal(r)
    return q * np.where(diagonal < 0.0, -1.0, 1.0), np.abs(diagonal)


def _product(jacobians: Sequence[np.ndarray]) -> np.ndarray:
    """J_{k-1} ⋯ J_0 divided by a power of two at each step, so that no number of steps over- or underflows."""
    product = np.eye(len(jacobians[0]))
    for jacobian in jacobians:
        product = jacobian @ product
        largest = np.abs(product).max()
        if 0.0 < largest < np.inf:
            product = np.ldexp(product, -int(np.frexp(largest)[1]))
    return product


def _leading(matrix: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The part of the start (n, 1) in the space of the largest singular value, of length 1."""
    if not np.isfinite(matrix).all():
        return start
    _, sizes, rows = np.linalg.svd(matrix)
    if sizes[0] == 0.0:
        return start
    space = rows[sizes >= (1.0 - _SAME) * sizes[0]]
    part = space.T @ (space @ start)
    length = float(np.linalg.norm(part))
    return part / length if length > _SAME else rows[:1].T
