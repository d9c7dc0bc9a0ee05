"""Playing games: rates known in closed form, turns, states that nothing changes, and what is refused."""

import cmath

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim

pytestmark = pytest.mark.usefixtures("x64")
SIGMA = 0.5


def soft(t):
    return -jnp.logaddexp(jnp.zeros_like(t), -t)


DIRAC = ng.Game(
    {
        "generator": lambda players, batch: soft(players["discriminator"] * players["generator"]),
        "discriminator": lambda players, batch: -soft(players["discriminator"] * players["generator"]),
    }
)
START = {"generator": np.float64(1e-3), "discriminator": np.float64(-2e-3)}


def sizes_of(play, players, steps, every=1):
    """The norm of all players' params, before the first step and after each `every` of them."""

    def several(state, _):
        state = jax.lax.fori_loop(0, every, lambda _, s: play.step(s)[0], state)
        return state, jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(state["players"])))

    state, sizes = jax.jit(lambda s: jax.lax.scan(several, s, length=steps // every))(play.init(players))
    return np.asarray(sizes), state


def matrix_of(rate, beta, alternating):
    """One step on (Re μ, Im μ, ω) of both players, from the game's linearisation ĝ = Ĝω."""
    jacobian = SIGMA * np.array([[0.0, 1.0], [-1.0, 0.0]])
    whole = np.eye(6)
    for movers in ([0], [1]) if alternating else ([0, 1],):
        move = np.eye(6)
        for i in movers:
            move[[i, 2 + i]] = 0.0
            move[i, [i, 2 + i]] = beta.real, -beta.imag
            move[i, 4:] = -jacobian[i]
            move[2 + i, [i, 2 + i]] = beta.imag, beta.real
            move[4 + i] += rate * move[i]
        whole = move @ whole
    return whole


RATES = {
    (0.9, np.pi / 8, "simultaneous"): 0.985690,
    (0.9, np.pi / 8, "alternating"): 0.984567,
    (0.9, np.pi / 2, "simultaneous"): 0.999698,
    (0.5, np.pi, "simultaneous"): 1.000185,
    (0.5, np.pi, "alternating"): 0.999630,
}


@pytest.mark.parametrize("case", RATES, ids=str)
def test_a_dirac_gan_decays_at_the_spectral_radius(case):
    modulus, argument, turns = case
    radius = np.abs(np.linalg.eigvals(matrix_of(0.1, cmath.rect(modulus, argument), turns == "alternating"))).max()
    np.testing.assert_allclose(radius, RATES[case], atol=1e-6)
    play = ng.Play(DIRAC, optimizer=optim.complex_momentum(0.1, modulus, argument), turns=turns)
    sizes, _ = sizes_of(play, START, 1600, every=400)
    np.testing.assert_allclose((sizes[3] / sizes[1]) ** (1 / 800), radius, rtol=1e-3)


def test_extragradient_and_optimism_have_their_rates_on_a_bilinear_game():
    game = ng.Game({"x": lambda p, b: p["x"] * p["y"], "y": lambda p, b: -p["x"] * p["y"]})
    players, t = {"x": np.float64(1.0), "y": np.float64(-2.0)}, 0.6
    extra = ng.Play(game, optimizer=optim.sgd(t), direction=ng.Extragradient(step_size=t))
    sizes, _ = sizes_of(extra, players, 40)
    np.testing.assert_allclose((sizes[-1] / sizes[0]) ** (1 / 39), np.sqrt((1 - t**2) ** 2 + t**2), rtol=1e-12)
    sizes, _ = sizes_of(ng.Play(game, optimizer=optim.optimistic(0.25)), players, 160)
    radius = np.abs(np.roots([1.0, -(1 - 0.5j), -0.25j])).max()
    np.testing.assert_allclose((sizes[-1] / sizes[39]) ** (1 / 120), radius, rtol=1e-3)


COUPLED = ng.Game(
    {
        "x": lambda players, batch: batch * jnp.sum(jnp.sin(players["x"] * players["y"])) + jnp.sum(players["x"] ** 2),
        "y": lambda players, batch: jnp.sum(jnp.cos(players["x"] + 2.0 * players["y"])),
    }
)
PAIR = {"x": np.array([0.3, -0.8]), "y": np.array([1.1, 0.2])}
BATCH = np.float64(0.7)


def by_hand(players, rates, direction, turns):
    """One plain step of each player."""
    now = {name: jnp.asarray(value) for name, value in players.items()}
    seen, losses = dict(now), {}
    for name in COUPLED.names:
        found = ng.game_direction(COUPLED, now if turns == "alternating" else seen, BATCH, method=direction)
        losses[name] = found.losses[name]
        now[name] = now[name] - rates[name] * found.direction[name]
    return now, losses


@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
@pytest.mark.parametrize(
    "direction", [ng.Simultaneous(), ng.LOLA(look_ahead=0.2), ng.CompetitiveGradient(step_size=0.2)]
)
def test_turns_are_those_taken_by_hand(turns, direction):
    rates = {"x": 0.1, "y": 0.3}
    play = ng.Play(
        COUPLED, optimizer={name: optim.sgd(rate) for name, rate in rates.items()}, direction=direction, turns=turns
    )
    state = play.init(PAIR)
    before = jax.tree.map(np.array, state)
    after, info = play.step(state, BATCH)
    jax.tree.map(np.testing.assert_array_equal, state, before)
    expected, losses = by_hand(PAIR, rates, direction, turns)
    moves = []
    for name in COUPLED.names:
        np.testing.assert_allclose(after["players"][name], expected[name], rtol=1e-13)
        np.testing.assert_allclose(info.losses[name], losses[name], rtol=1e-13)
        moves.append((PAIR[name] - np.asarray(expected[name])) / rates[name])
    np.testing.assert_allclose(info.direction_norm, np.linalg.norm(np.concatenate(moves)), rtol=1e-12)
    assert int(after["step"]) == 1
    # The first player moves alike in both; the second tells them apart.
    other = by_hand(PAIR, rates, direction, "simultaneous" if turns == "alternating" else "alternating")[0]
    assert np.abs(np.asarray(other["y"] - after["players"]["y"])).max() > 1e-4


def test_a_scan_is_the_loop_and_optaxs_own_rules_play():
    play = ng.Play(COUPLED, optimizer=optax.adam(0.01), direction=ng.Consensus(weight=0.3), turns="alternating")
    with jax.numpy_dtype_promotion("standard"):
        state = play.init(PAIR)
        scanned, infos = jax.lax.scan(play.step, state, jnp.full(5, BATCH))
        norms = []
        for _ in range(5):
            state, info = play.step(state, BATCH)
            norms.append(info.direction_norm)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), scanned, state)
    np.testing.assert_allclose(infos.direction_norm, norms, rtol=1e-12)


