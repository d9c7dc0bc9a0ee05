"""Hypergradient descent by dense float64 algebra."""

from __future__ import annotations

from typing import Any

import autograd
import numpy as np

from nestgrad import (
    DescentState,
    HyperGradient,
    OnePassInfo,
    Stats,
    Status,
    Watch,
    WeightUpdate,
    check_descent,
    error_for,
    map_spaces,
    require_initial,
    tree,
)
from nestgrad_reference._checks import functional_optimizer
from nestgrad_reference._connected import require_paths
from nestgrad_reference._derivatives import independence_is_no_news, weight_update
from nestgrad_reference._solvers._common import EPS
from nestgrad_reference._space_ops import OPS, slope
from nestgrad_reference._tree import Vector, as_params, check_matching, flatten
from nestgrad_reference.tuners._common import (
    clip,
    idle,
    in_leaves,
    initial_leaves,
    is_finite,
    loss_and_gradient,
    natural_values,
    norm,
)


class HypergradientDescent:
    """Move optimizer settings by the training gradient that they led to (Baydin et al. 2018).

    nestgrad._tuners.hypergradient_descent defines each step; its info.hypergradient.total is dL_t/d(leaf), its
    outer_loss L_t.
    """

    def __init__(
        self, inner: WeightUpdate, *, hparams: Any, step_size: float, rule: str = "additive", throw: bool = True
    ) -> None:
        self.inner = check_descent(inner, hparams, step_size, rule)
        self.spaces, self.step_size, self.rule, self.throw = hparams, step_size, rule, throw
        self._watch = Watch()

    def init(self, params: Any) -> DescentState:
        """The state before the first step."""
        weights = as_params(params)
        initial, leaves = initial_leaves(self.spaces)
        return {
            "params": weights,
            "opt_state": functional_optimizer(self.inner, initial).init(weights),
            "hparams": leaves,
            "previous": None,
            "step": 0,
            "buffers": {},
        }

    def step(self, state: DescentState, inner_batch: Any) -> tuple[DescentState, OnePassInfo]:
        """One training step, before it a move of the hyperparameters; the state passed in is not changed."""
        check_matching(state["params"], inner_batch=inner_batch)
        params, values, leaves = state["params"], self.values(state), state["hparams"]
        w, restore = flatten(params)
        loss, g = loss_and_gradient(self.inner, params, values, inner_batch)
        count, found, tuned = state["step"] + 1, idle(leaves), state["previous"] is not None
        if tuned:
            by_values = self._slopes(state["previous"], values)
            found = self._hypergradient(by_values, g, loss, params, values)
            if self.throw and not found.status.ok and not is_finite(found):
                raise error_for(found.status, self, found.stats, where=f"training step {count}")
            self._watch.see(norm(found.total), step=count)
            leaves = self._moved(leaves, values, found, by_values, g)
        now = natural_values(self.spaces, leaves)
        _, g = loss_and_gradient(self.inner, params, now, inner_batch)  # the loss may know the new values
        u, opt_state = weight_update(self.inner, params)(g, w, state["opt_state"], now)
        after: DescentState = {
            **state,
            "params": restore(w - u),
            "opt_state": opt_state,
            "hparams": leaves,
            "previous": {"params": params, "opt_state": state["opt_state"], "grads": restore(g)},
            "step": count,
        }
        return after, OnePassInfo(inner_loss=np.asarray(loss), tuned=tuned, hypergradient=found, hparams=now)

    def values(self, state: DescentState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return natural_values(self.spaces, state["hparams"])

    def __repr__(self) -> str:
        return f"HypergradientDescent(step_size={self.step_size}, rule={self.rule!r})"

    def _slopes(self, previous: Any, values: Any) -> np.ndarray:
        """∂u/∂λ of the previous step at a fixed gradient, state and weights (n, m)."""
        update = weight_update(self.inner, previous["params"])
        w, g = flatten(previous["params"])[0], flatten(previous["grads"])[0]
        h, shape_hparams = flatten(values)

        def moved(values: Any) -> Any:
            return update(g, w, previous["opt_state"], values)[0]

        require_paths([moved], values, "the weight update at a fixed gradient")
        with independence_is_no_news():
            jacobian = autograd.jacobian(lambda x: moved(shape_hparams(x)))(h)  # pyright: ignore[reportCallIssue]
        return np.asarray(jacobian).reshape(w.size, h.size)

    def _hypergradient(self, by_values: np.ndarray, g: Vector, loss: float, params: Any, values: Any) -> HyperGradient:
        """-(∂u/∂λ)ᵀ g in the leaves."""
        _, restore = flatten(values)
        h = -by_values.T @ g
        stats = Stats(
            rhs_norm=float(np.linalg.norm(g)),
            indirect_norm=float(np.linalg.norm(h)),
            params_norm=norm(params),
            steps=1,
            eps=EPS,
        )
        status = Status.TRUNCATED if np.isfinite([loss, *h]).all() else Status.NONFINITE
        natural = HyperGradient(
            total=restore(h),
            direct=restore(np.zeros_like(h)),
            indirect=restore(h),
            outer_loss=np.asarray(loss),
            status=status,
            stats=stats,
        )
        return in_leaves(natural, map_spaces(slope, self.spaces, values))

    def _moved(self, leaves: Any, values: Any, found: HyperGradient, by_values: np.ndarray, g: Vector) -> Any:
        """The leaves after the move, within their clip ranges; OutOfSpace for a value that left its space."""
        if self.rule == "additive":
            moved = tree.map(lambda leaf, slope: np.asarray(leaf - self.step_size * slope), leaves, found.total)
        else:
            sizes = np.linalg.norm(g) * np.linalg.norm(by_values, axis=0)
            cosines = np.divide(-by_values.T @ g, sizes, out=np.zeros_like(sizes), where=sizes != 0.0)
            _, restore = flatten(values)
            natural = tree.map(lambda value, c: value * (1.0 - self.step_size * c), values, restore(cosines))
            self._require_inside(natural, found)
            moved = map_spaces(lambda space, x: np.asarray(space.unconstrained(x, OPS)), self.spaces, natural)
        moved = map_spaces(clip, self.spaces, moved)
        self._require_inside(natural_values(self.spaces, moved), found)
        return moved

    def _require_inside(self, values: Any, found: HyperGradient) -> None:
        """Raise OutOfSpace for a value that left its space; one that is not finite is the status's business."""
        if found.status.ok:
            require_initial(self.spaces, values, lambda value: (float(value.min()), float(value.max())))
