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

Adjoint = tuple[Any, list[Array], Any]
"""(a in w, a in the state's floating leaves, the sum of Bᵀa so far)."""

BUDGET = 8 << 20
"""Bytes of stored linearisations up to which a window is one program; larger steps are programs of their own."""
_LONGEST = 32
"""Steps of a program at most: each makes it longer to compile."""


@dataclass(frozen=True, eq=False)
class _Linear:
    """The program of a pull-back; places says which input of the steps stands for a constant, None for one kept."""

    jaxpr: Jaxpr
    places: tuple[int | None, ...]
    tree: Any


@dataclass(frozen=True)
class Kept:
    """A pull-back through one or more steps: its constants, but for those that are inputs of the steps."""

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
    pulls, end, last = [], state, state
    for batch in batches:
        last = end
        end, pull = steps.linearized(end, hparams, batch)
        pulls.append(pull)
    like = (end[0], floating_leaves(end[1])[0], hparams)
    program, shape = jax.make_jaxpr(lambda adjoint: pulled_back(pulls, adjoint), return_shape=True)(like)
    inputs = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves((state, hparams, batches)))}
    places = tuple(inputs.get(id(const)) for const in program.consts)
    arrays = [const for const, place in zip(program.consts, places, strict=True) if place is None]
    return end, last, Kept(arrays, _Linear(program.jaxpr, places, jax.tree.structure(shape)))


def pull(kept: Kept, adjoint: Adjoint, state: State, hparams: Any, batches: Sequence[Any]) -> Adjoint:
    """The adjoint before the steps of `keep`, called with the same state, hparams and batches."""
    inputs, arrays = jax.tree.leaves((state, hparams, batches)), iter(kept.arrays)
    consts = [next(arrays) if place is None else inputs[place] for place in kept.linear.places]
    program = jaxpr_as_fun(ClosedJaxpr(kept.linear.jaxpr, consts))
    return jax.tree.unflatten(kept.linear.tree, program(*jax.tree.leaves(adjoint)))


def block_size(steps: Steps, state: State, hparams: Any, batch: Any) -> int:
    """How many steps go into one program, for their linearisations to stay within the budget; at least 1."""
    end, _, kept = jax.eval_shape(lambda *inputs: keep(steps, *inputs), state, hparams, [batch])
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((end, kept)))
    return max(1, min(_LONGEST, BUDGET // max(1, size)))
