"""What players descend who see what others will do, where that is known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import (
    LOLA,
    SOS,
    BilevelProblem,
    CompetitiveGradient,
    Consensus,
    Dense,
    Extragradient,
    Game,
    LookAhead,
    Minimize,
    Simultaneous,
    SymplecticAdjustment,
    tree,
)
from nestgrad_conformance import tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems.games import (
    PLAYERS,
    curved_game,
    dilemma_batch,
    dilemma_game,
    linear_batch,
    linear_game,
    linear_jacobian,
    lonely_game,
    tandem_game,
)
from nestgrad_conformance.problems.quadratic import QuadraticInner, QuadraticOuter, quadratic
from nestgrad_conformance.registry import check

_ETA, _WEIGHT = 0.3, 0.4
_EXACT, _FIRST = LOLA(look_ahead=_ETA), LOLA(look_ahead=_ETA, first_order=True)
_AHEAD, _SOS = LookAhead(look_ahead=_ETA), SOS(look_ahead=_ETA)
_COMPETITIVE = CompetitiveGradient(step_size=_ETA, rtol=1e-6)
_ALIGNED, _TURNED = SymplecticAdjustment(weight=_WEIGHT), SymplecticAdjustment(weight=_WEIGHT, align=False)
_KNOWN = (
    Simultaneous(),
    Extragradient(step_size=_ETA),
    Consensus(weight=_WEIGHT),
    _ALIGNED,
    _TURNED,
    _AHEAD,
    _EXACT,
    _FIRST,
    _SOS,
    _COMPETITIVE,
)
_BLIND = (
    LookAhead(look_ahead=0.0),
    LOLA(look_ahead=0.0),
    LOLA(look_ahead=0.0, first_order=True),
    SOS(look_ahead=0.0),
    Consensus(weight=0.0),
    SymplecticAdjustment(weight=0.0),
)
_TIT_FOR_TAT, _DEFECTION = 80.0 * np.array([1.0, 1.0, -1.0, 1.0, -1.0]), np.full(5, -80.0)
_SENTENCES = (  # (the players' logits, whether of the small game, each player's years)
    ((-80.0, -80.0), True, (1.9590639972476165, 1.9590639972476165)),
    ((80.0, 80.0), True, (1.0, 1.0)),
    ((0.0, 0.0), True, (1.8436208881352993, 1.8436208881352993)),
    ((30.0, -30.0), True, (2.102345068718576, 1.6894059319451813)),
    ((_DEFECTION, _DEFECTION), False, (2.0, 2.0)),
    ((_TIT_FOR_TAT, _TIT_FOR_TAT), False, (1.0, 1.0)),
)


def _found(ctx: Context, game: Game, players: Any, batch: Any, method: Any) -> Any:
    backend: Any = ctx.harness.backend
    return backend.game_direction(game, ctx.arrays(players), ctx.arrays(batch), method=method)


def _close(ctx: Context, found: Any, vector: np.ndarray, what: str, *, size: float = 1.0, near: float = 0.0) -> None:
    """Trees of both players against a vector, to 1000 roundings of the larger of it and the size, and `near` beside."""
    limit = 1000 * tolerances.eps(ctx.dtype)
    scale = max(size, float(np.linalg.norm(vector))) + near / limit
    ctx.close(found, _players(vector), limit, what=what, scale=np.full(vector.size, scale))


def _players(vector: np.ndarray) -> dict[str, Any]:
    return {name: {"w": part} for name, part in zip(PLAYERS, np.split(vector, 2), strict=True)}


def _vector(ctx: Context, players: Any) -> np.ndarray:
    return np.concatenate([ctx.numpy(players)[name]["w"] for name in PLAYERS])


def _known(method: Any, jacobian: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The direction at ω where ĝ = Ĝω and each loss is affine in the other player."""
    xi, others = jacobian @ w, _others(jacobian)
    ahead = xi - _ETA * others @ xi
    # χ is (BC)ᵀx and (CB)ᵀy: ∂L_1/∂y is Bᵀx, and C the slope of y's gradient in x
    shaping = -_ETA * (others @ others).T @ w
    match method:
        case Simultaneous():
            return xi
        case Extragradient():
            return jacobian @ (w - _ETA * xi)
        case Consensus():
            return xi + _WEIGHT * jacobian.T @ xi
        case SymplecticAdjustment(align=align):
            turned = 0.5 * (jacobian.T - jacobian) @ xi
            along = (xi @ jacobian.T @ xi) * (turned @ jacobian.T @ xi) / w.size + 0.1
            return xi + _WEIGHT * (np.sign(along) if align else 1.0) * turned
        case LookAhead():
            return ahead
        case LOLA():
            return ahead + shaping
        case SOS(a=a, b=b):
            along, size = shaping @ ahead, np.linalg.norm(xi)
            safe = 1.0 if along >= 0.0 else min(1.0, -a * (ahead @ ahead) / along)
            return ahead + min(safe, size**2 if size < b else 1.0) * shaping
        case _:
            return np.linalg.solve(np.eye(w.size) + _ETA * others, xi)


