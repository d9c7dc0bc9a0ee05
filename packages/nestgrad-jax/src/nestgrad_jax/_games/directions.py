"""What players descend, a rule for each of the core's directions; nestgrad._games.directions defines them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from nestgrad import (
    GMRES,
    LOLA,
    SOS,
    CompetitiveGradient,
    Consensus,
    Extragradient,
    LookAhead,
    Rules,
    Simultaneous,
    Status,
    SymplecticAdjustment,
)
from nestgrad_jax._games.field import Field
from nestgrad_jax._solvers import gmres  # noqa: F401  (fills the table)
from nestgrad_jax._solvers._common import SOLVERS, Operator, Solve, System
from nestgrad_jax._tree import dot, entries, flat, power_of_two, tree_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A direction with what it was made from. solve: how a linear solve for it ended, its residual in the units of ξ.

    A direction whose solve failed is NaN, so that it is not taken for one where nothing can be raised.
    """

    losses: Any
    gradient: Any
    direction: Any
    products: Any = 0
    solve: Solve | None = None


jax.tree_util.register_dataclass(Found)


PLAIN = Simultaneous()
"""What players descend if nothing else is asked for."""

DIRECTIONS: Rules[[Field, Any], Found] = Rules("jax")
"""rule(spec, field, players) -> Found, traced."""


@DIRECTIONS.register(Simultaneous)
def simultaneous(spec: Simultaneous, field: Field, players: Any) -> Found:
    """No product."""
    gradient, losses = field.joint(players)
    return Found(losses=losses, gradient=gradient, direction=gradient)


@DIRECTIONS.register(Extragradient)
def extragradient(spec: Extragradient, field: Field, players: Any) -> Found:
    """No product, and a second joint gradient."""
    gradient, losses = field.joint(players)
    ahead, _ = field.joint(_less(players, spec.step_size, gradient))
    return Found(losses=losses, gradient=gradient, direction=ahead)


@DIRECTIONS.register(Consensus)
def consensus(spec: Consensus, field: Field, players: Any) -> Found:
    """One product, with Ĝᵀ."""
    gradient, pull, losses = field.pulled_back(players)
    direction = _less(gradient, -spec.weight, pull(gradient))
    return Found(losses=losses, gradient=gradient, direction=direction, products=1)


@DIRECTIONS.register(SymplecticAdjustment)
def symplectic_adjustment(spec: SymplecticAdjustment, field: Field, players: Any) -> Found:
    """Two products, with Ĝ and with Ĝᵀ, of one linearisation."""
    gradient, push, losses = field.linearized(players)
    (back,) = jax.linear_transpose(push, players)(gradient)
    turned = jax.tree.map(lambda down, along: 0.5 * (down - along), back, push(gradient))
    weight: Any = spec.weight
    if spec.align:
        signs = _dot(gradient, back) * _dot(turned, back) / entries(players) + 0.1
        weight = weight * jnp.sign(signs)
    return Found(losses=losses, gradient=gradient, direction=_less(gradient, -weight, turned), products=2)


@DIRECTIONS.register(LookAhead)
def look_ahead(spec: LookAhead, field: Field, players: Any) -> Found:
    """One product, with H_o."""
    gradient, push, losses = field.across(players)
    direction = _less(gradient, spec.look_ahead, push(gradient))
    return Found(losses=losses, gradient=gradient, direction=direction, products=1)


@DIRECTIONS.register(LOLA)
def lola(spec: LOLA, field: Field, players: Any) -> Found:
    """Through the others' steps themselves, or to first order by two products."""
    if spec.first_order:
        gradient, push, losses = field.across(players)
        both = jax.tree.map(jnp.add, push(gradient), field.shaping(players))
        direction = _less(gradient, spec.look_ahead, both)
        return Found(losses=losses, gradient=gradient, direction=direction, products=2)
    gradient, losses = field.joint(players)

    def part(name: str) -> Any:
        loss = field.loss(name)

        def shaped(own: Any) -> Array:
            now = {**players, name: own}
            others = [other for other in field.game.names if other != name]
            moved = {other: _less(now[other], spec.look_ahead, field.slope(other, now)[1]) for other in others}
            return loss({**now, **moved})

        return jax.grad(shaped)(players[name])

    return Found(losses=losses, gradient=gradient, direction={name: part(name) for name in field.game.names})


@DIRECTIONS.register(SOS)
def sos(spec: SOS, field: Field, players: Any) -> Found:
    """Two products: H_o ξ and χ."""
    gradient, push, losses = field.across(players)
    ahead = _less(gradient, spec.look_ahead, push(gradient))
    shaping = jax.tree.map(lambda x: -spec.look_ahead * x, field.shaping(players))
    along, square = _dot(shaping, ahead), _dot(gradient, gradient)
    against = along < 0
    bound = -spec.a * _dot(ahead, ahead) / jnp.where(against, along, -jnp.ones_like(along))
    first = jnp.where(against, jnp.minimum(jnp.ones_like(bound), bound), jnp.ones_like(bound))
    # |ξ| itself has no derivative where it is zero.
    second = jnp.where(square < spec.b**2, square, jnp.ones_like(square))
    share = jnp.minimum(first, second)
    return Found(losses=losses, gradient=gradient, direction=_less(ahead, -share, shaping), products=2)


@DIRECTIONS.register(CompetitiveGradient)
def competitive_gradient(spec: CompetitiveGradient, field: Field, players: Any) -> Found:
    """As many products as GMRES takes."""
    gradient, push, losses = field.across(players)
    vector, restore = ravel_pytree(gradient)

    def apply(x: Array) -> Array:
        return x + spec.step_size * flat(push(restore(x)))

    def solution(apply: Operator, rhs: Array) -> tuple[Array, Solve]:
        scale = power_of_two(tree_norm(rhs))
        whole = System(
            apply=apply,
            adjoint=lambda x: jax.linear_transpose(apply, x)(x)[0],
            rhs=rhs / scale,
            scale=scale,
            symmetric=False,
        )
        solve = SOLVERS(GMRES(rtol=spec.rtol, max_steps=spec.max_steps), whole)
        found = jnp.where(solve.status <= int(Status.IDLE), scale * solve.solution, jnp.full_like(rhs, jnp.nan))
        return found, replace(solve, solution=None, residual_norm=scale * solve.residual_norm)

    # Its derivatives are solves of their own, not those of the steps that a solve took.
    found, solve = lax.custom_linear_solve(apply, vector, solution, solution, has_aux=True)
    return Found(
        losses=losses,
        gradient=gradient,
        direction=restore(found),
        products=solve.products,
        solve=solve,
    )


def _less(tree: Any, share: Any, other: Any) -> Any:
    """x - share · y, leaf by leaf."""
    return jax.tree.map(lambda x, y: x - share * y, tree, other)


def _dot(one: Any, other: Any) -> Array:
    return dot(flat(one), flat(other))
