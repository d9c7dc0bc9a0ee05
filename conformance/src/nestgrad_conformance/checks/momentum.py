"""Momentum with a complex coefficient and its relatives: what they are to one another, and how fast games then go."""

from __future__ import annotations

import cmath
import functools
import math
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_conformance import tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems.games import PLAYERS, dirac_game, linear_batch, linear_game, linear_jacobian
from nestgrad_conformance.registry import check

_STEPS = 6
PLAYED = {"upper": (0.11, 0.8, math.pi / 5), "lower": (0.07, 0.6, 2.0)}
_RATE = 0.1
_RADII = {  # by β: the largest root in size of the rate's polynomial, of players at once and in turn
    0.0: (1.00124922, 1.00000000),
    0.9: (1.12109841, 1.11792266),
    -0.5: (1.00018533, 0.99962958),
    cmath.rect(0.9, math.pi / 8): (0.98569007, 0.98456738),
    0.9j: (0.99969822, 0.99931725),
}


def _drawn(draw: Draw) -> tuple[float, float, float, list[Any]]:
    """(rate, modulus, argument, a gradient for each step)."""
    grads = [{"w": draw.normal(3), "n": draw.normal()} for _ in range(_STEPS)]
    settings = draw.number(0.01, 1.0, "rate"), draw.number(0.05, 0.99, "modulus"), draw.number(-3.1, 3.1, "argument")
    return *settings, grads


def _updates(ctx: Context, rule: Any, grads: list[Any]) -> list[Any]:
    """What the backend's rule adds to the params at each of the gradients."""
    params = ctx.arrays(tree.map(np.ones_like, grads[0]))
    state, found = rule.init(params), []
    for g in grads:
        update, state = rule.update(ctx.arrays(g), state, params)
        found.append(update)
    return found


def _same(ctx: Context, found: list[Any], wanted: list[Any], grads: list[Any], rate: float) -> None:
    """Each update to 50 roundings of the rate times the sum of all gradients so far, which is what it is made from."""
    size = np.zeros(4)
    for k, (update, right, g) in enumerate(zip(found, wanted, grads, strict=True)):
        size = size + rate * np.abs(np.concatenate([np.reshape(leaf, -1) for leaf in tree.leaves(g)]))
        scale = np.full(4, np.linalg.norm(size))
        ctx.close(update, right, 50 * tolerances.eps(ctx.dtype), what=f"update {k + 1}", scale=scale)


def _by_hand(ctx: Context, grads: list[Any], move: Any) -> list[Any]:
    """move(gradients so far, the last one first), leaf by leaf, at each step."""
    seen = [ctx.seen(g) for g in grads]
    return [tree.map(lambda *gs: np.asarray(move(gs)), *reversed(seen[: k + 1])) for k in range(len(seen))]


@check("optim")
def complex_momentum_that_does_not_turn_is_plain_momentum(ctx: Context, draw: Draw) -> None:
    """M1: argument 0 is heavy ball, π negative momentum, and modulus 0 gradient descent, the last bit for bit."""
    optim, (rate, modulus, argument, grads) = ctx.harness.optim, _drawn(draw)
    for angle, momentum in ((0.0, modulus), (math.pi, -modulus)):
        plain = [ctx.numpy(x) for x in _updates(ctx, optim.sgd(rate, momentum), grads)]
        _same(ctx, _updates(ctx, optim.complex_momentum(rate, modulus, angle), grads), plain, grads, rate)
    descent = _updates(ctx, optim.sgd(rate), grads)
    for found, right in zip(_updates(ctx, optim.complex_momentum(rate, 0.0, argument), grads), descent, strict=True):
        ctx.close(found, ctx.numpy(right), 0.0, what="update of modulus 0")


@check("optim")
def conjugate_momenta_take_the_same_steps(ctx: Context, draw: Draw) -> None:
    """M2: the sign of the argument is of no account."""
    optim, (rate, modulus, argument, grads) = ctx.harness.optim, _drawn(draw)
    one, other = (_updates(ctx, optim.complex_momentum(rate, modulus, phi), grads) for phi in (argument, -argument))
    _same(ctx, one, [ctx.numpy(x) for x in other], grads, rate)


@check("optim")
def complex_momentum_is_one_complex_velocity(ctx: Context, draw: Draw) -> None:
    """M3: its real form is μ ← β μ - g with a complex μ, the update rate · Re μ."""
    rate, modulus, argument, grads = _drawn(draw)
    beta = cmath.rect(modulus, argument)

    def move(history: Any) -> Any:
        velocity = 0.0
        for g in reversed(history):
            velocity = beta * velocity - g
        return rate * np.real(velocity)

    rule = ctx.harness.optim.complex_momentum(rate, modulus, argument)
    _same(ctx, _updates(ctx, rule, grads), _by_hand(ctx, grads, move), grads, rate)