def _others(jacobian: np.ndarray) -> np.ndarray:
    """H_o."""
    half = len(jacobian) // 2
    return jacobian * np.kron(1.0 - np.eye(2), np.ones((half, half)))


@check("game_direction")
def directions_in_linear_games_have_closed_forms(ctx: Context, draw: Draw) -> None:
    """Every direction on ĝ = Ĝω of drawn blocks, near the point of rest and far from it."""
    method, batch, w = draw.pick(_KNOWN, "direction"), linear_batch(draw, 2), draw.normal(4)
    w *= draw.pick((1.0, 0.01), "distance")  # SOS has one share near the point and another far from it
    jacobian, at = linear_jacobian(ctx.seen(batch)), ctx.seen(w)
    found = _found(ctx, linear_game(ctx.harness), _players(w), batch, method)
    near = 0.0
    if isinstance(method, CompetitiveGradient):  # as near as its solve has to be
        inverse = np.linalg.inv(np.eye(4) + _ETA * _others(jacobian))
        near = method.rtol * float(np.linalg.norm(inverse, 2) * np.linalg.norm(jacobian @ at))
    size = float(np.linalg.norm(at) * (1.0 + np.linalg.norm(jacobian)) ** 2)
    _close(ctx, found.gradient, jacobian @ at, "gradient", size=size)
    _close(ctx, found.direction, _known(method, jacobian, at), "direction", size=size, near=near)


@check("game_direction")
def players_of_a_rotation_shape_by_twice_what_they_look_ahead(ctx: Context, draw: Draw) -> None:
    """O1: where x descends σxy and y -σxy, LOLA is (σy + 2ησ²x, 2ησ²y - σx) in both forms, LookAhead has ησ² there."""
    method, sigma, w = draw.pick((_EXACT, _FIRST, _AHEAD), "direction"), draw.number(0.3, 2.0, "σ"), draw.normal(4)
    batch = {
        name: (np.zeros((2, 2)), sign * sigma * np.eye(2)) for name, sign in zip(PLAYERS, (1.0, -1.0), strict=True)
    }
    found = _found(ctx, linear_game(ctx.harness), _players(w), batch, method)
    x, y = np.split(ctx.seen(w), 2)
    pull = (1.0 if method is _AHEAD else 2.0) * _ETA * sigma**2
    wanted = np.concatenate([sigma * y + pull * x, pull * y - sigma * x])
    _close(ctx, found.direction, wanted, "direction", size=float(np.linalg.norm(w)))


@check("game_direction")
def lola_is_its_first_order_where_losses_are_affine(ctx: Context, draw: Draw) -> None:
    """O1: through the other's step or to first order in it, where a loss is affine in the other player."""
    batch, w, game = linear_batch(draw, 2), draw.normal(4), linear_game(ctx.harness)
    exact, first = (_found(ctx, game, _players(w), batch, method).direction for method in (_EXACT, _FIRST))
    size = float(np.linalg.norm(w) * (1.0 + np.linalg.norm(linear_jacobian(batch))) ** 2)
    _close(ctx, exact, _vector(ctx, first), "direction", size=size)


@check("game_direction")
def players_who_do_not_look_ahead_follow_their_own_gradients(ctx: Context, draw: Draw) -> None:
    """O2: with η = 0, or a weight of 0, every direction is the joint gradient, in a curved game."""
    method, batch = draw.pick(_BLIND, "direction"), draw.normal(3, 3)
    players = {"x": {"a": draw.normal(3)}, "y": {"b": draw.normal(3)}}
    found = _found(ctx, curved_game(ctx.harness), players, batch, method)
    wanted = ctx.numpy(found.gradient)
    scale = np.full(6, 1.0 + max(float(np.linalg.norm(leaf)) for leaf in tree.leaves(wanted)))
    ctx.close(found.direction, wanted, 100 * tolerances.eps(ctx.dtype), what="direction", scale=scale)


@check("game_direction")
def players_in_tandem_rest_unless_they_shape(ctx: Context, draw: Draw) -> None:
    """O3: on x + y = 1 of (x + y)² - 2x and (x + y)² - 2y LookAhead and SOS are zero, LOLA -4η for each player."""
    method, x = draw.pick((_AHEAD, _SOS, _EXACT, _FIRST), "direction"), draw.normal(2)
    found = _found(ctx, tandem_game(ctx.harness), {"upper": {"w": x}, "lower": {"w": 1.0 - x}}, None, method)
    moved = -4.0 * _ETA if isinstance(method, LOLA) else 0.0
    _close(ctx, found.direction, np.full(4, moved), "direction", size=1.0 + float(np.linalg.norm(x)))


