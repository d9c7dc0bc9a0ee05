"""The device part of one-pass tuning: steps from arrays to arrays, nothing read on the way."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import BilevelProblem, Guard, HyperGradient, Implicit, OnePassInfo, OnePassState, Unrolled, WeightUpdate
from nestgrad_jax._derivatives import floating_leaves, functional_optimizer, linearize, outer_gradients
from nestgrad_jax._report import packed, whole
from nestgrad_jax._rules.implicit import idle, implicit
from nestgrad_jax._tree import check_matching, moved_by, tree_norm
from nestgrad_jax.tuners._leaves import natural
from nestgrad_jax.tuners._outer_step import finite, no_event, outer_step
from nestgrad_jax.tuners._training import train, trained
from nestgrad_jax.tuners._window import along_traced


class Work:
    """The steps of one tuner; its arguments are those of OnePass, in_leaves its problem as a function of the leaves.

    States are the dicts of OnePassState; a step returns a new one, and changes none.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        update: WeightUpdate,
        spaces: Any,
        method: Implicit | Unrolled | None,
        outer_optimizer: Any,
        guard: Guard | None,
    ) -> None:
        self.update, self.method = update, method
        self._spaces, self._outer_optimizer, self._guard = spaces, outer_optimizer, guard
        self.in_leaves = self._of_leaves(problem)

    def natural(self, leaves: Any) -> Any:
        """The natural values of the leaves."""
        return natural(self._spaces, leaves)

    def fresh(self, leaves: Any, params: Any) -> Any:
        """The optimizer state of a run that begins."""
        return functional_optimizer(self.update, self.natural(leaves)).init(params)

    def no_adjoint(self, params: Any, opt_state: Any) -> Any:
        """Zeros shaped like a hypergradient's adjoint."""
        zeros = jax.tree.map(jnp.zeros_like, params)
        if self.update.carry == "weights":
            return zeros
        return {"params": zeros, "opt_state": [jnp.zeros_like(leaf) for leaf in floating_leaves(opt_state)[0]]}

    def only_train(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """A training step in the shape of `tune_whole`, for the branch of a traced condition."""
        values = self.natural(state["hparams"])
        params, opt_state, step, loss = train(
            self.update, state["params"], state["opt_state"], values, state["step"], inner_batch
        )
        after: OnePassState = {**state, "params": params, "opt_state": opt_state, "step": step}
        tuned, nothing = jnp.zeros((), bool), idle(state["hparams"])
        return after, OnePassInfo(inner_loss=loss, tuned=tuned, hypergradient=nothing, hparams=values, event=no_event())

    def tune_whole(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """A step that tunes, with the tree of results that `only_train` has; along its window with Unrolled."""
        if isinstance(self.method, Unrolled):
            after, info = self._tune_along(self.method, state, inner_batch, outer_batch)
        else:
            after, info, _ = self._tune(state, inner_batch, outer_batch)
        event = no_event() if info.event is None else info.event
        return after, replace(info, hypergradient=whole(info.hypergradient), event=event)

    def tune_packed(
        self,
        state: OnePassState,
        inner_batch: Any,
        outer_batch: Any,
        *,
        method: Implicit | None = None,
        others: tuple[Implicit, ...] = (),
    ) -> tuple[Any, ...]:
        """(state, natural values, inner loss, packed hypergradient, event, those of the other methods)."""
        after, info, beside = self._tune(state, inner_batch, outer_batch, method, others)
        found: HyperGradient = info.hypergradient
        size = found.stats.indirect_norm if found.direct is None else tree_norm(found.total)
        seen = [(other.total, other.outer_loss, other.stats.contraction) for other in beside]
        return after, info.hparams, info.inner_loss, packed(found, size), info.event, seen

    def block(
        self, state: OnePassState, distinct: tuple[Any, ...], which: tuple[int, ...], outer_batch: Any, *, tunes: bool
    ) -> tuple[OnePassState, Array, Any, Any, Any]:
        """(state, inner losses, natural values, packed hyper step, event) of steps of which at most the last one tunes.

        Step i is on the batch distinct[which[i]].
        """
        values, seen, event = self.natural(state["hparams"]), None, None
        batches = [distinct[i] for i in which]
        state, losses = trained(self.update, state, values, batches[:-1] if tunes else batches)
        if tunes:
            state, values, loss, seen, event, _ = self.tune_packed(state, batches[-1], outer_batch)
            losses = jnp.concatenate([losses, loss[None]])
        return state, losses, values, seen, event

    def follow(self, total: Any, outer_loss: Array, state: Any) -> tuple[dict[str, Any], Any, Array, Any]:
        """(the entries of the state that change, natural values, |total|, event) of a hypergradient."""
        moved, event = outer_step(self._spaces, self._outer_optimizer, self._guard, total, outer_loss, state)
        return moved, self.natural(moved["hparams"]), tree_norm(total), event

    def _tune(
        self,
        state: OnePassState,
        inner_batch: Any,
        outer_batch: Any,
        method: Implicit | None = None,
        others: tuple[Implicit, ...] = (),
    ) -> tuple[OnePassState, OnePassInfo, list[HyperGradient]]:
        """A training step and a hyper step, the training gradient shared between the two.

        Besides, what the other methods find on the same linearisation. info.event is None without a guard.
        """
        leaves = state["hparams"]
        check_matching(state["params"], hparams=leaves, inner_batch=inner_batch, outer_batch=outer_batch)
        problem = self.in_leaves
        point = linearize(problem.inner, state["params"], leaves, inner_batch, state["opt_state"])
        updates, opt_state = cast("tuple[Any, Any]", point.move)
        params: Any = moved_by(state["params"], updates)
        outer = outer_gradients(problem.outer_loss, params, leaves, outer_batch)
        spec = cast("Implicit", method or self.method)
        solve = functools.partial(implicit, point=point, outer=outer, hparams=leaves, params=state["params"])
        found = solve(spec, warm_start=state.get("adjoint"))
        moved, event = outer_step(
            self._spaces, self._outer_optimizer, self._guard, found.total, found.outer_loss, state
        )
        step = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
        after = cast("OnePassState", {**state, **step, **moved})
        if "adjoint" in state:
            there = finite(found.total, found.outer_loss)
            after["adjoint"] = jax.tree.map(
                lambda new, old: jnp.where(there, new, old), found.adjoint, state["adjoint"]
            )
        # The adjoint stays behind: stacked by a scan it would hold one copy of the weights a step.
        found, values = replace(found, adjoint=None), self.natural(after["hparams"])
        info = OnePassInfo(
            inner_loss=point.loss, tuned=jnp.ones((), bool), hypergradient=found, hparams=values, event=event
        )
        return after, info, [solve(other) for other in others]

    def _tune_along(self, method: Unrolled, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        """A training step and a hyper step along the state's window, which holds this step's batch too; traced."""
        leaves = state["hparams"]
        params, opt_state, step, loss = train(
            self.update, state["params"], state["opt_state"], self.natural(leaves), state["step"], inner_batch
        )
        found = along_traced(method, self.in_leaves, state["window"], leaves, outer_batch)
        moved, values, _, event = self.follow(found.total, found.outer_loss, state)
        after = {**state, "params": params, "opt_state": opt_state, "step": step, **moved, "window": {}}
        return after, OnePassInfo(
            inner_loss=loss, tuned=jnp.ones((), bool), hypergradient=found, hparams=values, event=event
        )

    def _of_leaves(self, problem: BilevelProblem) -> BilevelProblem:
        """The problem as a function of the leaves: every hyperparameter goes through its space."""
        update, outer_loss, natural = self.update, problem.outer_loss, self.natural
        return BilevelProblem(
            inner=WeightUpdate(
                loss=lambda params, leaves, batch: update.loss(params, natural(leaves), batch),
                optimizer=lambda leaves: update.optimizer(natural(leaves)),
                carry=update.carry,
            ),
            outer_loss=lambda params, leaves, batch: outer_loss(params, natural(leaves), batch),
        )