@check("optim")
def complex_momentum_weighs_its_history_by_cosines(ctx: Context, draw: Draw) -> None:
    """M4: the update is -rate Σ_k |β|ᵏ cos(k arg β) g_{j-k}."""
    rate, modulus, argument, grads = _drawn(draw)

    def move(history: Any) -> Any:
        return -rate * sum(modulus**k * math.cos(k * argument) * g for k, g in enumerate(history))

    rule = ctx.harness.optim.complex_momentum(rate, modulus, argument)
    _same(ctx, _updates(ctx, rule, grads), _by_hand(ctx, grads, move), grads, rate)


@check("optim")
def complex_momentum_is_a_linked_pair_that_turns(ctx: Context, draw: Draw) -> None:
    """M5: a mixing of modulus times a rotation, and the mean of the two plain momenta β and β̄."""
    optim, (rate, modulus, argument, grads) = ctx.harness.optim, _drawn(draw)
    beta = cmath.rect(modulus, argument)
    mixing = np.array([[beta.real, -beta.imag], [beta.imag, beta.real]])
    given = ctx.arrays((mixing, np.array([1.0, 0.0]), np.array([rate, 0.0])))
    found = _updates(ctx, optim.complex_momentum(rate, modulus, argument), grads)
    linked = _updates(ctx, optim.recurrently_linked_momentum(*given), grads)
    _same(ctx, linked, [ctx.numpy(x) for x in found], grads, rate)

    def move(history: Any) -> Any:
        pair = [sum(b**k * g for k, g in enumerate(history)) for b in (beta, beta.conjugate())]
        return -rate / 2.0 * np.real(pair[0] + pair[1])

    _same(ctx, found, _by_hand(ctx, grads, move), grads, rate)


@check("optim")
def aggregated_momentum_is_the_mean_of_its_momenta(ctx: Context, draw: Draw) -> None:
    """M5: the mean of heavy balls, and a linked momentum whose mixing is diagonal."""
    optim, (rate, _, _, grads) = ctx.harness.optim, _drawn(draw)
    momenta = [0.95 * math.tanh(x) for x in draw.normal(draw.pick((1, 3), "momenta"))]
    found = _updates(ctx, optim.aggregated_momentum(rate, momenta), grads)
    each = [[ctx.numpy(x) for x in _updates(ctx, optim.sgd(rate, beta), grads)] for beta in momenta]
    mean = [tree.map(lambda *parts: np.asarray(sum(parts) / len(parts)), *parts) for parts in zip(*each, strict=True)]
    _same(ctx, found, mean, grads, rate)
    many = np.ones(len(momenta))
    given = ctx.arrays((np.diag(momenta), many, rate / len(momenta) * many))
    _same(ctx, _updates(ctx, optim.recurrently_linked_momentum(*given), grads), mean, grads, rate)


@check("optim")
def linked_momentum_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """M ← mixing M - inputs ⊗ g, the update outputsᵀ M, for a drawn mixing that is not symmetric."""
    rate, _, _, grads = _drawn(draw)
    mixing = draw.normal(2, 2)
    mixing /= np.linalg.norm(mixing)
    given = ctx.seen((mixing, draw.normal(2), rate * draw.normal(2)))

    def move(history: Any) -> Any:
        powers = [np.linalg.matrix_power(given[0], k) for k in range(len(history))]
        return -sum((given[2] @ power @ given[1]) * g for power, g in zip(powers, history, strict=True))

    rule = ctx.harness.optim.recurrently_linked_momentum(*ctx.arrays(given))
    size = float(np.linalg.norm(given[1]) * np.linalg.norm(given[2]))
    _same(ctx, _updates(ctx, rule, grads), _by_hand(ctx, grads, move), grads, size)


@check("optim")
def complex_adam_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """rate · Re μ / (√(v / (1 - b2ᵗ)) + eps), μ not damped and its bias not corrected; real where the argument is 0."""
    rate, modulus, argument, grads = _drawn(draw)
    angle, b2, eps = draw.pick((0.0, argument), "turning"), 0.9, 0.1
    beta = cmath.rect(modulus, angle)

    def move(history: Any) -> Any:
        velocity = sum(beta**k * g for k, g in enumerate(history))
        second = (1.0 - b2) * sum(b2**k * g**2 for k, g in enumerate(history))
        return -rate * np.real(velocity) / (np.sqrt(second / (1.0 - b2 ** len(history))) + eps)

    rule = ctx.harness.optim.complex_adam(rate, modulus, angle, b2, eps)
    _same(ctx, _updates(ctx, rule, grads), _by_hand(ctx, grads, move), grads, rate / eps)


@check("optim")
def optimistic_steps_go_by_twice_the_gradient_less_the_last(ctx: Context, draw: Draw) -> None:
    """-rate (2 g - g₋), and at the first step -rate g."""
    rate, _, _, grads = _drawn(draw)

    def move(history: Any) -> Any:
        return -rate * (2.0 * history[0] - history[min(1, len(history) - 1)])

    _same(ctx, _updates(ctx, ctx.harness.optim.optimistic(rate), grads), _by_hand(ctx, grads, move), grads, 3.0 * rate)


