"""Hypergradient descent in JAX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from nestgrad import (
    DescentState,
    HyperGradient,
    OnePassInfo,
    Status,
    Watch,
    WeightUpdate,
    check_descent,
    error_for,
)
from nestgrad_jax._connected import reached, require_connected
from nestgrad_jax._derivatives import functional_optimizer
from nestgrad_jax._rules._common import negate, stats_of, truncated
from nestgrad_jax._rules.implicit import idle
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import check_arguments, check_matching, flat, host_norm, is_traced, moved_by, tree_norm
from nestgrad_jax.tuners._leaves import clipped, is_finite, natural, require_inside, start, unconstrained
from nestgrad_jax.tuners._recall import Recall


class HypergradientDescent:
    """Move optimizer settings by the training gradient that they led to (Baydin et al. 2018).

    nestgrad._tuners.hypergradient_descent defines each step. inner: a WeightUpdate. hparams: a tree of spaces.
    step_size: κ. rule: "additive" in the leaves, or "multiplicative" in the natural values. throw: raise NonFinite when
    a hypergradient is not finite; OutOfSpace is raised for a value that leaves its space, in any case. Under a user's
    own jit neither can be raised: the status says the first, and the second shows as a leaf that is NaN.

    info.hypergradient.total is dL_t/d(leaf), its outer_loss L_t. `step` is pure and jitted, and may be the body of a
    lax.scan: so state["previous"] has its whole structure from the start, with gradients of zero.
    """

    def __init__(
        self, inner: WeightUpdate, *, hparams: Any, step_size: float, rule: str = "additive", throw: bool = True
    ) -> None:
        self.inner = check_descent(inner, hparams, step_size, rule)
        self.spaces, self.step_size, self.rule, self.throw = hparams, step_size, rule, throw
        self._recall, self._watch = Recall(lambda leaves: natural(hparams, leaves)), Watch()
        self._jitted = jax.jit(self._step)

    def __repr__(self) -> str:
        return f"HypergradientDescent(step_size={self.step_size}, rule={self.rule!r})"

    def init(self, params: Any) -> DescentState:
        """The state before the first step. params: a pytree of floating arrays, copied."""
        weights, values, leaves = start(self.spaces, params)
        opt_state = functional_optimizer(self.inner, values).init(weights)
        previous = {"params": weights, "opt_state": opt_state, "grads": jax.tree.map(jnp.zeros_like, weights)}
        return {
            "params": weights,
            "opt_state": opt_state,
            "hparams": leaves,
            "previous": previous,
            "step": jnp.zeros((), jnp.int32),
            "buffers": {},
        }

    def step(self, state: DescentState, inner_batch: Any) -> tuple[DescentState, OnePassInfo]:
        """One training step, before it a move of the hyperparameters; the state passed in is not changed."""
        check_arguments(inner_batch=inner_batch)
        after, info = self._jitted(state, inner_batch)
        if is_traced((after, info)):
            return after, info
        count = self._recall.count(state["step"]) + 1
        self._recall.keep_count(after["step"], count)
        found: HyperGradient = replace(info.hypergradient, status=Status(int(info.hypergradient.status)))
        if count > 1:
            if self.throw and not found.status.ok and not is_finite(found):
                raise error_for(found.status, self, found.stats, where=f"training step {count}")
            if found.status.ok:
                require_inside(self.spaces, info.hparams)
            self._watch.see(host_norm(found.total), step=count)
        return after, replace(info, tuned=count > 1, hypergradient=found)

    def values(self, state: DescentState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return self._recall.about(state["hparams"])[0]

    def _step(self, state: DescentState, batch: Any) -> tuple[DescentState, OnePassInfo]:
        params, leaves, moving = state["params"], state["hparams"], state["step"] > 0
        check_matching(params, hparams=leaves, inner_batch=batch)
        gradient = jax.value_and_grad(scalar_loss(self.inner.loss, "inner loss"))
        values = natural(self.spaces, leaves)
        loss, grads = gradient(params, values, batch)
        found, moved, now = self._moved(state["previous"], leaves, loss, grads, params)
        # A leaf that does not move keeps its bits.
        moved = jax.tree.map(lambda new, old: jnp.where(moving, new, old), moved, leaves)
        now = jax.tree.map(lambda new, old: jnp.where(moving, new, old), now, values)
        found = jax.tree.map(lambda new, none: jnp.where(moving, new, none), found, idle(leaves))
        if self._loss_knows(params, values, batch):
            _, grads = gradient(params, now, batch)
        updates, opt_state = functional_optimizer(self.inner, now).update(grads, state["opt_state"], params)
        after: DescentState = {
            "params": moved_by(params, updates),
            "opt_state": opt_state,
            "hparams": moved,
            "previous": {"params": params, "opt_state": state["opt_state"], "grads": grads},
            "step": state["step"] + 1,
            "buffers": state["buffers"],
        }
        return after, OnePassInfo(inner_loss=loss, tuned=moving, hypergradient=found, hparams=now)

    def _loss_knows(self, params: Any, values: Any, batch: Any) -> bool:
        """Whether the training gradient depends on a hyperparameter, so that it must be taken again for new ones."""
        vector, restore = ravel_pytree(values)
        slope = jax.grad(scalar_loss(self.inner.loss, "inner loss"))
        return any(reached(lambda x: slope(params, restore(x), batch), vector))

    def _moved(
        self, previous: Any, leaves: Any, loss: Array, grads: Any, params: Any
    ) -> tuple[HyperGradient, Any, Any]:
        """(hypergradient in the leaves, leaves after the move, their natural values)."""

        def updates(values: Any) -> Any:
            rule = functional_optimizer(self.inner, values)
            return rule.update(previous["grads"], previous["opt_state"], previous["params"])[0]

        values, chain = jax.vjp(lambda x: natural(self.spaces, x), leaves)
        _, pull = jax.vjp(updates, values)
        vector, restore = ravel_pytree(grads)
        no = [False] * len(jax.tree.leaves(values))
        require_connected(values, no, reached(lambda g: pull(restore(g))[0], vector))
        (by_values,) = pull(grads)
        (total,) = chain(by_values)
        stats = stats_of(params, total, rhs_norm=tree_norm(grads), steps=1)
        direct = jax.tree.map(jnp.zeros_like, total)
        found = truncated(direct=direct, indirect=total, outer_loss=loss, stats=stats)
        if self.rule == "additive":
            moved = jax.tree.map(lambda leaf, slope: leaf - self.step_size * slope, leaves, total)
        else:
            now = self._multiplied(updates, values, by_values, tree_norm(grads))
            moved = unconstrained(self.spaces, now)
        moved = clipped(self.spaces, moved)
        return found, moved, natural(self.spaces, moved)

    def _multiplied(self, updates: Any, values: Any, by_values: Any, size: Array) -> Any:
        """λ (1 - κ h / (|g| |∂u/∂λ|)), one number at a time; λ as it is where a norm is zero."""
        entries, restore = ravel_pytree(values)

        def column(direction: Array) -> Array:
            return flat(negate(jax.jvp(updates, (values,), (restore(direction),))[1]))

        columns = jax.vmap(column)(jnp.eye(entries.size, dtype=entries.dtype))
        sizes = size * jax.vmap(tree_norm)(columns)
        there = sizes > 0
        slopes = flat(by_values)
        cosines = jnp.where(there, slopes / jnp.where(there, sizes, jnp.ones_like(sizes)), jnp.zeros_like(slopes))
        return restore(entries * (1.0 - self.step_size * cosines))
