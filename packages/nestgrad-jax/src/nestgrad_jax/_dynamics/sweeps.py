"""Directions carried along a path and back, in memory that does not grow with its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad_jax._dynamics.flow import At, Flow
from nestgrad_jax._dynamics.orthonormal import orthonormal

_S = TypeVar("_S")


class Sweep(NamedTuple):
    """Where directions have come to. logs: Σ ln diag R so far. bad: the first step that was not finite, or -1."""

    at: At
    rows: Array
    logs: Array
    bad: Array


def begin(at: At, rows: Array) -> Sweep:
    """Before the first step; a point that is not finite is bad at step 0."""
    bad = jnp.where(jnp.isfinite(at[0]).all(), -1, 0).astype(jnp.int32)
    return Sweep(at, rows, jnp.zeros(len(rows), rows.dtype), bad)


def onward(flow: Flow, step: Array, sweep: Sweep) -> Sweep:
    """One step forward, the count of those before it being `step`."""
    at, moved = flow.pushed(sweep.at, sweep.rows)
    rows, grown = orthonormal(moved)
    fine = jnp.isfinite(at[0]).all() & jnp.isfinite(moved).all()
    return Sweep(at, rows, sweep.logs + grown, first_bad(sweep.bad, fine, step))


def first_bad(bad: Array, fine: Array, step: Array) -> Array:
    """The number of the first step that was not fine."""
    return jnp.where((bad < 0) & ~fine, (step + 1).astype(bad.dtype), bad)


def forward(flow: Flow, at: At, rows: Array, num_steps: int) -> Sweep:
    """All steps, not to be differentiated."""
    return lax.fori_loop(0, num_steps, lambda t, sweep: onward(flow, jnp.asarray(t), sweep), begin(at, rows))


def backward(flow: Flow, at: At, rows: Array, num_steps: int) -> tuple[Array, Array]:
    """(rows at the first point of the path, Σ ln diag R) of rows at its end, drawn back by J_tᵀ and QR at each step.

    The points are taken again from those on a stack of at most log2(num_steps) + 2, each halfway from the one below it
    to where the next was sought. Not to be differentiated.
    """
    depth = (num_steps - 1).bit_length() + 1
    stack = jax.tree.map(lambda x: jnp.zeros((depth, *x.shape), x.dtype).at[0].set(x), at)
    places = jnp.zeros(depth, jnp.int32)

    def nearer(target: Array, held: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        stack, places, top = held
        ahead = (target - places[top] + 1) // 2
        here = lax.fori_loop(0, ahead, lambda _, at: flow.step(at), _at(stack, top))
        stack = jax.tree.map(lambda held, x: held.at[top + 1].set(x), stack, here)
        return stack, places.at[top + 1].set(places[top] + ahead), top + 1

    def back(i: Array, s: tuple[Any, Array, Array, Array, Array]) -> tuple[Any, Array, Array, Array, Array]:
        stack, places, top, rows, logs = s
        target = (num_steps - 1 - i).astype(jnp.int32)
        stack, places, top = lax.while_loop(
            lambda held: held[1][held[2]] < target, lambda held: nearer(target, held), (stack, places, top)
        )
        rows, grown = orthonormal(flow.pulled(_at(stack, top), rows))
        return stack, places, jnp.maximum(top - 1, 0), rows, logs + grown

    first = (stack, places, jnp.zeros((), jnp.int32), rows, jnp.zeros(len(rows), rows.dtype))
    *_, rows, logs = lax.fori_loop(0, num_steps, lambda i, s: back(jnp.asarray(i), s), first)
    return rows, logs


PARTS = 4
"""Of as many a stretch of steps is made: as much is kept as of halves, in half the program and half the time."""


def parted(step: Callable[[Array, _S], _S], start: _S, num_steps: int) -> _S:
    """What num_steps of step(count, ·) make of start; its derivative takes parts again, and of each of them its parts.

    Reverse mode keeps 2 log2(num_steps) states, and the program holds the step log4(num_steps) times.
    """
    length, slots = num_steps, 1
    while length > PARTS:
        length, slots = -(-length // PARTS), slots * PARTS
    whole = num_steps == length * slots

    def once(s: tuple[Array, _S]) -> tuple[Array, _S]:
        count, state = s
        if whole:
            return count + 1, step(count, state)
        return count + 1, lax.cond(count < num_steps, lambda state: step(count, state), lambda state: state, state)

    taken = once
    while slots > 1:
        taken, slots = _several(taken, PARTS), slots // PARTS
    return _several(taken, length)((jnp.zeros((), jnp.int32), start))[1]


def _several(part: Callable[[_S], _S], length: int) -> Callable[[_S], _S]:
    if length == 1:
        return part
    again = jax.checkpoint(part, prevent_cse=False)
    return lambda state: lax.scan(lambda s, _: (again(s), None), state, length=length)[0]


def _at(stack: Any, top: Array) -> Any:
    return jax.tree.map(lambda held: held[top], stack)
