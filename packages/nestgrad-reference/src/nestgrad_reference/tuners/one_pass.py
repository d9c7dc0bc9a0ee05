"""One-pass tuning by dense float64 algebra."""

from __future__ import annotations

import math
from typing import Any

import autograd
import numpy as np

from nestgrad import (
    BilevelProblem,
    HyperGradient,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassState,
    Space,
    Stats,
    Status,
    UnsupportedOptimizer,
    check_one_pass,
    error_for,
    initial_values,
    map_spaces,
    require_initial,
    tree,
)
from nestgrad_reference._checks import functional_optimizer, scalar_loss
from nestgrad_reference._derivatives import linearize, outer_gradients
from nestgrad_reference._rules.implicit import implicit
from nestgrad_reference._space_ops import OPS, slope
from nestgrad_reference._tree import as_hparams, as_params, check_matching, flatten


class OnePass:
    """Tune hparams during one training run; nestgrad._tuners.one_pass defines each step (Clarke et al. 2022).

    Arguments as in every backend; outer_optimizer is a functional rule such as nestgrad_reference.optim.adam(0.05).
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        every: int,
        method: Implicit,
        outer_optimizer: Any,
        throw: bool = True,
    ) -> None:
        self._update = check_one_pass(problem, hparams, every, method)
        self.problem, self.spaces, self.every, self.method = problem, hparams, every, method
        self.outer_optimizer, self.throw = outer_optimizer, throw
        if not (hasattr(outer_optimizer, "init") and hasattr(outer_optimizer, "update")):
            raise UnsupportedOptimizer(
                f"OnePass.outer_optimizer: got {type(outer_optimizer).__name__}, limit: an object with init and "
                "update. Remedy: nestgrad_reference.optim.adam(0.05)."
            )

    def init(self, params: Any) -> OnePassState:
        """The state before the first step."""
        weights = as_params(params)
        initial = as_hparams(initial_values(self.spaces))
        require_initial(self.spaces, initial, lambda value: (float(value.min()), float(value.max())))
        leaves = map_spaces(lambda space, value: np.asarray(space.unconstrained(value, OPS)), self.spaces, initial)
        return {
            "params": weights,
            "opt_state": functional_optimizer(self._update, initial).init(weights),
            "hparams": leaves,
            "outer_opt_state": self.outer_optimizer.init(leaves),
            "step": 0,
            "buffers": {},
        }

    def step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        check_matching(state["params"], inner_batch=inner_batch, outer_batch=outer_batch)
        values = self.values(state)
        w, restore = flatten(state["params"])
        loss = scalar_loss(self.problem.inner.loss, "inner loss")
        value, slopes = autograd.value_and_grad(  # pyright: ignore[reportCallIssue]
            lambda x: loss(restore(x), values, inner_batch)
        )(w)
        updates, opt_state = functional_optimizer(self._update, values).update(
            restore(slopes), state["opt_state"], state["params"]
        )
        moved = tree.map(np.add, state["params"], updates)
        after: OnePassState = {**state, "params": moved, "opt_state": opt_state, "step": state["step"] + 1}
        tuned = after["step"] % self.every == 0
        if not tuned:
            idle = self._idle(state)
            return after, OnePassInfo(inner_loss=np.asarray(value), tuned=False, hypergradient=idle, hparams=values)

        point = linearize(self._update, state["params"], values, inner_batch, state["opt_state"])
        outer = outer_gradients(self.problem.outer_loss, moved, values, outer_batch)
        natural = implicit(self.method, point, outer, values, throw=False)
        found = self._in_leaves(natural, values)
        if self.throw and not found.status.ok and not _is_finite(found):
            raise error_for(found.status, self.method, found.stats, where=f"training step {after['step']}")
        steps, after["outer_opt_state"] = self.outer_optimizer.update(
            found.total, state["outer_opt_state"], state["hparams"]
        )
        after["hparams"] = map_spaces(_clip, self.spaces, tree.map(np.add, state["hparams"], steps))
        info = OnePassInfo(inner_loss=np.asarray(value), tuned=True, hypergradient=found, hparams=self.values(after))
        return after, info

    def values(self, state: OnePassState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return map_spaces(lambda space, leaf: np.asarray(space.natural(leaf, OPS)), self.spaces, state["hparams"])

    def _in_leaves(self, natural: HyperGradient, values: Any) -> HyperGradient:
        """The chain rule of every space, with slopes by hand."""
        slopes = map_spaces(slope, self.spaces, values)
        parts = {
            part: tree.map(np.multiply, getattr(natural, part), slopes) for part in ("total", "direct", "indirect")
        }
        return HyperGradient(**parts, outer_loss=natural.outer_loss, status=natural.status, stats=natural.stats)

    def _idle(self, state: OnePassState) -> HyperGradient:
        zeros = tree.map(np.zeros_like, state["hparams"])
        nothing = dict.fromkeys(("residual_norm", "rhs_norm", "inner_optimality", "eps"), math.nan)
        stats = Stats(**nothing, steps=0, products=0, contraction=math.nan, curvature=math.nan, asymmetry=math.nan)
        return HyperGradient(
            total=zeros, direct=zeros, indirect=zeros, outer_loss=np.asarray(np.nan), status=Status.IDLE, stats=stats
        )


def _is_finite(found: HyperGradient) -> bool:
    return all(np.isfinite(leaf).all() for leaf in [*tree.leaves(found.total), found.outer_loss])


def _clip(space: Space, leaf: Any) -> Any:
    if space.clip is None:
        return np.asarray(leaf)
    low, high = (space.unconstrained(np.float64(end), OPS) for end in space.clip)
    return np.clip(leaf, low, high)


def per_parameter(space: Space, params: Any) -> Space:
    """The space with its initial number spread over every entry of params: one hyperparameter a weight."""
    if not isinstance(space.initial, (int, float)):
        raise InvalidInput(
            f"per_parameter: initial value of type {type(space.initial).__name__}, limit: a number. "
            "Remedy: pass Log10(1e-3)."
        )
    return space.starting_at(tree.map(lambda p: np.full_like(p, space.initial), as_params(params)))
