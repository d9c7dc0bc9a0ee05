"""The loops of a branching search over states of play, each one compiled program; nestgrad's Explorer says what for."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import Ascent, ExponentSpectrum, PlayState
from nestgrad_jax._dynamics.exponents import compiled_gradient, place_of
from nestgrad_jax._dynamics.flow import At, Flow, Form
from nestgrad_jax._dynamics.measure import measure
from nestgrad_jax._dynamics.orthonormal import orthonormal
from nestgrad_jax._games.field import Field
from nestgrad_jax._games.moves import Moves
from nestgrad_jax._tree import moved_by, tree_norm


class Descended(NamedTuple):
    """Where play has come to, with each player's loss and the joint direction's norm there."""

    state: PlayState
    losses: dict[str, Array]
    norm: Array
    steps: Array
    ended: Array


@partial(jax.jit, static_argnames="moves")
def descended(moves: Moves, state: PlayState, batch: Any, max_steps: Array, tolerance: Array) -> Descended:
    """Play until the norm is at the tolerance or not finite, or for max_steps."""

    def once(s: Descended) -> Descended:
        found = moves.look(s.state, batch)
        norm = tree_norm(found.direction)
        # The last turn of the loop only looks: what is told is of the state that is returned.
        ended = (norm <= tolerance.astype(norm.dtype)) | ~jnp.isfinite(norm) | (s.steps >= max_steps)
        if moves.turns == "alternating":
            after = moves.in_turn(s.state, batch).state
        else:
            after = moves.at_once(found.direction, s.state)
        state = jax.tree.map(lambda new, old: jnp.where(ended, old, new), after, s.state)
        return Descended(state, found.losses, norm, s.steps + (~ended).astype(jnp.int32), ended)

    shapes = jax.eval_shape(moves.look, state, batch)
    nothing = jnp.zeros((), jax.eval_shape(tree_norm, shapes.direction).dtype)
    losses = {name: jnp.zeros(loss.shape, loss.dtype) for name, loss in shapes.losses.items()}
    first = Descended(state, losses, nothing, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    return lax.while_loop(lambda s: ~s.ended, once, first)


class _Ridden(NamedTuple):
    at: At
    rows: Array
    along: Array
    steps: Array
    exponent: Array


@partial(jax.jit, static_argnames=("moves", "num_steps", "method"))
def ridden(
    moves: Moves,
    num_steps: int,
    method: ExponentSpectrum,
    state: PlayState,
    directions: Any,
    which: Array,
    move: Array,
    least: Array,
    max_steps: Array,
    batch: Any,
) -> tuple[PlayState, Array]:
    """(the state at the end of the ridge, steps on it): by `move` along the direction, which is then found anew."""
    form = Form.of(state)
    flow = Flow(form, lambda tree: moves(tree, batch))
    rows = form.rows(directions)

    def once(s: _Ridden) -> _Ridden:
        vector, rest = s.at
        at = (vector + move.astype(vector.dtype) * s.along, rest)
        found = measure(flow, at, method, num_steps, orthonormal(s.rows)[0], jnp.zeros((), bool), attached=False)
        overlaps = jnp.matmul(found.rows, s.along, precision=lax.Precision.HIGHEST)
        nearest = jnp.argmax(jnp.abs(overlaps))
        along = found.rows[nearest] * jnp.where(overlaps[nearest] < 0, -1.0, 1.0).astype(vector.dtype)
        return _Ridden(at, found.rows, along, s.steps + 1, found.exponents[nearest])

    def more(s: _Ridden) -> Array:
        return (s.exponent > least.astype(s.exponent.dtype)) & (s.steps < max_steps)

    begun = _Ridden(form.split(state), rows, rows[which], jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, rows.dtype))
    end = lax.while_loop(more, once, begun)
    return form.joined(end.at), end.steps


@partial(jax.jit, static_argnames="form")
def moved(form: Form, state: PlayState, directions: Any, which: Array, distance: Array) -> PlayState:
    """state + distance · d."""
    vector, rest = form.split(state)
    return form.joined((vector + distance.astype(vector.dtype) * form.rows(directions)[which], rest))


@partial(jax.jit, static_argnames="moves")
def mean_loss(moves: Moves, state: PlayState, batch: Any) -> Array:
    """Of all players."""
    field = Field(moves.game, batch)
    losses = [field.loss(name)(state["players"]) for name in moves.game.names]
    return sum(losses[1:], losses[0]) / len(losses)


class _Climb(NamedTuple):
    players: Any
    opt_state: Any
    bad: Array


@partial(jax.jit, static_argnames=("moves", "num_steps", "method", "ascent"))
def ascended(
    moves: Moves,
    num_steps: int,
    method: ExponentSpectrum,
    ascent: Ascent,
    players: Any,
    key: Array,
    batch: Any,
) -> tuple[PlayState, Array]:
    """(play at players moved up the objective by the ascent's rule, the first step that was not finite or -1)."""
    rule, which = ascent.optimizer, place_of(ascent.objective)

    def once(step: Array, s: _Climb) -> _Climb:
        at = moves.init(s.players, jnp.zeros((), jnp.int32))
        found, _ = compiled_gradient(moves, num_steps, method, which, at, None, key, (batch,))
        slopes = jax.tree.map(jnp.negative, found.gradient["players"])
        updates, opt_state = rule.update(slopes, s.opt_state, s.players)
        fine = jnp.isfinite(tree_norm(slopes))
        bad = jnp.where((s.bad < 0) & ~fine, (step + 1).astype(jnp.int32), s.bad)
        return _Climb(moved_by(s.players, updates), opt_state, bad)

    first = _Climb(players, rule.init(players), jnp.full((), -1, jnp.int32))
    end = lax.fori_loop(0, ascent.steps, lambda t, s: once(jnp.asarray(t), s), first)
    return moves.init(end.players, jnp.zeros((), jnp.int32)), end.bad
