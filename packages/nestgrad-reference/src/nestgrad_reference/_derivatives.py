"""Everything that the implicit function theorem needs at one point, as dense arrays."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import autograd
import numpy as np

from nestgrad import FixedPoint, Loss, Minimize, ProximalGradient, Root, WeightUpdate, tree
from nestgrad_reference._carry import Carried, carried
from nestgrad_reference._checks import functional_optimizer, like_params, scalar_loss
from nestgrad_reference._tree import Vector, concatenate, flatten

Flat = Callable[[Any, Any], Any]
"""function(flat vector, tree of hparams) -> flat vector."""


@dataclass(frozen=True, slots=True)
class Point:
    """Dense derivatives at (s, λ): residual F (n), jacobian J = ∂F/∂s (n, n), mixed B = ∂F/∂λ (n, m).

    repair: P = ∂u/∂(gradient) on ones, for a WeightUpdate that does not carry its state. kink_distance: of a
    ProximalGradient whose map has it, limit kink_limit.
    """

    residual: Vector
    jacobian: np.ndarray
    mixed: np.ndarray
    symmetric: bool
    carried: Carried
    repair: Vector | None = None
    kink_distance: float = math.nan
    kink_limit: float = 0.0


def loss_gradient(inner: Minimize | WeightUpdate | ProximalGradient, params: Any, batch: Any) -> Flat:
    """∇_w L_in as a function of the flat params and the tree of hparams."""
    _, shape_params = flatten(params)
    loss = scalar_loss(inner.loss, "inner loss")

    def gradient(w: Any, h: Any) -> Any:
        return autograd.grad(lambda x: loss(shape_params(x), h, batch))(w)  # pyright: ignore[reportCallIssue]

    return gradient


def weight_update(inner: WeightUpdate, params: Any) -> Callable[[Any, Any, Any, Any], tuple[Any, Any]]:
    """(g, w, optimizer state, h) -> (u, next optimizer state), the vectors flat."""
    _, shape_params = flatten(params)

    def update(g: Any, w: Any, state: Any, h: Any) -> tuple[Any, Any]:
        updates, after = functional_optimizer(inner, h).update(shape_params(g), state, shape_params(w))
        (moved,) = tree.matched(params, updates)
        return -concatenate(moved), after

    return update


def step(inner: Any, params: Any, batch: Any) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """Φ: (flat w, optimizer state, h) -> (next w, next optimizer state)."""
    _, shape_params = flatten(params)
    if isinstance(inner, WeightUpdate):
        gradient, update = loss_gradient(inner, params, batch), weight_update(inner, params)

        def move(w: Any, state: Any, h: Any) -> tuple[Any, Any]:
            u, after = update(gradient(w, h), w, state, h)
            return w - u, after

        return move
    if isinstance(inner, FixedPoint):
        return lambda w, state, h: (like_params(inner.map(shape_params(w), h, batch), params, "map"), state)
    slope = loss_gradient(inner, params, batch)

    def descend(w: Any, state: Any, h: Any) -> tuple[Any, Any]:
        z = shape_params(w - inner.step_size * slope(w, h))
        return like_params(inner.prox(h)(z, inner.step_size), params, "prox"), state

    return descend


def residual(inner: Any, layout: Carried, batch: Any) -> Flat:
    """F as a function of the vector s (see Carried) and the tree of hparams."""
    params, state = layout.params, layout.opt_state
    if isinstance(inner, Minimize):
        return loss_gradient(inner, params, batch)
    if isinstance(inner, Root):
        _, shape_params = flatten(params)
        return lambda w, h: like_params(inner.residual(shape_params(w), h, batch), params, "residual")
    if not isinstance(inner, WeightUpdate):
        move = step(inner, params, batch)
        return lambda w, h: w - move(w, state, h)[0]
    gradient, update = loss_gradient(inner, params, batch), weight_update(inner, params)

    def moved(s: Any, h: Any) -> Any:
        w, entering = layout.split(s)
        u, after = update(gradient(w, h), w, entering, h)
        if not layout.whole:
            return u
        return concatenate([u, layout.join(w, entering)[layout.weights :] - layout.join(w, after)[layout.weights :]])

    return moved


def linearize(inner: Any, params: Any, hparams: Any, batch: Any, opt_state: Any) -> Point:
    """F, J and B at a point, each row of the Jacobians by one reverse pass."""
    layout = carried(inner, params, hparams, opt_state)
    s, of_trees = layout.vector, residual(inner, layout, batch)
    h, shape_hparams = flatten(hparams)

    def function(s: Any, h: Any) -> Any:
        return of_trees(s, shape_hparams(h))

    with independence_is_no_news():
        distance, limit = _kink(inner, layout, hparams, batch)
        return Point(
            residual=np.asarray(function(s, h)),
            jacobian=autograd.jacobian(function, 0)(s, h).reshape(s.size, s.size),
            mixed=autograd.jacobian(function, 1)(s, h).reshape(s.size, h.size),
            symmetric=isinstance(inner, Minimize),
            carried=layout,
            repair=_repair(inner, layout, hparams, batch),
            kink_distance=distance,
            kink_limit=limit,
        )


def _repair(inner: Any, layout: Carried, hparams: Any, batch: Any) -> Vector | None:
    """∂u/∂g applied to ones: the diagonal, where the optimizer works entry by entry."""
    if not isinstance(inner, WeightUpdate) or layout.whole:
        return None
    w, update = layout.vector, weight_update(inner, layout.params)
    g = loss_gradient(inner, layout.params, batch)(w, hparams)
    slopes = autograd.jacobian(lambda x: update(x, w, layout.opt_state, hparams)[0])(g)  # pyright: ignore[reportCallIssue]
    return np.asarray(slopes).reshape(w.size, w.size) @ np.ones(w.size)


def _kink(inner: Any, layout: Carried, hparams: Any, batch: Any) -> tuple[float, float]:
    """(kink distance at z = w - γ∇L_in, the distance at which it counts as none); NaN where nothing is watched."""
    if not isinstance(inner, ProximalGradient):
        return math.nan, 0.0
    limit = max(inner.kink_tol, 10.0 * float(np.finfo(np.float64).eps))
    prox = inner.prox(hparams)
    if not hasattr(prox, "kink_distance"):
        return math.nan, limit
    w, (_, shape_params) = layout.vector, flatten(layout.params)
    z = shape_params(w - inner.step_size * loss_gradient(inner, layout.params, batch)(w, hparams))
    return float(prox.kink_distance(z, inner.step_size)), limit


@contextlib.contextmanager
def independence_is_no_news() -> Iterator[None]:
    """autograd warns of a zero derivative; whether a hyperparameter is cut off is checked by require_connected."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Output seems independent of input")
        yield


def outer_gradients(
    loss: Loss, params: Any, hparams: Any, batch: Any, level: str = "outer_loss"
) -> tuple[float, Vector, Vector]:
    """L_out, ∂L_out/∂w and the direct term ∂L_out/∂λ, flat; or the same of a loss of another level."""
    w, shape_params = flatten(params)
    h, shape_hparams = flatten(hparams)
    checked = scalar_loss(loss, level)

    def value(w: Any, h: Any) -> Any:
        return checked(shape_params(w), shape_hparams(h), batch)

    with independence_is_no_news():
        return float(value(w, h)), autograd.grad(value, 0)(w, h), autograd.grad(value, 1)(w, h)
