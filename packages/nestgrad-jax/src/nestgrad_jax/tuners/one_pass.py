"""One-pass tuning in JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import (
    BilevelProblem,
    HyperGradient,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassRun,
    OnePassState,
    Space,
    UnsupportedOptimizer,
    Watch,
    WeightUpdate,
    check_block,
    check_one_pass,
    error_for,
    initial_values,
    map_spaces,
    require_initial,
)
from nestgrad_jax._calls import shared
from nestgrad_jax._derivatives import functional_optimizer, linearize, outer_gradients, scalar_loss
from nestgrad_jax._explain import explained
from nestgrad_jax._programs import slow_in_loops
from nestgrad_jax._report import Packed, packed, unpacked, whole
from nestgrad_jax._rules._steps import Batches
from nestgrad_jax._rules.implicit import idle, implicit
from nestgrad_jax._shardings import beside
from nestgrad_jax._space_ops import OPS
from nestgrad_jax._tree import as_hparams, as_params, check_arguments, check_matching, is_traced, moved_by, tree_norm
from nestgrad_jax.tuners._recall import Recall

_LONGEST = 16
"""Steps of a program of `run` at most, so that a block of any length compiles in bounded time."""


class OnePass:
    """Tune hparams during one training run; nestgrad._tuners.one_pass defines each step (Clarke et al. 2022).

    problem: its inner problem is a WeightUpdate. hparams: a tree of spaces, each holding the initial natural value.
    every: training steps per hyper step. method: Implicit, with Neumann, Identity or Dense. outer_optimizer: any optax
    transformation, as optax.adam(0.05). throw: raise NonFinite, or the solver's own error, when a hypergradient is NaN
    or infinite; otherwise, and always under a user's own jit, info.hypergradient.status says so. A series that diverges
    is not an error here: its few terms are what the method defines; the status records it.

    `step` is pure and jitted. It may be the body of a lax.scan, and may be mapped over runs by vmap: with in_axes and
    out_axes None for state["step"], training steps between hyper steps then stay as cheap as they are.
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
        update = check_one_pass(problem, hparams, every, method)
        if not (hasattr(outer_optimizer, "init") and hasattr(outer_optimizer, "update")):
            raise UnsupportedOptimizer(
                f"OnePass.outer_optimizer: got {type(outer_optimizer).__name__}, limit: an optax transformation. "
                "Remedy: optax.adam(0.05)."
            )
        self.problem, self.spaces, self.every, self.method = problem, hparams, every, method
        self.outer_optimizer, self.throw = outer_optimizer, throw
        self._update = update
        self._recall, self._watch = Recall(self._natural), Watch()
        self._train_jitted = jax.jit(self._train)
        self._tune_jitted = jax.jit(self._tune_packed)
        self._block_jitted = jax.jit(self._block, static_argnames=("which", "tunes"))

    def init(self, params: Any) -> OnePassState:
        """The state before the first step. params: a pytree of floating arrays, copied."""
        check_arguments(params=params, hparams=initial_values(self.spaces))
        weights = jax.tree.map(jnp.array, as_params(params))
        values = as_hparams(initial_values(self.spaces), jax.tree.leaves(weights)[0].dtype)
        check_matching(weights, hparams=values)
        if not is_traced(values):
            require_initial(self.spaces, values, lambda value: (float(value.min()), float(value.max())))
        leaves = self._in_spaces(lambda space, value: space.unconstrained(value, OPS), values)
        state: OnePassState = {
            "params": weights,
            "opt_state": functional_optimizer(self._update, values).init(weights),
            "hparams": leaves,
            "outer_opt_state": self.outer_optimizer.init(leaves),
            "step": jnp.zeros((), jnp.int32),
            "buffers": {},
        }
        return beside(weights, state)

    def step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        check_arguments(inner_batch=inner_batch, outer_batch=outer_batch)
        with explained("OnePass.step", state=state, inner_batch=inner_batch, outer_batch=outer_batch):
            return self._stepped(state, inner_batch, outer_batch)

    def run(
        self, state: OnePassState, inner_batches: Sequence[Any], outer_batch: Any
    ) -> tuple[OnePassState, OnePassRun]:
        """`step` for each batch in turn with this one outer batch, as few compiled programs; the state is not changed.

        A program ends with a hyper step, or after 16 steps, and is compiled once for its length: blocks of `every`
        steps that begin where one ended need a single one. Statuses are read once, at the end of the block; then the
        first hyper step that failed raises as in `step`. Raises InvalidInput for no batches, and under a user's own
        jit where the count of steps has no value.
        """
        check_block("OnePass", inner_batches)
        check_arguments(inner_batches=inner_batches, outer_batch=outer_batch)
        if is_traced(state["step"]):
            raise InvalidInput(
                "OnePass.run: state['step'] is traced, limit: a count with a value, as it decides which steps tune. "
                "Remedy: jax.lax.scan over step, which is made for it."
            )
        with explained("OnePass.run", state=state, inner_batches=inner_batches, outer_batch=outer_batch):
            return self._ran(state, list(inner_batches), outer_batch)

    def values(self, state: OnePassState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return self._recall.about(state["hparams"])[0]

    def _stepped(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """`step`, with JAX's errors as they are."""
        if is_traced(state["step"]):
            due = (state["step"] + 1) % self.every == 0
            return lax.cond(due, self._tune_whole, self._only_train, state, inner_batch, outer_batch)
        count = self._recall.count(state["step"]) + 1
        if count % self.every == 0:
            after, info = self._tune_now(state, inner_batch, outer_batch, count)
        else:
            after, info = self._train_now(state, inner_batch)
        self._recall.keep_count(after["step"], count)
        return after, info

    def _ran(self, state: OnePassState, batches: list[Any], outer_batch: Any) -> tuple[OnePassState, OnePassRun]:
        """`run`, with JAX's errors as they are."""
        count = begun = self._recall.count(state["step"])
        last, losses, found, values = begun + len(batches), [], [], None
        while count < last:
            due = min(count + self.every - count % self.every, last)
            stop = min(due, count + _LONGEST)
            tunes = stop % self.every == 0
            state, some, values, seen = self._block_jitted(
                state, *shared(batches[count - begun : stop - begun]), outer_batch if tunes else None, tunes=tunes
            )
            losses.append(some)
            if seen is not None:
                found.append((stop, seen))
            count = stop
        inner_losses = losses[0] if len(losses) == 1 else jnp.concatenate(losses)
        if is_traced((inner_losses, values)):
            return state, OnePassRun(
                inner_losses=inner_losses,
                hypergradients=tuple(unpacked(each).found for _, each in found),
                hparams=values,
            )
        judged = tuple(self._judged(each, step) for step, each in found)
        self._recall.keep_count(state["step"], count)
        self._recall.keep_values(state["hparams"], values)
        return state, OnePassRun(inner_losses=inner_losses, hypergradients=judged, hparams=values)

    def _block(
        self, state: OnePassState, distinct: tuple[Any, ...], which: tuple[int, ...], outer_batch: Any, *, tunes: bool
    ) -> tuple[OnePassState, Array, Any, Any]:
        """(state, inner losses, natural values, the packed hyper step) of steps of which at most the last one tunes.

        Step i is on the batch distinct[which[i]].
        """
        values, seen = self._natural(state["hparams"]), None
        batches = [distinct[i] for i in which]
        carry = (state["params"], state["opt_state"], state["step"])
        (params, opt_state, step), losses = self._trained(carry, values, batches[:-1] if tunes else batches)
        state = {**state, "params": params, "opt_state": opt_state, "step": step}
        if tunes:
            state, values, loss, seen = self._tune_packed(state, batches[-1], outer_batch)
            losses = jnp.concatenate([losses, loss[None]])
        return state, losses, values, seen

    def _trained(self, carry: Any, values: Any, batches: list[Any]) -> tuple[Any, Array]:
        """Training steps in a loop; written out where steps are slow in one, or batches differ in shape."""

        def body(carry: Any, batch: Any) -> tuple[Any, Array]:
            *carry, loss = self._train(carry[0], carry[1], values, carry[2], batch)
            return tuple(carry), loss

        if not batches:
            return carry, jnp.zeros(0, jax.tree.leaves(carry[0])[0].dtype)
        together = Batches.of(batches[0], None if all(b is batches[0] for b in batches) else batches)
        straight = len(batches) == 1 or slow_in_loops(body, carry, batches[0])
        return replace(together, straight=straight).steps(body, carry, len(batches))

    def _tune_packed(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[Any, ...]:
        """(state, natural values, inner loss, packed hypergradient)."""
        after, info = self._tune(state, inner_batch, outer_batch)
        found: HyperGradient = info.hypergradient
        size = found.stats.indirect_norm if found.direct is None else tree_norm(found.total)
        return after, info.hparams, info.inner_loss, packed(found, size)

    def _judged(self, given: Packed, step: int) -> HyperGradient:
        """The unpacked hypergradient of a step; raises where it is to, and warns of one out of all proportion."""
        found, _, size, loss = unpacked(given)
        if self.throw and not found.status.ok and not (math.isfinite(size) and math.isfinite(loss)):
            raise error_for(found.status, self.method, found.stats, where=f"training step {step}")
        self._watch.see(size, step=step)
        return found

    def _train_now(self, state: OnePassState, inner_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """A training step, known on the host to be no more: leaves and outer state stay where they are."""
        values, nothing = self._recall.about(state["hparams"])
        params, opt_state, count, loss = self._train_jitted(
            state["params"], state["opt_state"], values, state["step"], inner_batch
        )
        after: OnePassState = {**state, "params": params, "opt_state": opt_state, "step": count}
        return after, OnePassInfo(inner_loss=loss, tuned=False, hypergradient=nothing, hparams=values)

    def _tune_now(
        self, state: OnePassState, inner_batch: Any, outer_batch: Any, count: int
    ) -> tuple[OnePassState, OnePassInfo]:
        """A hyper step, known on the host to be due; its status is read back, which waits for the device."""
        after, values, loss, seen = self._tune_jitted(state, inner_batch, outer_batch)
        if is_traced(seen.numbers):
            found = unpacked(seen).found
        else:
            found = self._judged(seen, count)
            self._recall.keep_values(after["hparams"], values)
        return after, OnePassInfo(inner_loss=loss, tuned=True, hypergradient=found, hparams=values)

    def _train(
        self, params: Any, opt_state: Any, values: Any, step: Array, batch: Any
    ) -> tuple[Any, Any, Array, Array]:
        """(params, optimizer state, count and inner loss) of one training step."""
        check_matching(params, hparams=values, inner_batch=batch)
        loss, grads = jax.value_and_grad(scalar_loss(self._update.loss, "inner loss"))(params, values, batch)
        updates, opt_state = functional_optimizer(self._update, values).update(grads, opt_state, params)
        return moved_by(params, updates), opt_state, step + 1, loss

    def _only_train(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """A training step in the shape of `_tune`, for the branch of a traced condition."""
        values = self._natural(state["hparams"])
        params, opt_state, step, loss = self._train(
            state["params"], state["opt_state"], values, state["step"], inner_batch
        )
        after: OnePassState = {**state, "params": params, "opt_state": opt_state, "step": step}
        tuned, nothing = jnp.zeros((), bool), idle(state["hparams"])
        return after, OnePassInfo(inner_loss=loss, tuned=tuned, hypergradient=nothing, hparams=values)

    def _tune_whole(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """`_tune` with the tree of results that `_only_train` has."""
        after, info = self._tune(state, inner_batch, outer_batch)
        return after, replace(info, hypergradient=whole(info.hypergradient))

    def _tune(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """A training step and a hyper step, the training gradient shared between the two."""
        leaves = state["hparams"]
        check_matching(state["params"], hparams=leaves, inner_batch=inner_batch, outer_batch=outer_batch)
        problem = self._in_leaves()
        point = linearize(problem.inner, state["params"], leaves, inner_batch, state["opt_state"])
        updates, opt_state = cast("tuple[Any, Any]", point.move)
        params: Any = moved_by(state["params"], updates)
        outer = outer_gradients(problem.outer_loss, params, leaves, outer_batch)
        # The adjoint stays behind: stacked by a scan it would hold one copy of the weights a step.
        found = replace(implicit(self.method, point, outer, leaves, params=state["params"]), adjoint=None)
        moves, outer_opt_state = self.outer_optimizer.update(found.total, state["outer_opt_state"], leaves)
        moved = self._in_spaces(_clip, moved_by(leaves, moves))
        after: OnePassState = {
            "params": params,
            "opt_state": opt_state,
            "hparams": moved,
            "outer_opt_state": outer_opt_state,
            "step": state["step"] + 1,
            "buffers": state["buffers"],
        }
        values = self._natural(moved)
        return after, OnePassInfo(inner_loss=point.loss, tuned=jnp.ones((), bool), hypergradient=found, hparams=values)

    def _in_leaves(self) -> BilevelProblem:
        """The problem as a function of the leaves: every hyperparameter goes through its space."""
        update, outer_loss, natural = self._update, self.problem.outer_loss, self._natural
        return BilevelProblem(
            inner=WeightUpdate(
                loss=lambda params, leaves, batch: update.loss(params, natural(leaves), batch),
                optimizer=lambda leaves: update.optimizer(natural(leaves)),
                carry=update.carry,
            ),
            outer_loss=lambda params, leaves, batch: outer_loss(params, natural(leaves), batch),
        )

    def _natural(self, leaves: Any) -> Any:
        return self._in_spaces(lambda space, leaf: space.natural(leaf, OPS), leaves)

    def _in_spaces(self, function: Callable[[Space, Array], Array], values: Any) -> Any:
        """function(space, array) over a tree whose entries may be pytrees of their own."""
        return map_spaces(
            lambda space, entry: jax.tree.map(lambda array: function(space, array), entry), self.spaces, values
        )


def _clip(space: Space, leaf: Array) -> Array:
    if space.clip is None:
        return leaf
    low, high = (space.unconstrained(jnp.asarray(end, leaf.dtype), OPS) for end in space.clip)
    return jnp.clip(leaf, low, high)


def per_parameter(space: Space, params: Any) -> Space:
    """The space with its initial number spread over every entry of params: one hyperparameter a weight."""
    start = space.initial
    if not isinstance(start, (int, float)):
        raise InvalidInput(
            f"per_parameter: initial value of type {type(start).__name__}, limit: a number. Remedy: pass Log10(1e-3)."
        )
    return space.starting_at(jax.tree.map(lambda p: jnp.full_like(p, start), as_params(params)))
