"""Hyperparameters that stay, and ones that drift, by float64 algebra."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from nestgrad import (
    FixedState,
    OnePassInfo,
    RandomMultiplierState,
    WeightUpdate,
    check_fixed,
    check_random_multiplier,
    map_spaces,
    require_initial,
    space_paths,
    tree,
)
from nestgrad_reference._checks import functional_optimizer
from nestgrad_reference._space_ops import OPS
from nestgrad_reference._tree import as_params, check_matching
from nestgrad_reference.tuners._common import clip, idle, initial_leaves, natural_values, weight_step


class Fixed:
    """Train with hparams as they are; nestgrad._tuners.baselines defines each step."""

    def __init__(self, inner: WeightUpdate, *, hparams: Any) -> None:
        self.inner, self.spaces = check_fixed(inner, hparams), hparams

    def init(self, params: Any) -> FixedState:
        """The state before the first step."""
        weights = as_params(params)
        initial, leaves = initial_leaves(self.spaces)
        opt_state = functional_optimizer(self.inner, initial).init(weights)
        return {"params": weights, "opt_state": opt_state, "hparams": leaves, "step": 0, "buffers": {}}

    def step(self, state: Any, inner_batch: Any, outer_batch: Any = None) -> tuple[Any, OnePassInfo]:
        """One training step; the state passed in is not changed."""
        check_matching(state["params"], inner_batch=inner_batch)
        values = self.values(state)
        loss, params, opt_state = weight_step(self.inner, state["params"], state["opt_state"], values, inner_batch)
        after = {**state, "params": params, "opt_state": opt_state, "step": state["step"] + 1}
        nothing = idle(state["hparams"])
        return after, OnePassInfo(inner_loss=np.asarray(loss), tuned=False, hypergradient=nothing, hparams=values)

    def values(self, state: Any) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return natural_values(self.spaces, state["hparams"])


class RandomMultiplier(Fixed):
    """Multiply hparams by factors drawn once; nestgrad._tuners.baselines defines each step."""

    def __init__(self, inner: WeightUpdate, *, hparams: Any, every: int, low: float = 0.95, high: float = 1.01) -> None:
        self.inner, self.spaces = check_random_multiplier(inner, hparams, every, low, high), hparams
        self.every, self.low, self.high = every, low, high

    def init(self, params: Any, *, key: int) -> RandomMultiplierState:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The state before the first step; key seeds the factors."""
        draw = np.random.default_rng(key).uniform
        factors = tree.map(lambda space: np.asarray(draw(self.low, self.high)), self.spaces)
        return cast("RandomMultiplierState", {**super().init(params), "multipliers": factors})

    def step(self, state: Any, inner_batch: Any, outer_batch: Any = None) -> tuple[Any, OnePassInfo]:
        """One training step, and a multiplication when `every` divides the count; the state is not changed."""
        after, info = super().step(state, inner_batch)
        if after["step"] % self.every:
            return after, info
        after["hparams"] = self._moved(state)
        return after, OnePassInfo(
            inner_loss=info.inner_loss, tuned=True, hypergradient=info.hypergradient, hparams=self.values(after)
        )

    def _moved(self, state: Any) -> Any:
        """The leaves of the natural values times their factors, within their clip ranges."""
        factors, now = tree.named_leaves(state["multipliers"]), self.values(state)
        rows = zip(space_paths(self.spaces, now), tree.leaves(now), strict=True)
        values = tree.unflatten(now, [value * factors[path] for path, value in rows])
        require_initial(self.spaces, values, lambda value: (float(value.min()), float(value.max())))
        leaves = map_spaces(lambda space, value: np.asarray(space.unconstrained(value, OPS)), self.spaces, values)
        return map_spaces(clip, self.spaces, leaves)
