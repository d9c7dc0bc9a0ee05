"""The linearisations of several steps as arrays that a compiled program can hand out, and take back later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from nestgrad_jax._derivatives import floating_leaves
from nestgrad_jax._rules._steps import Pull, State, Steps
from nestgrad_jax._rules._stored import Rebuild, choose

Adjoint = tuple[Any, list[Array], Any]
"""(a in w, a in the state's floating leaves, the sum of Bᵀa so far)."""

BUDGET = 8 << 20
"""Bytes of stored linearisations up to which a window is one program; larger steps are programs of their own."""
_LONGEST = 32
"""Steps of a program at most: each makes it longer to compile."""


@dataclass(frozen=True, eq=False)
class _Linear:
    """The program of a pull-back, and what gives its constants from the inputs of the steps and the arrays stored."""

    jaxpr: Jaxpr
    constants: Rebuild
    tree: Any


@dataclass(frozen=True)
class Kept:
    """A pull-back through one or more steps: of its constants, what must be stored."""

    arrays: list[Array]
    linear: _Linear


jax.tree_util.register_dataclass(Kept, data_fields=["arrays"], meta_fields=["linear"])


def pulled_back(pulls: Sequence[Pull], adjoint: Adjoint) -> Adjoint:
    """The adjoint before the steps, from that after them."""
    a_w, a_floats, total = adjoint
    for pull in reversed(pulls):
        a_w, a_floats, in_hparams = pull(a_w, a_floats)
        total = jax.tree.map(jnp.add, total, in_hparams)
    return a_w, a_floats, total


def keep(steps: Steps, state: State, hparams: Any, batches: Sequence[Any]) -> tuple[State, State, Kept]:
    """(the state after a step on each batch, the state before the last, the pull-back through them)."""
    found: list[tuple[Jaxpr, Any]] = []

    def run(state: State, hparams: Any, batches: Sequence[Any]) -> tuple[State, State, list[Any]]:
        pulls, end, last = [], state, state
        for batch in batches:
            last = end
            end, pull = steps.linearized(end, hparams, batch)
            pulls.append(pull)
        like = (end[0], floating_leaves(end[1])[0], hparams)
        linear, shape = jax.make_jaxpr(lambda adjoint: pulled_back(pulls, adjoint), return_shape=True)(like)
        found.append((linear.jaxpr, jax.tree.structure(shape)))
        return end, last, linear.consts

    inputs = jax.tree.leaves((state, hparams, batches))
    program, shape = jax.make_jaxpr(run, return_shape=True)(state, hparams, batches)
    (linear, tree), count = found[0], len(shape[2])
    outs, wanted = _parted(program.jaxpr.outvars, count)
    constants = choose(program.jaxpr, wanted)
    whole = program.jaxpr.replace(outvars=[*outs, *constants.stored])
    values = jaxpr_as_fun(ClosedJaxpr(whole, program.consts))(*inputs)
    ends, arrays = _parted(values, len(constants.stored))
    end, last = jax.tree.unflatten(jax.tree.structure(shape[:2]), ends)
    return end, last, Kept(arrays, _Linear(linear, constants, tree))


def _parted(values: Sequence[Any], count: int) -> tuple[list[Any], list[Any]]:
    """(all but the last `count` values, these)."""
    place = len(values) - count
    return list(values[:place]), list(values[place:])


def pull(kept: Kept, adjoint: Adjoint, state: State, hparams: Any, batches: Sequence[Any]) -> Adjoint:
    """The adjoint before the steps of `keep`, called with the same state, hparams and batches."""
    consts = kept.linear.constants(jax.tree.leaves((state, hparams, batches)), kept.arrays)
    program = jaxpr_as_fun(ClosedJaxpr(kept.linear.jaxpr, consts))
    return jax.tree.unflatten(kept.linear.tree, program(*jax.tree.leaves(adjoint)))


def block_size(steps: Steps, state: State, hparams: Any, batch: Any) -> int:
    """How many steps go into one program, for their linearisations to stay within the budget; at least 1."""
    end, _, kept = jax.eval_shape(lambda *inputs: keep(steps, *inputs), state, hparams, [batch])
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((end, kept)))
    return max(1, min(_LONGEST, BUDGET // max(1, size)))
