"""Hypergradients from gradients written by hand and complex steps: NumPy alone, nothing of nestgrad's, no autograd.

F is written out for three models, plain or as an SGD update; J = ∂F/∂w, B = ∂F/∂λ and the outer gradients are complex
steps, Im f(x + ih) / h with h = 1e-30, which lose no digits; p is a dense formula on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray
Values = dict[str, Array]
STEP = 1e-30


@dataclass(frozen=True)
class Model:
    """gradient(w, λ, batch) of the training loss and loss(w, λ, batch) of validation, for flat w and λ by name."""

    gradient: Callable[[Array, Values, Any], Array]
    validation: Callable[[Array, Values, Any], Any]


@dataclass(frozen=True)
class Derivatives:
    """F (n), J (n, n), B (n, m), v = ∂L_out/∂w (n), direct = ∂L_out/∂λ (m) and L_out."""

    residual: Array
    jacobian: Array
    mixed: Array
    slope: Array
    direct: Array
    outer_loss: float


def network(units: int) -> Model:
    """mean (tanh(xW + b) · (gain ⊙ v) + c - y)² + ½ exp(decay) |w|², w = (W, b, v, c); validation without the decay."""

    def parts(w: Array, x: Array) -> tuple[Array, Array, Array, Any]:
        inputs = x.shape[1]
        bias, out = w[inputs * units : (inputs + 1) * units], w[(inputs + 1) * units : (inputs + 2) * units]
        return w[: inputs * units].reshape(inputs, units), bias, out, w[-1]

    def gradient(w: Array, h: Values, batch: Any) -> Array:
        x, y = batch
        weights, bias, out, shift = parts(w, x)
        active = np.tanh(x @ weights + bias)
        slope = 2.0 * (active @ (h["gain"] * out) + shift - y) / len(y)
        before = np.outer(slope, h["gain"] * out) * (1.0 - active**2)
        pieces = [(x.T @ before).ravel(), before.sum(0), h["gain"] * (active.T @ slope), slope.sum(keepdims=True)]
        return np.concatenate(pieces) + np.exp(h["decay"]) * w

    def validation(w: Array, h: Values, batch: Any) -> Any:
        x, y = batch
        weights, bias, out, shift = parts(w, x)
        return ((np.tanh(x @ weights + bias) @ (h["gain"] * out) + shift - y) ** 2).sum() / len(y)

    return Model(gradient, validation)


def ridge() -> Model:
    """½ mean (Xw - y)² + ½ Σ exp(decay_i) w_i², one decay or one a weight; validation without the decay."""

    def gradient(w: Array, h: Values, batch: Any) -> Array:
        x, y = batch
        return x.T @ (x @ w - y) / len(y) + np.exp(h["decay"]) * w

    def validation(w: Array, h: Values, batch: Any) -> Any:
        x, y = batch
        return 0.5 * ((x @ w - y) ** 2).sum() / len(y)

    return Model(gradient, validation)


def logistic() -> Model:
    """mean exp(rows_i) log(1 + exp(-m_i)) + ½ exp(decay) |w|², m_i = y_i (x_iᵀw + b); validation with neither."""

    def gradient(w: Array, h: Values, batch: Any) -> Array:
        x, y = batch
        slope = -y * np.exp(h["rows"]) / (1.0 + np.exp(y * (x @ w[:-1] + w[-1]))) / len(y)
        return np.concatenate([x.T @ slope, slope.sum(keepdims=True)]) + np.exp(h["decay"]) * w

    def validation(w: Array, h: Values, batch: Any) -> Any:
        x, y = batch
        return np.log(1.0 + np.exp(-y * (x @ w[:-1] + w[-1]))).sum() / len(y)

    return Model(gradient, validation)


def sgd(model: Model, velocity: Array) -> Callable[[Array, Values, Any], Array]:
    """u = lr ⊙ (momentum · velocity + g + weight_decay · w), at a constant velocity."""

    def update(w: Array, h: Values, batch: Any) -> Array:
        return h["lr"] * (h["momentum"] * velocity + model.gradient(w, h, batch) + h["weight_decay"] * w)

    return update


def derivatives(
    residual: Callable[[Array, Values, Any], Array],
    validation: Callable[[Array, Values, Any], Any],
    w: Array,
    h: Values,
    batches: tuple[Any, Any],
    tie: float,
) -> Derivatives:
    """Every derivative at (w, λ); the outer loss is validation + ½ tie |λ|²."""
    inner, outer = batches

    def total(w: Array, h: Values) -> Any:
        return validation(w, h, outer) + 0.5 * tie * sum((value**2).sum() for value in h.values())

    steps = _steps(h)
    return Derivatives(
        residual=residual(w, h, inner),
        jacobian=np.column_stack([residual(w + e, h, inner).imag for e in 1j * STEP * np.eye(w.size)]) / STEP,
        mixed=np.column_stack([residual(w, moved, inner).imag for moved in steps]) / STEP,
        slope=np.array([total(w + e, h).imag for e in 1j * STEP * np.eye(w.size)]) / STEP,
        direct=np.array([total(w, moved).imag for moved in steps]) / STEP,
        outer_loss=float(total(w, h)),
    )


def _steps(h: Values) -> list[Values]:
    """λ with a complex step in each entry of each array, in order."""
    steps: list[Values] = []
    for name, value in h.items():
        for place in range(value.size):
            moved = value.astype(complex)
            moved.reshape(-1)[place] += 1j * STEP
            steps.append({**h, name: moved})
    return steps


Step = Callable[[Array, Array, Values, Any], tuple[Array, Array]]
"""(w, optimizer state, λ, batch) -> the next two, by hand and free of anything but arithmetic."""


def heavy_ball(model: Model) -> Step:
    """v ← momentum · v + g + weight_decay · w;  w ← w - lr ⊙ v."""

    def step(w: Array, v: Array, h: Values, batch: Any) -> tuple[Array, Array]:
        v = h["momentum"] * v + model.gradient(w, h, batch) + h["weight_decay"] * w
        return w - h["lr"] * v, v

    return step


def averaged(model: Model) -> Step:
    """v ← β v - (1 - β) g;  w ← w + lr v, with β = momentum to the nearest 1/65536."""

    def step(w: Array, v: Array, h: Values, batch: Any) -> tuple[Array, Array]:
        beta = h["momentum"] + (np.round(65536.0 * h["momentum"].real) / 65536.0 - h["momentum"].real)
        v = beta * v - (1.0 - beta) * model.gradient(w, h, batch)
        return w + h["lr"] * v, v

    return step


def adam(model: Model, count: int) -> Step:
    """Kingma and Ba's step number count + 1, the two moments one after the other in the state."""

    def step(w: Array, moments: Array, h: Values, batch: Any) -> tuple[Array, Array]:
        g = model.gradient(w, h, batch) + h["weight_decay"] * w
        m, v = np.split(moments, 2)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        corrected, spread = m / (1.0 - 0.9 ** (count + 1)), v / (1.0 - 0.999 ** (count + 1))
        return w - h["lr"] * corrected / (np.sqrt(spread) + 1e-8), np.concatenate([m, v])

    return step


