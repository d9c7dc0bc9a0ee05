"""What players descend, from the dense game Jacobian; nestgrad._games.directions defines each.

All of it is differentiable in ω, as often as the losses are: choices and signs are constants of where they are made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from autograd.extend import defvjp, primitive

from nestgrad import (
    GMRES,
    LOLA,
    SOS,
    CompetitiveGradient,
    Consensus,
    Direction,
    Extragradient,
    Game,
    GameDirection,
    Implicit,
    InvalidInput,
    LookAhead,
    NonFinite,
    Simultaneous,
    Stats,
    Status,
    SymplecticAdjustment,
    error_for,
)
from nestgrad_reference._derivatives import independence_is_no_news
from nestgrad_reference._rules.implicit import scale_of
from nestgrad_reference._solvers._common import EPS, SOLVERS, Extras
from nestgrad_reference._tree import Vector, plain, xp
from nestgrad_reference.games._field import Field


def game_direction(
    game: Game,
    players: Any,
    batch: Any = None,
    *,
    method: Direction = Simultaneous(),  # noqa: B008  (frozen)
    throw: bool = True,
) -> GameDirection:
    """The losses, ĝ and the method's direction at the players given, trees like players.

    throw: raise NonFinite naming the player, or the error of a linear solve that did not converge.
    """
    field = Field(game, players, batch)
    found = direct(field, method, throw=throw)
    if throw:
        require_finite(field, found.gradient, "gradient")
        require_finite(field, found.direction, "direction")
    trees = {part: field.as_players(getattr(found, part)) for part in ("gradient", "direction")}
    return replace(found, **trees)


def direct(field: Field, method: Any, *, throw: bool) -> GameDirection:
    """As game_direction, with vectors in place of trees, and no look at whether they are finite; differentiable."""
    if not isinstance(method, Direction):
        raise InvalidInput(
            f"game_direction: method {method!r}, limit: one of nestgrad.Direction. Remedy: pass Simultaneous()."
        )
    w = field.vector
    with independence_is_no_news():
        slopes = field.slopes(w)
    xi = field.joint(slopes)
    vector, products = _direction(method, field, slopes, xi, throw)
    return GameDirection(losses=field.losses(plain(w)), gradient=xi, direction=vector, products=products)


def require_finite(field: Field, vector: Vector, what: str, where: str = "") -> None:
    """Raise NonFinite naming the first player in whose part of the vector there is a NaN or an infinity."""
    for name, block in field.blocks.items():
        bad, size = int(np.sum(~np.isfinite(vector[block]))), block.stop - block.start
        if bad:
            raise NonFinite(
                f"{f'{where}: ' if where else ''}{what} of player {name!r}: {bad} of {size} entries are NaN or "
                "infinite, limit 0. Remedy: look at the loss there, or take smaller steps.",
                Status.NONFINITE,
                Stats(),
            )


@dataclass(frozen=True, slots=True)
class _Dense:
    """Ĝ, H_o, and χ, at one point."""

    game: Any
    others: Any
    chi: Any


def _dense(field: Field, slopes: dict[str, Any]) -> _Dense:
    game, others = field.jacobian(field.vector), np.ones((field.size, field.size))
    for block in field.blocks.values():
        others[block, block] = 0.0
    others, chi = xp.where(others > 0.0, game, 0.0), list[Any]()
    for name, block in field.blocks.items():
        mine = others[:, block]  # of all others' gradients in ω_i; this player's own rows are zero
        chi.append(mine.T @ slopes[name])
    return _Dense(game, others, xp.concatenate(chi))


def _direction(method: Direction, field: Field, slopes: dict[str, Any], xi: Any, throw: bool) -> tuple[Any, int]:
    """(the direction, how many products it takes where the Jacobian is not at hand)."""
    if isinstance(method, Simultaneous):
        return 1.0 * xi, 0
    if isinstance(method, Extragradient):
        with independence_is_no_news():
            return field.joint(field.slopes(field.vector - method.step_size * xi)), 0
    if isinstance(method, LOLA) and not method.first_order:
        parts = [field.shaped_gradient(name, field.vector, method.look_ahead) for name in field.blocks]
        return xp.concatenate(parts), 0
    at = _dense(field, slopes)
    match method:
        case Consensus(weight=weight):
            return xi + weight * (at.game.T @ xi), 1
        case SymplecticAdjustment():
            return _symplectic(method, at.game, xi), 2
        case LookAhead(look_ahead=eta):
            return xi - eta * (at.others @ xi), 1
        case LOLA(look_ahead=eta):
            return xi - eta * (at.others @ xi + at.chi), 2
        case SOS():
            return _sos(method, at, xi), 2
        case CompetitiveGradient():
            return _competitive(method, at.others, xi, throw)


def _symplectic(method: SymplecticAdjustment, game: Any, xi: Any) -> Any:
    forward, back = game @ xi, game.T @ xi
    adjustment, weight = 0.5 * (back - forward), method.weight
    if method.align:
        weight = weight * xp.sign((xi @ back) * (adjustment @ back) / xi.size + 0.1)
    return xi + weight * adjustment


def _sos(method: SOS, at: _Dense, xi: Any) -> Any:
    eta = method.look_ahead
    xi_0, shaping = xi - eta * (at.others @ xi), -eta * at.chi
    along, squared = shaping @ xi_0, xi @ xi
    safe = 1.0 if along >= 0.0 else min(1.0, -method.a * (xi_0 @ xi_0) / along)
    near = squared if squared < method.b**2 else 1.0
    return xi_0 + min(safe, near) * shaping


def _competitive(method: CompetitiveGradient, others: Any, xi: Any, throw: bool) -> tuple[Any, int]:
    solver = GMRES(rtol=method.rtol, max_steps=method.max_steps)
    matrix, rhs = np.eye(xi.size) + method.step_size * others, plain(xi)
    scale = scale_of(rhs)
    solve = SOLVERS(solver, plain(matrix), rhs / scale, False, scale, Extras())
    if throw and not solve.status.ok and solve.status is not Status.NONFINITE:  # which has a player to be named
        stats = Stats(
            residual_norm=solve.residual_norm * scale,
            rhs_norm=float(np.linalg.norm(rhs)),
            steps=solve.steps,
            products=solve.products,
            curvature=solve.curvature,
            eps=EPS,
        )
        raise error_for(solve.status, Implicit(solver=solver), stats, where=repr(method))
    return _solved(matrix, xi, scale * solve.solution), solve.products


def _back(matrix: Any, slopes: Any) -> Any:
    """matrix⁻ᵀ slopes; NaN where there is none."""
    try:
        return xp.linalg.solve(matrix.T, slopes)
    except np.linalg.LinAlgError:
        return slopes * np.nan


_solved: Any = primitive(lambda matrix, rhs, solution: solution)
"""The solution that GMRES found, with the derivative of matrix⁻¹ rhs."""
defvjp(
    _solved,
    lambda found, matrix, rhs, solution: lambda slopes: -xp.outer(_back(matrix, slopes), found),
    lambda found, matrix, rhs, solution: lambda slopes: _back(matrix, slopes),
    argnums=(0, 1),
)