def test_a_game_is_traced_once_and_stays_in_its_dtype():
    traced = []

    def loss(players, batch):
        traced.append(None)
        return jnp.sum(players["x"]["w"] * players["y"]) * batch

    play = ng.Play(ng.Game({"x": loss, "y": loss}), optimizer=optim.complex_adam(0.1, 0.9, 0.4))
    state = play.init({"x": {"w": np.ones(3, np.float32)}, "y": 0.5})
    for _ in range(4):
        state, _ = play.step(state, np.float32(2.0))
    assert len(traced) == 2
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state["players"])}
    assert kinds == {jnp.dtype(jnp.float32)}
    directions = jax.vmap(lambda b: ng.game_direction(play.game, state["players"], b).direction)(
        jnp.ones(4, jnp.float32)
    )
    assert directions["x"]["w"].shape == (4, 3)


def test_a_bilevel_problem_is_a_game_of_its_two_losses():
    problem = ng.BilevelProblem(ng.Minimize(lambda w, h, b: jnp.sum((w - h * b) ** 2)), lambda w, h, b: jnp.sum(w * b))
    game = ng.Game.of(problem)
    players = {"params": jnp.asarray([1.0, 2.0]), "hparams": jnp.asarray(3.0)}
    found = ng.game_direction(game, players, (jnp.asarray(2.0), jnp.asarray(5.0)))
    np.testing.assert_allclose(found.direction["params"], [-10.0, -8.0])
    assert float(found.direction["hparams"]) == 0.0
    assert float(found.losses["hparams"]) == 15.0


def refused(call, message, kind=ng.InvalidInput):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "limit" in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_what_cannot_be_played_is_refused_by_name():
    rule = optim.sgd(0.1)
    refused(lambda: ng.Play("game", optimizer=rule), "Play.game")
    refused(lambda: ng.Play(COUPLED, optimizer={"x": rule}), "Play.optimizer: got one for x")
    refused(lambda: ng.Play(COUPLED, optimizer="sgd"), "Play.optimizer: got str", ng.UnsupportedOptimizer)
    refused(lambda: ng.Play(COUPLED, optimizer=rule, turns="random"), "turns")
    refused(lambda: ng.Play(COUPLED, optimizer=rule, direction="LOLA"), "Play.direction")
    refused(lambda: ng.Play(COUPLED, optimizer=rule).init({"x": PAIR["x"]}), "players: got x")
    play = ng.Play(COUPLED, optimizer=rule)
    refused(lambda: play.step(play.init(PAIR), np.float32(1.0)), "batch is float32", ng.DtypeMismatch)


def test_a_step_that_fails_is_said_and_changes_nothing():
    play = ng.Play(COUPLED, optimizer=optim.sgd(0.1), turns="alternating")
    state = play.init(PAIR)
    refused(lambda: play.step(state, np.float64(np.inf)), "player 'x'", ng.NonFinite)
    np.testing.assert_array_equal(state["players"]["x"], PAIR["x"])
    quiet = ng.Play(COUPLED, optimizer=optim.sgd(0.1), throw=False)
    assert not np.isfinite(quiet.step(quiet.init(PAIR), np.float64(np.inf))[1].direction_norm)
    short = ng.CompetitiveGradient(step_size=0.9, rtol=1e-14, max_steps=1)
    solving = ng.Play(COUPLED, optimizer=optim.sgd(0.1), direction=short)
    refused(lambda: solving.step(solving.init(PAIR), BATCH), "limit 1", ng.NotConverged)