@functools.cache
def _linear_play(ctx: Context, turns: str) -> Any:
    backend, optim = ctx.harness.backend, ctx.harness.optim
    of_backend: Any = backend
    rules = {name: optim.complex_momentum(*settings) for name, settings in PLAYED.items()}
    return of_backend.Play(linear_game(ctx.harness), optimizer=rules, turns=turns)


def played_matrix(jacobian: np.ndarray) -> np.ndarray:
    """R, by which a step at once multiplies (Re μ, Im μ, ω), each player having settings of its own."""
    half, one = len(jacobian) // 2, np.eye(len(jacobian))
    rate, size, angle = (np.diag(np.repeat([PLAYED[name][k] for name in PLAYERS], half)) for k in range(3))
    real, imaginary = size @ np.cos(angle) * one, size @ np.sin(angle) * one
    return np.block(
        [
            [real, -imaginary, -jacobian],
            [imaginary, real, 0.0 * one],
            [rate @ real, -rate @ imaginary, one - rate @ jacobian],
        ]
    )


def _turn(matrix: np.ndarray, player: int, half: int) -> np.ndarray:
    """R's rows of one player, the others' left as they are."""
    moving = np.tile(np.arange(2 * half) // half == player, 3)
    return np.where(moving[:, None], matrix, np.eye(len(matrix)))


@check("Play", "game_direction", "optim")
def complex_momentum_on_a_linear_game_is_a_power_of_its_matrix(ctx: Context, draw: Draw) -> None:
    """M6: after j steps ω is that of Rʲ (0, 0, ω₀); in turn, R's rows of each player one after the other.

    All of ω at every step tells the velocities as well.
    """
    turns, half = draw.pick(("simultaneous", "alternating"), "turns"), 2
    batch, start = linear_batch(draw, half), {name: {"w": draw.normal(half)} for name in PLAYERS}
    matrix = played_matrix(linear_jacobian(ctx.seen(batch)))
    if turns == "alternating":
        matrix = _turn(matrix, 1, half) @ _turn(matrix, 0, half)
    play, begun = _linear_play(ctx, turns), ctx.seen(start)
    state, at = play.init(ctx.arrays(start)), np.concatenate([np.zeros(4 * half), *(begun[x]["w"] for x in PLAYERS)])
    limit, size = 100 * tolerances.eps(ctx.dtype), 0.0
    for k in range(_STEPS):
        state, _ = play.step(state, ctx.arrays(batch))
        at = matrix @ at
        size = max(size, float(np.linalg.norm(at)))
        wanted = {name: {"w": part} for name, part in zip(PLAYERS, np.split(at[4 * half :], 2), strict=True)}
        ctx.close(state["players"], wanted, limit, what=f"players after step {k + 1}", scale=np.full(4, size))


@check("Play", "game_direction", "optim", slow=True)
def dirac_gans_decay_and_grow_at_the_known_rates(ctx: Context, draw: Draw) -> None:
    """The spectral radii of five momenta, at once and in turn, from trajectories near the equilibrium."""
    betas, limit = list(_RADII), 1e-6 if ctx.dtype == "float32" else 2e-8
    arrays = {"w": np.abs(np.array(betas))}, {"w": np.angle(np.array(betas))}
    backend: Any = ctx.harness.backend
    rule = ctx.harness.optim.complex_momentum(_RATE, *(ctx.arrays(setting) for setting in arrays))
    for k, turns in enumerate(("simultaneous", "alternating")):
        play = backend.Play(dirac_game(ctx.harness), optimizer=rule, turns=turns)
        state = play.init(ctx.arrays({name: {"w": 1e-15 * draw.normal(len(betas))} for name in PLAYERS}))
        seen: list[np.ndarray] = []
        for _ in range(60):
            state, _ = play.step(state)
            players = ctx.numpy(state["players"])
            seen.append(np.stack([players[name]["w"] for name in PLAYERS]))
        path = np.stack(seen)[10:]
        for i, (beta, radii) in enumerate(_RADII.items()):
            found = _radius(path[:, :, i])
            assert abs(found - radii[k]) <= limit, f"β = {beta}, {turns}: {found}, expected {radii[k]}, limit {limit}"


def _radius(path: np.ndarray) -> float:
    """The largest |z| of ω_{t+1} = A ω_t + B ω_{t-1} + C ω_{t-2}, fitted to the rows of the path: six velocities and
    params that move by a linear map can be told from three positions of the two params.
    """
    steps, lags = len(path), 3
    given = np.concatenate([path[lags - 1 - k : steps - 1 - k] for k in range(lags)], axis=1)
    size = np.linalg.norm(given, axis=1)[:, None]
    matrix, *_ = np.linalg.lstsq(given / size, path[lags:] / size, rcond=None)
    companion = np.concatenate([matrix.T, np.eye(2 * lags)[: 2 * lags - 2]])
    return float(np.abs(np.linalg.eigvals(companion)).max())
