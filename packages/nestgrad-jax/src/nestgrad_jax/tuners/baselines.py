"""Hyperparameters that stay, and ones that drift, in JAX."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from nestgrad import (
    FixedState,
    OnePassInfo,
    RandomMultiplierState,
    WeightUpdate,
    check_fixed,
    check_random_multiplier,
    space_paths,
    tree,
)
from nestgrad_jax._derivatives import functional_optimizer
from nestgrad_jax._explain import explained
from nestgrad_jax._rules.implicit import idle
from nestgrad_jax._tree import as_key, check_arguments, is_traced
from nestgrad_jax.tuners._leaves import clipped, natural, require_inside, start, unconstrained
from nestgrad_jax.tuners._outer_step import no_event
from nestgrad_jax.tuners._recall import Recall
from nestgrad_jax.tuners._training import Pure, train


class Fixed:
    """Train with hparams as they are; nestgrad._tuners.baselines defines each step.

    `step` is pure and jitted, and may be the body of a lax.scan or mapped over runs by vmap.
    """

    every: int | None = None

    def __init__(self, inner: WeightUpdate, *, hparams: Any) -> None:
        self.inner, self.spaces = check_fixed(inner, hparams), hparams
        self._prepare()

    def _prepare(self) -> None:
        self._recall = Recall(self._natural)
        self.pure = Pure(update=self.inner, only_train=self._only_train, tune=self._tune_whole, fresh=self._fresh)
        self._train_jitted = jax.jit(functools.partial(train, self.inner))

    def init(self, params: Any) -> FixedState:
        """The state before the first step. params: a pytree of floating arrays, copied."""
        weights, values, leaves = start(self.spaces, params)
        opt_state = functional_optimizer(self.inner, values).init(weights)
        step = jnp.zeros((), jnp.int32)
        return {"params": weights, "opt_state": opt_state, "hparams": leaves, "step": step, "buffers": {}}

    def step(self, state: Any, inner_batch: Any, outer_batch: Any = None) -> tuple[Any, OnePassInfo]:
        """One training step; the state passed in is not changed. outer_batch: ignored."""
        check_arguments(inner_batch=inner_batch)
        with explained(f"{type(self).__name__}.step", state=state, inner_batch=inner_batch):
            if is_traced(state["step"]):
                return self._traced(state, inner_batch, outer_batch)
            return self._stepped(state, inner_batch)

    def values(self, state: Any) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return self._recall.about(state["hparams"])[0]

    def _stepped(self, state: Any, inner_batch: Any) -> tuple[Any, OnePassInfo]:
        """`step`, with JAX's errors as they are and a count that has a value."""
        count = self._recall.count(state["step"]) + 1
        values, nothing = self._recall.about(state["hparams"])
        params, opt_state, step, loss = self._train_jitted(
            state["params"], state["opt_state"], values, state["step"], inner_batch
        )
        after = {**state, "params": params, "opt_state": opt_state, "step": step}
        self._recall.keep_count(step, count)
        return after, OnePassInfo(inner_loss=loss, tuned=False, hypergradient=nothing, hparams=values)

    def _only_train(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        """A training step, traced."""
        values = self._natural(state["hparams"])
        params, opt_state, step, loss = train(
            self.inner, state["params"], state["opt_state"], values, state["step"], inner_batch
        )
        after = {**state, "params": params, "opt_state": opt_state, "step": step}
        return after, OnePassInfo(
            inner_loss=loss,
            tuned=jnp.zeros((), bool),
            hypergradient=idle(state["hparams"]),
            hparams=values,
            event=no_event(),
        )

    def _tune_whole(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        """A training step that moves the hyperparameters, traced; here none does."""
        return self._only_train(state, inner_batch, outer_batch)

    def _traced(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        """`step` inside a trace."""
        if self.every is None:
            return self._only_train(state, inner_batch, outer_batch)
        due = (state["step"] + 1) % self.every == 0
        return lax.cond(due, self._tune_whole, self._only_train, state, inner_batch, outer_batch)

    def _fresh(self, leaves: Any, params: Any) -> Any:
        """The optimizer state of a run that begins."""
        return functional_optimizer(self.inner, self._natural(leaves)).init(params)

    def _natural(self, leaves: Any) -> Any:
        return natural(self.spaces, leaves)


class RandomMultiplier(Fixed):
    """Multiply hparams by factors drawn once; nestgrad._tuners.baselines defines each step.

    A value that leaves its space raises OutOfSpace; inside a trace it shows as a leaf that is NaN.
    """

    def __init__(self, inner: WeightUpdate, *, hparams: Any, every: int, low: float = 0.95, high: float = 1.01) -> None:
        self.inner, self.spaces = check_random_multiplier(inner, hparams, every, low, high), hparams
        self.every, self.low, self.high = every, low, high
        self._prepare()
        self._drift_jitted = jax.jit(self._drifted)

    def init(self, params: Any, *, key: Any) -> RandomMultiplierState:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The state before the first step. key: an int or a PRNG key, which seeds the factors."""
        state = super().init(params)
        dtype = jax.tree.leaves(state["params"])[0].dtype
        drawn = jax.random.uniform(as_key(key), (len(tree.leaves(self.spaces)),), dtype, self.low, self.high)
        factors = tree.unflatten(self.spaces, list(drawn))
        return cast("RandomMultiplierState", {**state, "multipliers": factors})

    def _stepped(self, state: Any, inner_batch: Any) -> tuple[Any, OnePassInfo]:
        after, info = super()._stepped(state, inner_batch)
        if self._recall.count(after["step"]) % cast("int", self.every):
            return after, info
        leaves, values, moved = self._drift_jitted(state)
        require_inside(self.spaces, moved)
        self._recall.keep_values(leaves, values)
        return {**after, "hparams": leaves}, replace(info, tuned=True, hparams=values)

    def _tune_whole(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        """A training step and a multiplication, traced."""
        after, info = self._only_train(state, inner_batch, outer_batch)
        leaves, values, _ = self._drifted(state)
        return {**after, "hparams": leaves}, replace(info, tuned=jnp.ones((), bool), hparams=values)

    def _drifted(self, state: Any) -> tuple[Any, Any, Any]:
        """(leaves, their natural values, natural values before the clip) after a move."""
        values, factors = self._natural(state["hparams"]), tree.named_leaves(state["multipliers"])
        rows = zip(space_paths(self.spaces, values), tree.leaves(values), strict=True)
        moved = tree.unflatten(
            values,
            [jax.tree.map(lambda x, path=path: x * factors[path].astype(x.dtype), entry) for path, entry in rows],
        )
        leaves = clipped(self.spaces, unconstrained(self.spaces, moved))
        return leaves, self._natural(leaves), moved
