"""Unrolled(mode="reverse") over long or large runs: a loop on the host over compiled blocks of steps.

A block hands out its linearisation and takes it back on the way down. The same two programs serve whether every
linearisation is stored or only a state now and then, from which they are taken again: so the bits are the same. Blocks
are of one step where a step is large: as a program of its own it is as fast as written out with others, and the memory
of one that is taken again is given back, which XLA does not do for steps inside one program.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import BilevelProblem, Unrolled
from nestgrad_jax._calls import settled, shared
from nestgrad_jax._report import Packed, packed
from nestgrad_jax._rules._common import Call
from nestgrad_jax._rules._linearizations import Adjoint, Kept, block_size, keep, pull
from nestgrad_jax._rules._steps import State, Steps
from nestgrad_jax._rules.unrolled import connected, outer_end, result
from nestgrad_jax._tree import is_traced, tree_norm
from nestgrad_jax._warn import note_compilation


def block_of(inner: Any, given: Call) -> int:
    """How many steps of this call go into one program; found once for its shapes."""
    batch = given.inner_batch if given.inner_batches is None else given.inner_batches[0]
    leaves, structure = jax.tree.flatten((given.params, given.hparams, given.opt_state, batch))
    return _block_of(inner, structure, tuple(map(_kind, leaves)))


def _kind(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if isinstance(leaf, Array) else jax.typeof(leaf)


@lru_cache(maxsize=256)
def _block_of(inner: Any, structure: Any, kinds: tuple[Any, ...]) -> int:
    leaves = [jax.ShapeDtypeStruct(*kind) if isinstance(kind, tuple) else kind for kind in kinds]
    found: list[int] = []

    def size(params: Any, hparams: Any, opt_state: Any, batch: Any) -> None:
        call = settled(Call(params=params, hparams=hparams, opt_state=opt_state, inner_batch=batch))
        state = Steps(inner).start(call.params, call.hparams, opt_state)
        found.append(block_size(Steps(inner), state, call.hparams, batch))

    jax.eval_shape(size, *jax.tree.unflatten(structure, leaves))
    return found[0]


def stepwise(spec: Unrolled, problem: BilevelProblem, given: Call, block: int) -> Packed | None:
    """The packed result, by blocks of that many steps; None inside a trace, which has no loop on the host."""
    call, inner = settled(given), problem.inner
    hparams, before = call.hparams, spec.num_steps - spec.window
    batches = [call.inner_batch] * spec.num_steps if call.inner_batches is None else call.inner_batches
    state = _start(inner, call.params, hparams, call.opt_state)
    if is_traced(state):
        return None
    for t in range(0, before, block):
        state = _go(inner, state, hparams, shared(batches[t : min(t + block, before)]))
    parts = [shared(batches[t : t + block]) for t in range(before, spec.num_steps, block)]
    segment = len(parts) if spec.checkpoint_every is None else -(-spec.segment // block)
    ends = _Ends(problem, call, parts[0], state)
    adjoint, state, outs = _down(inner, state, hparams, parts, segment, ends)
    return _finish(spec, problem, adjoint, state, outs)


def _down(
    inner: Any, state: State, hparams: Any, parts: list[Any], segment: int, ends: Callable[[State, State], Any]
) -> tuple[Adjoint, State, Any]:
    """Forward, storing a state a segment; then back, a segment taken again before it is pulled through."""
    starts: list[State] = []
    held: list[tuple[State, Kept]] = []
    last = state
    for i, part in enumerate(parts):
        if i % segment == 0:
            starts.append(state)
            held = []
        entered = state
        state, last, kept = _keep(inner, entered, hparams, part)
        held.append((entered, kept))
    end, (adjoint, outs) = state, ends(state, last)
    for first in range(len(starts) * segment - segment, -1, -segment):
        inside = parts[first : first + segment]
        if not held:
            state = starts[first // segment]
            for part in inside:
                entered = state
                state, _, kept = _keep(inner, entered, hparams, part)
                held.append((entered, kept))
        for part in reversed(inside):
            entered, kept = held.pop()
            adjoint = _pull(kept, adjoint, entered, hparams, part)
    return adjoint, end, outs


class _Ends:
    """The outer loss at the end of the steps, with the check that needs the first of them."""

    def __init__(self, problem: BilevelProblem, call: Call, part: Any, state: State) -> None:
        self._problem, self._call, self._first, self._batch = problem, call, state, part[0][0]

    def __call__(self, end: State, last: State) -> tuple[Adjoint, Any]:
        call = self._call
        return _outer(self._problem, end, last, call.hparams, call.outer_batch, self._first, self._batch)


@partial(jax.jit, static_argnums=0)
def _start(inner: Any, params: Any, hparams: Any, opt_state: Any) -> State:
    return Steps(inner).start(params, hparams, opt_state)


def _go(inner: Any, state: State, hparams: Any, part: Any) -> State:
    return _go_compiled(inner, state, hparams, *part)


@partial(jax.jit, static_argnums=(0, 4))
def _go_compiled(inner: Any, state: State, hparams: Any, distinct: Any, which: tuple[int, ...]) -> State:
    for i in which:
        state = Steps(inner).advance(state, hparams, distinct[i])
    return state


def _keep(inner: Any, state: State, hparams: Any, part: Any) -> tuple[State, State, Kept]:
    return _keep_compiled(inner, state, hparams, *part)


@partial(jax.jit, static_argnums=(0, 4))
def _keep_compiled(inner: Any, state: State, hparams: Any, distinct: Any, which: tuple[int, ...]) -> Any:
    return keep(Steps(inner), state, hparams, [distinct[i] for i in which])


def _pull(kept: Kept, adjoint: Adjoint, state: State, hparams: Any, part: Any) -> Adjoint:
    return _pull_compiled(kept, adjoint, state, hparams, *part)


@partial(jax.jit, static_argnums=5, donate_argnums=1)
def _pull_compiled(
    kept: Kept, adjoint: Adjoint, state: State, hparams: Any, distinct: Any, which: tuple[int, ...]
) -> Adjoint:
    return pull(kept, adjoint, state, hparams, [distinct[i] for i in which])


@partial(jax.jit, static_argnums=0)
def _outer(
    problem: BilevelProblem, end: State, last: State, hparams: Any, outer_batch: Any, first: State, batch: Any
) -> tuple[Adjoint, Any]:
    call = Call(params=end[0], hparams=hparams, outer_batch=outer_batch)
    outer, a_w, a_floats, direct = outer_end(problem, end, call)
    direct = connected(Steps(problem.inner), first, batch, hparams, outer, direct)
    moved = tree_norm(jax.tree.map(jnp.subtract, end[0], last[0]))
    return (a_w, a_floats, jax.tree.map(jnp.zeros_like, hparams)), (outer.loss, tree_norm(a_w), direct, moved)


@partial(jax.jit, static_argnums=(0, 1))
def _finish(spec: Unrolled, problem: BilevelProblem, adjoint: Adjoint, end: State, outs: Any) -> Packed:
    in_params, _, indirect = adjoint
    loss, rhs_norm, direct, moved = outs
    note_compilation(problem, spec, (adjoint, end))
    return packed(result(spec, loss, rhs_norm, direct, indirect, end, moved, products=spec.window, adjoint=in_params))
