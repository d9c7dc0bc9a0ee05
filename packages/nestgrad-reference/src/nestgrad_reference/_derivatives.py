"""Everything that the implicit function theorem needs at one point, materialised."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import autograd
import numpy as np
from autograd.core import VJPNode
from autograd.tracer import trace

from nestgrad import (
    BilevelProblem,
    DisconnectedHyperparameter,
    Loss,
    Minimize,
    NonScalarLoss,
    UnsupportedOptimizer,
    WeightUpdate,
    tree,
)
from nestgrad_reference._tree import Vector, as_hparams, as_params, concatenate, flatten


@dataclass(frozen=True, slots=True)
class Point:
    """Dense derivatives at (w, λ): residual F (n), jacobian J = ∂F/∂w (n, n), mixed B = ∂F/∂λ (n, m)."""

    residual: Vector
    jacobian: np.ndarray
    mixed: np.ndarray
    symmetric: bool


def scalar_loss(loss: Loss, level: str) -> Loss:
    """The loss, refused by name unless it returns one real floating-point number."""

    def checked(params: Any, hparams: Any, batch: Any) -> Any:
        value = loss(params, hparams, batch)
        plain = np.asarray(getattr(value, "_value", value))
        while plain.dtype == object:
            plain = np.asarray(getattr(plain.item(), "_value", plain.item()))
        if plain.shape != () or not np.issubdtype(plain.dtype, np.floating):
            raise NonScalarLoss(
                f"{level} returned shape {plain.shape} of {plain.dtype}, limit: shape () of a real floating type. "
                "Remedy: take .mean() or .sum()."
            )
        return value

    return checked


def residual(
    inner: Minimize | WeightUpdate, params: Any, hparams: Any, batch: Any, opt_state: Any
) -> Callable[[Any, Any], Any]:
    """F as a function of the flat params and the tree of hparams: ∇_w L_in, or u at a fixed optimizer state."""
    _, shape_params = flatten(params)
    loss = scalar_loss(inner.loss, "inner loss")

    def gradient(w: Any, h: Any) -> Any:
        return autograd.grad(lambda x: loss(shape_params(x), h, batch))(w)  # pyright: ignore[reportCallIssue]

    if isinstance(inner, Minimize):
        return gradient
    state = functional_optimizer(inner, hparams).init(params) if opt_state is None else opt_state

    def update(w: Any, h: Any) -> Any:
        rule = functional_optimizer(inner, h)
        updates, _ = rule.update(shape_params(gradient(w, h)), state, shape_params(w))
        named = tree.named_leaves(updates)
        return -concatenate([named[name] for name in tree.named_leaves(params)])

    return update


def functional_optimizer(inner: WeightUpdate, hparams: Any) -> Any:
    """inner.optimizer(hparams), refused by name unless it is a functional rule."""
    rule = inner.optimizer(hparams)
    if not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise UnsupportedOptimizer(
            f"WeightUpdate.optimizer returned {type(rule).__name__}, limit: an object with init(params) and "
            "update(grads, state, params). Remedy: use nestgrad_reference.optim.sgd."
        )
    return rule


def linearize(inner: Minimize | WeightUpdate, params: Any, hparams: Any, batch: Any, opt_state: Any) -> Point:
    """F, J and B at a point, each row of the Jacobians by one reverse pass."""
    w, _ = flatten(params)
    h, shape_hparams = flatten(hparams)
    of_trees = residual(inner, params, hparams, batch, opt_state)

    def function(w: Any, h: Any) -> Any:
        return of_trees(w, shape_hparams(h))

    with _independence_is_no_news():
        return Point(
            residual=np.asarray(function(w, h)),
            jacobian=autograd.jacobian(function, 0)(w, h).reshape(w.size, w.size),
            mixed=autograd.jacobian(function, 1)(w, h).reshape(w.size, h.size),
            symmetric=isinstance(inner, Minimize),
        )


@contextlib.contextmanager
def _independence_is_no_news() -> Iterator[None]:
    """autograd warns of a zero derivative; whether a hyperparameter is cut off is checked by require_connected."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Output seems independent of input")
        yield


def outer_gradients(loss: Loss, params: Any, hparams: Any, batch: Any) -> tuple[float, Vector, Vector]:
    """L_out, ∂L_out/∂w and the direct term ∂L_out/∂λ, flat."""
    w, shape_params = flatten(params)
    h, shape_hparams = flatten(hparams)
    checked = scalar_loss(loss, "outer_loss")

    def value(w: Any, h: Any) -> Any:
        return checked(shape_params(w), shape_hparams(h), batch)

    with _independence_is_no_news():
        return float(value(w, h)), autograd.grad(value, 0)(w, h), autograd.grad(value, 1)(w, h)


@dataclass(frozen=True, slots=True)
class Materialized:
    """Every derivative in total = direct - Bᵀ J⁻ᵀ v as a float64 array, params and hparams flattened in order.

    residual F (n), jacobian J (n, n), mixed B (n, m), outer_gradient v (n), direct (m), outer_loss.
    """

    residual: Vector
    jacobian: np.ndarray
    mixed: np.ndarray
    outer_gradient: Vector
    direct: Vector
    outer_loss: float


def materialize(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
) -> Materialized:
    """The dense derivatives of a small problem at a point, for judging any approximation of its hypergradient."""
    weights, values = as_params(params), as_hparams(hparams)
    point = linearize(problem.inner, weights, values, inner_batch, opt_state)
    loss, slope, direct = outer_gradients(problem.outer_loss, weights, values, outer_batch)
    return Materialized(point.residual, point.jacobian, point.mixed, slope, direct, loss)


def require_connected(function: Callable[[Any], Any], outer: Callable[[Any], Any], hparams: Any) -> None:
    """Raise DisconnectedHyperparameter for a leaf that neither F nor the outer loss depends on differentiably."""
    named = tree.named_leaves(hparams)
    for name, leaf in named.items():

        def of_leaf(x: Any, name: str = name) -> Any:
            return tree.unflatten(hparams, [x if other == name else value for other, value in named.items()])

        with _independence_is_no_news():
            connected = _depends(lambda x: function(of_leaf(x)), leaf) or _depends(lambda x: outer(of_leaf(x)), leaf)
        if not connected:
            raise DisconnectedHyperparameter(
                f"hparams[{name!r}]: 0 differentiable paths to the inner residual or the outer loss, limit: at least "
                "1. Remedy: look for a plain NumPy call, float() or an integer cast between it and the loss."
            )


def _depends(function: Callable[[Any], Any], x: Any) -> bool:
    _, node = trace(VJPNode.new_root(), function, x)
    return node is not None