@check("game_direction")
def sos_shapes_as_far_as_that_is_not_against_look_ahead(ctx: Context, draw: Draw) -> None:
    """ξ₀ + p (LOLA's first order - ξ₀) with p from 0 to 1, and ⟨SOS, ξ₀⟩ ≥ (1 - a) |ξ₀|², in tandem off its line."""
    w, game = draw.normal(4), tandem_game(ctx.harness)
    ahead, shaped, found = (
        _vector(ctx, _found(ctx, game, _players(w), None, method).direction) for method in (_AHEAD, _FIRST, _SOS)
    )
    step, size = shaped - ahead, float(np.linalg.norm(shaped) + np.linalg.norm(ahead))
    share, limit = float(step @ (found - ahead)) / float(step @ step), 1000 * tolerances.eps(ctx.dtype)
    off = float(np.linalg.norm(found - ahead - share * step))
    assert off <= limit * size, f"SOS lies {off} beside the line from look-ahead to LOLA, limit {limit * size}"
    assert -limit <= share <= 1.0 + limit, f"share {share}, limit 0 to 1"
    least, along = (1.0 - _SOS.a) * float(ahead @ ahead), float(found @ ahead)
    assert along >= least - limit * size**2, f"⟨SOS, ξ₀⟩ = {along}, limit {least} at least"


@check("game_direction")
def players_who_do_not_meet_descend_alone(ctx: Context, draw: Draw) -> None:
    """O4: where no player is in another's loss, whatever looks at others is each player's own gradient."""
    method, slope, w = (
        draw.pick((_ALIGNED, _AHEAD, _EXACT, _FIRST, _SOS, _COMPETITIVE), "direction"),
        1.3,
        draw.normal(4),
    )
    found = _found(ctx, lonely_game(ctx.harness), _players(w), np.asarray(slope), method)
    at = ctx.seen(w)
    _close(ctx, found.direction, slope * (1.0 - np.tanh(slope * at) ** 2) + at, "direction", size=1.0)


@check("game_direction")
def prisoners_serve_the_years_that_are_known(ctx: Context, draw: Draw) -> None:
    """Losses of the small and the full iterated prisoner's dilemma at known strategies, to 1e-12 in float64."""
    logits, small, years = draw.pick(_SENTENCES, "strategies")
    batch, game = dilemma_batch(small=small), dilemma_game(ctx.harness)
    players = {
        name: {"w": np.full(1, part) if small else np.asarray(part)} for name, part in zip(PLAYERS, logits, strict=True)
    }
    found = ctx.numpy(_found(ctx, game, players, batch, Simultaneous()).losses)
    limit = 1e-4 if ctx.dtype == "float32" else 1e-12
    for name, right in zip(PLAYERS, years, strict=True):
        assert abs(float(found[name]) - right) <= limit, f"{name}: {found[name]} years, expected {right}, limit {limit}"


@check("game_direction")
def players_of_a_symmetric_game_are_treated_alike(ctx: Context, draw: Draw) -> None:
    """In the small prisoner's dilemma two players who change places change what they descend, and nothing else."""
    method, w = draw.pick((_EXACT, _SOS), "direction"), draw.normal(2)
    batch, game = dilemma_batch(small=True), dilemma_game(ctx.harness, doublings=1)
    one, other = (_found(ctx, game, _players(at), batch, method).direction for at in (w, w[::-1]))
    _close(ctx, one, _vector(ctx, other)[::-1], "direction")


@check("game_direction", "Minimize", "Implicit", "Dense")
def the_game_of_a_bilevel_problem_has_its_partial_derivatives(ctx: Context, draw: Draw) -> None:
    """Params descend the inner loss, hyperparameters the outer one by the hypergradient's direct term alone."""
    case = quadratic(draw, 3, 2)
    problem = BilevelProblem(Minimize(QuadraticInner(ctx.harness.xp)), QuadraticOuter(ctx.harness.xp))
    backend: Any = ctx.harness.backend
    found = backend.game_direction(
        Game.of(problem),
        {"params": ctx.arrays(case.params), "hparams": ctx.arrays(case.hparams)},
        ctx.arrays((case.inner_batch, case.outer_batch)),
    )
    whole, seen = ctx.hypergradient(case, Dense()), case.rounded(ctx.dtype)
    limit, scale = 1000 * tolerances.eps(ctx.dtype), np.full(3, 1.0 + float(np.linalg.norm(case.hparams["shift"])))
    ctx.close(found.gradient["hparams"], ctx.numpy(whole.direct), limit, what="hparams", scale=scale)
    pull = seen.inner_batch["c"] + seen.inner_batch["C"] @ seen.hparams["shift"]
    slope = seen.inner_batch["H"] @ seen.params["w"] - pull
    ctx.close(found.gradient["params"], {"w": slope}, limit, what="params", scale=scale + np.linalg.norm(pull))
    ctx.close(found.losses["hparams"], ctx.numpy(whole.outer_loss), limit, what="outer loss", scale=scale)
