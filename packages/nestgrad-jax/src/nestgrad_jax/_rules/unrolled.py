"""Unrolled: reverse and forward differentiation along the steps taken, one compiled program a shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from nestgrad import BilevelProblem, HyperGradient, Unrolled
from nestgrad_jax._connected import reached, require_connected
from nestgrad_jax._derivatives import Outer, floating_leaves, outer_gradients
from nestgrad_jax._programs import slow_in_loops
from nestgrad_jax._rules._common import METHODS, Call, stats_of, truncated
from nestgrad_jax._rules._linearizations import block_size, pulled_back
from nestgrad_jax._rules._steps import Batches, State, Steps
from nestgrad_jax._tree import flat, tree_norm


@METHODS.register(Unrolled)
def unrolled(spec: Unrolled, problem: BilevelProblem, call: Call) -> HyperGradient:
    """The steps before the window are taken only; those within it are taken and differentiated.

    What fits into a few MiB is stored whole whatever checkpoint_every says, and so are programs with convolutions on a
    CPU under a user's own jit, as no loop may hold them. Long or large runs outside of jit: _rules/_blocks.py.
    """
    steps, batches = Steps(problem.inner), Batches.of(call.inner_batch, call.inner_batches)
    before = spec.num_steps - spec.window
    state = steps.start(call.params, call.hparams, call.opt_state)
    straight = slow_in_loops(lambda s: steps.advance(s, call.hparams, batches.at(0)), state)
    batches = replace(batches, straight=straight)
    if spec.mode == "reverse" and (straight or spec.num_steps <= block_size(steps, state, call.hparams, batches.at(0))):
        return _straight(spec, problem, steps, state, batches, call)
    state = run(steps, state, call.hparams, batches.part(0, before), before)
    window = batches.part(before, spec.num_steps)
    mode = _forward if spec.mode == "forward" else _reverse
    return mode(spec, problem, steps, state, window, call)


def run(steps: Steps, state: State, hparams: Any, batches: Batches, length: int) -> State:
    """The state after `length` steps."""
    if not length:
        return state
    return batches.loop(lambda s, _, batch: (steps.advance(s, hparams, batch), None), state, length)[0]


def _straight(
    spec: Unrolled, problem: BilevelProblem, steps: Steps, state: State, batches: Batches, call: Call
) -> HyperGradient:
    """All steps written out, each linearised as it is taken: nothing is computed twice, and all of it is stored."""
    pulls, before = [], spec.num_steps - spec.window
    first, last = state, state
    for t in range(spec.num_steps):
        last = state
        if t < before:
            first = state = steps.advance(state, call.hparams, batches.at(t))
        else:
            state, pull = steps.linearized(state, call.hparams, batches.at(t))
            pulls.append(pull)
    outer, a_w, a_floats, direct = outer_end(problem, state, call)
    direct = connected(steps, first, batches.at(before), call.hparams, outer, direct)
    adjoint = (a_w, a_floats, jax.tree.map(jnp.zeros_like, call.hparams))
    in_params, _, indirect = pulled_back(pulls, adjoint)
    moved = tree_norm(jax.tree.map(jnp.subtract, state[0], last[0]))
    return result(
        spec, outer.loss, tree_norm(a_w), direct, indirect, state, moved, products=spec.window, adjoint=in_params
    )


def _reverse(
    spec: Unrolled, problem: BilevelProblem, steps: Steps, state: State, batches: Batches, call: Call
) -> HyperGradient:
    """a_t = A_tᵀ a_{t+1} over states that are stored, all of them or one a segment."""
    hparams, length = call.hparams, spec.window
    segment = length if batches.listed is not None else min(spec.segment, length)
    parts = _segments(length, segment)
    end, starts = state, []
    for start, count, size in parts:
        end, kept = _keep(steps, end, hparams, batches.part(start, start + count * size), count, size)
        starts.append(kept)
    outer, a_w, a_floats, direct = outer_end(problem, end, call)
    direct = connected(steps, state, batches.at(0), hparams, outer, direct)
    adjoint = (a_w, a_floats, jax.tree.map(jnp.zeros_like, hparams))
    for (start, count, size), kept in zip(reversed(parts), reversed(starts), strict=True):
        adjoint = _pull_back(steps, adjoint, hparams, batches.part(start, start + count * size), kept, count, size)
    in_params, _, indirect = adjoint
    last = _last_update(steps, parts, starts, batches, end, hparams)
    return result(spec, outer.loss, tree_norm(a_w), direct, indirect, end, last, products=length, adjoint=in_params)


def _segments(length: int, size: int) -> list[tuple[int, int, int]]:
    """(first step, number of segments, steps in each): whole segments, then what is left."""
    whole, left = divmod(length, size)
    parts = [(0, whole, size)] if whole else []
    return [*parts, (whole * size, 1, left)] if left else parts


def _keep(steps: Steps, state: State, hparams: Any, batches: Batches, count: int, size: int) -> tuple[State, Any]:
    """(end, the states to start from again): each step's where there is one segment, else each segment's."""
    if count == 1:
        return batches.loop(lambda s, _, batch: (steps.advance(s, hparams, batch), s), state, size)

    def through(s: State, xs: Any) -> tuple[State, State]:
        return run(steps, s, hparams, _stack_or_same(batches, xs), size), s

    return jax.lax.scan(through, state, _split(batches, count, size), length=count)


def _pull_back(steps: Steps, adjoint: Any, hparams: Any, batches: Batches, kept: Any, count: int, size: int) -> Any:
    def back(carry: Any, state: State, batch: Any) -> tuple[Any, None]:
        return pulled_back([steps.linearized(state, hparams, batch)[1]], carry), None

    if count == 1:
        return batches.loop(back, adjoint, size, xs=kept, reverse=True)[0]

    def through(carry: Any, xs: Any) -> tuple[Any, None]:
        start, part = xs
        inside = _stack_or_same(batches, part)
        _, states = inside.loop(lambda s, _, batch: (steps.advance(s, hparams, batch), s), start, size)
        return inside.loop(back, carry, size, xs=states, reverse=True)[0], None

    return jax.lax.scan(through, adjoint, (kept, _split(batches, count, size)), length=count, reverse=True)[0]


def _split(batches: Batches, count: int, size: int) -> Any:
    """The stacked batches as (segments, steps, …)."""
    return jax.tree.map(lambda x: x.reshape(count, size, *x.shape[1:]), batches.stacked)


def _stack_or_same(batches: Batches, part: Any) -> Batches:
    return batches if batches.stacked is None else Batches(stacked=part)


def outer_end(problem: BilevelProblem, end: State, call: Call) -> tuple[Outer, Any, list[Array], Any]:
    """(outer, ∂L_out/∂w, zeros for the state's floating leaves, ∂L_out/∂λ) at the last weights."""
    outer = outer_gradients(problem.outer_loss, end[0], call.hparams, call.outer_batch)
    by_params, direct = outer.pull(jnp.ones_like(outer.loss))
    return outer, by_params, [jnp.zeros_like(leaf) for leaf in floating_leaves(end[1])[0]], direct


def connected(steps: Steps, state: State, batch: Any, hparams: Any, outer: Outer, direct: Any) -> Any:
    """The direct part, None where the outer loss has no path to hparams.

    Raises DisconnectedHyperparameter for a leaf that neither a step nor the outer loss depends on.
    """
    floats = floating_leaves(state[1])[0]
    vector, restore = ravel_pytree((state[0], floats))
    pull = steps.linearized(state, hparams, batch)[1]
    one = jnp.ones_like(outer.loss)
    paths = reached(lambda x: outer.pull(x)[1], one)
    require_connected(hparams, paths, reached(lambda a: pull(*restore(a))[2], vector))
    return direct if any(paths) else None


def _last_update(steps: Steps, parts: Any, starts: list[Any], batches: Batches, end: State, hparams: Any) -> Array:
    """|w_T - w_{T-1}|."""
    start, count, size = parts[-1]
    kept = starts[-1]
    last = kept[-1] if isinstance(kept, list) else jax.tree.map(lambda x: x[-1], kept)
    if count > 1:
        inside = batches.part(start + (count - 1) * size, start + count * size - 1)
        last = run(steps, last, hparams, inside, size - 1)
    return tree_norm(jax.tree.map(jnp.subtract, end[0], last[0]))


def _forward(
    spec: Unrolled, problem: BilevelProblem, steps: Steps, state: State, batches: Batches, call: Call
) -> HyperGradient:
    """Z_{t+1} = A_t Z_t + B_t, a row for each hyperparameter entry."""
    entries, restore = ravel_pytree(call.hparams)
    floats = floating_leaves(state[1])[0]
    rows = jax.tree.map(lambda x: jnp.zeros((entries.size, *x.shape), x.dtype), (state[0], floats))
    basis = jax.vmap(restore)(jnp.eye(entries.size, dtype=entries.dtype))
    none = jnp.zeros((), entries.dtype)

    def through(carry: Any, _: None, batch: Any) -> tuple[Any, None]:
        now, (in_w, in_floats), _ = carry
        after, tangent = steps.push(now, call.hparams, batch)
        moved = tree_norm(jax.tree.map(jnp.subtract, after[0], now[0]))
        return (after, jax.vmap(tangent)(in_w, in_floats, basis), moved), None

    (end, (in_w, _), last), _ = batches.loop(through, (state, rows, none), spec.window)
    outer, a_w, _, direct = outer_end(problem, end, call)
    direct = connected(steps, state, batches.at(0), call.hparams, outer, direct)
    vector = flat(a_w)
    exact = jax.lax.Precision.HIGHEST
    indirect = restore(jax.vmap(lambda row: jnp.dot(flat(row), vector, precision=exact))(in_w))
    products = spec.window * entries.size
    return result(spec, outer.loss, tree_norm(a_w), direct, indirect, end, last, products=products)


def result(
    spec: Unrolled,
    outer_loss: Array,
    rhs_norm: Array,
    direct: Any,
    indirect: Any,
    end: State,
    last: Array,
    *,
    products: int,
    adjoint: Any = None,
) -> HyperGradient:
    """The result of a run that ended with state `end`; last is |w_T - w_{T-1}|."""
    stats = stats_of(
        end[0],
        indirect,
        adjoint,
        rhs_norm=rhs_norm,
        steps=spec.num_steps,
        products=products,
        inner_optimality=last,
    )
    return truncated(
        direct=direct,
        indirect=indirect,
        outer_loss=outer_loss,
        stats=stats,
        adjoint=adjoint,
        params=end[0],
        opt_state=end[1],
    )