def carried(step: Step, size: int) -> Callable[[Array, Values, Any], Array]:
    """F = s - Φ(s) on s = (w, state), w the first `size` entries."""

    def residual(s: Array, h: Values, batch: Any) -> Array:
        return s - np.concatenate(step(s[:size], s[size:], h, batch))

    return residual


@dataclass(frozen=True)
class Unrolled:
    """d L_out / dλ of an unroll whose last `window` steps see λ move, dL_out / dw before them, and where it ends."""

    total: Array
    adjoint: Array
    w: Array
    state: Array
    outer_loss: float


def unroll(
    step: Step, outer: Callable[[Array, Values], Any], start: Any, h: Values, batches: Any, window: int
) -> Unrolled:
    """Every derivative by one run with a complex step; start = (w, state)."""

    def run(moved: Values, push: Array) -> tuple[Array, Array, Any]:
        w, state = start
        for t, batch in enumerate(batches):
            inside = t >= len(batches) - window
            w = w + push if t == len(batches) - window else w
            w, state = step(w, state, moved if inside else h, batch)
        return w, state, outer(w, moved)

    still = np.zeros_like(start[0])
    w, state, loss = run(h, still)
    return Unrolled(
        total=np.array([run(moved, still)[2].imag for moved in _steps(h)]) / STEP,
        adjoint=np.array([run(h, e)[2].imag for e in 1j * STEP * np.eye(still.size)]) / STEP,
        w=w,
        state=state,
        outer_loss=float(loss),
    )


def dense(at: Derivatives) -> Array:
    """p = J⁻ᵀ v."""
    return np.linalg.solve(at.jacobian.T, at.slope)


def neumann(at: Derivatives, terms: int, step: float) -> Array:
    """p = a Σ_{j<k} (I - aJᵀ)ʲ v, by matrix powers."""
    matrix = np.eye(at.slope.size) - step * at.jacobian.T
    return step * sum(np.linalg.matrix_power(matrix, j) @ at.slope for j in range(terms))


def krylov(at: Derivatives, steps: int) -> Array:
    """p = K (KᵀJK)⁻¹ Kᵀ v with K = [v, Jv, …, Jᵏ⁻¹v], in exact fractions: K is too ill-conditioned for floats."""
    matrix = [[Fraction(float(x)) for x in row] for row in at.jacobian]
    columns = [[Fraction(float(x)) for x in at.slope]]
    for _ in range(steps):
        columns.append([_dot(row, columns[-1]) for row in matrix])
    basis, images = columns[:steps], columns[1:]
    weights = _solve([[_dot(a, b) for b in images] for a in basis], [_dot(a, columns[0]) for a in basis])
    return np.array([float(_dot(weights, row)) for row in zip(*basis, strict=True)])


def _dot(a: Any, b: Any) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def _solve(matrix: list[list[Fraction]], rhs: list[Fraction]) -> list[Fraction]:
    """Gauss-Jordan elimination; in exact arithmetic the pivots of a positive definite matrix need no exchange."""
    rows = [[*row, right] for row, right in zip(matrix, rhs, strict=True)]
    for pivot in range(len(rows)):
        rows[pivot] = [x / rows[pivot][pivot] for x in rows[pivot]]
        for other in range(len(rows)):
            if other != pivot:
                factor = rows[other][pivot]
                rows[other] = [x - factor * y for x, y in zip(rows[other], rows[pivot], strict=True)]
    return [row[-1] for row in rows]
