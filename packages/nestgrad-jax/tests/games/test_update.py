"""One move as a function: step's own numbers, and derivatives of every direction and rule, twice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim

pytestmark = pytest.mark.usefixtures("x64")


def first(players, batch):
    x, y = players["x"], players["y"]["w"]
    return batch * jnp.sum(jnp.sin(x * y)) + jnp.sum(x**2) + jnp.sum(x**3 * y)


def second(players, batch):
    x, y = players["x"], players["y"]["w"]
    return jnp.sum(jnp.cos(x + 2.0 * y)) - batch * jnp.sum(x * y**2)


GAME = ng.Game({"x": first, "y": second})
ALONE = ng.Game({"x": lambda players, batch: jnp.sum(jnp.sin(players["x"])) + batch * jnp.prod(players["x"])})
PAIR = {"x": np.array([0.3, -0.8]), "y": {"w": np.array([1.1, 0.2])}}
BATCH = np.float64(0.7)
ALONG = np.random.default_rng(3).normal(size=40)
DIRECTIONS = [
    ng.Simultaneous(),
    ng.Extragradient(step_size=0.3),
    ng.Consensus(weight=0.7),
    ng.SymplecticAdjustment(weight=0.8),
    ng.LookAhead(look_ahead=0.3),
    ng.LOLA(look_ahead=0.3),
    ng.LOLA(look_ahead=0.3, first_order=True),
    ng.SOS(look_ahead=0.3),
    ng.CompetitiveGradient(step_size=0.3, rtol=1e-14),
]
RULES = {
    "sgd": optim.sgd(0.1, 0.9, nesterov=True),
    "complex momentum": optim.complex_momentum(0.1, 0.9, 0.4),
    "clipped": optim.clipped(optim.optimistic(0.1), 0.5),
    "optax": optax.sgd(0.1),
}


def along_of(play, state):
    """t -> the weighted sum of the floating leaves after one move from the state moved by t along a line."""
    leaves, structure = jax.tree.flatten(state)
    floating = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def value(t):
        moved = list(leaves)
        for place, i in enumerate(floating):
            moved[i] = leaves[i] + t * jnp.asarray(ALONG[place : place + leaves[i].size].reshape(leaves[i].shape))
        after = jax.tree.leaves(play.update(structure.unflatten(moved), BATCH))
        return sum(jnp.sum(after[i] * (i + 1.0)) for i in floating)

    return value


def holds_twice(play, players=PAIR):
    """The first two derivatives against differences, after one step, so that optimizers' states are not zero."""
    state, _ = play.step(play.init(players), BATCH)
    stepped, _ = play.step(state, BATCH)
    jax.tree.map(np.testing.assert_array_equal, play.update(state, BATCH), stepped)
    value = along_of(play, state)
    slopes = jax.jit(lambda t: jax.jvp(jax.grad(value), (t,), (jnp.ones_like(t),)))
    h = 1e-5
    values = [float(value(jnp.asarray(t))) for t in (h, -h)]
    ahead, here, behind = (np.asarray(slopes(jnp.asarray(t))) for t in (h, 0.0, -h))
    np.testing.assert_allclose(here[0], (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(here[1], (ahead[0] - behind[0]) / (2 * h), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS, ids=repr)
def test_every_direction_is_differentiable_twice(direction):
    holds_twice(ng.Play(GAME, optimizer=optim.sgd(0.1, 0.5), direction=direction))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_differentiable_twice(rule):
    holds_twice(ng.Play(GAME, optimizer=RULES[rule], turns="alternating"))


@pytest.mark.parametrize("direction", [DIRECTIONS[i] for i in (1, 2, 3, 5, 7, 8)], ids=repr)
def test_a_game_of_one_player_is_plain_minimisation(direction):
    """No other to look ahead to; what else there is of a Jacobian is the loss's own Hessian."""
    x = jnp.asarray(PAIR["x"])
    slope = jax.grad(lambda x: ALONE.losses["x"]({"x": x}, BATCH))
    hessian = np.asarray(jax.jacobian(slope)(x))
    expected = {
        ng.Extragradient: lambda g: slope(x - 0.3 * g),
        ng.Consensus: lambda g: g + 0.7 * hessian @ g,
    }.get(type(direction), lambda g: g)(slope(x))
    play = ng.Play(ALONE, optimizer=optim.sgd(0.1), direction=direction)
    after = play.update(play.init({"x": PAIR["x"]}), BATCH)
    np.testing.assert_allclose(after["players"]["x"], x - 0.1 * np.asarray(expected), rtol=1e-12)


def test_one_players_products_are_those_of_its_hessian():
    x, t = PAIR["x"], jnp.asarray([0.4, -1.0])
    hessian = jax.hessian(lambda x: ALONE.losses["x"]({"x": x}, BATCH))(jnp.asarray(x))
    for product in (ng.game_jvp, ng.game_vjp):
        np.testing.assert_allclose(product(ALONE, {"x": x}, {"x": t}, BATCH)["x"], hessian @ t, rtol=1e-12)
    np.testing.assert_allclose(ng.game_jacobian(ALONE, {"x": x}, BATCH), hessian, rtol=1e-12)


def test_derivatives_where_nothing_is_descended_are_finite():
    """At a point at rest |ξ| has no derivative, and the directions must not need one."""
    game = ng.Game({"x": lambda p, b: jnp.sum(p["x"] * p["y"]), "y": lambda p, b: -jnp.sum(p["x"] * p["y"])})
    for direction in (ng.SOS(look_ahead=0.3), ng.SymplecticAdjustment()):
        play = ng.Play(game, optimizer=optim.complex_adam(0.1, 0.5, 0.4), direction=direction)
        state = play.init({"x": np.zeros(2), "y": np.zeros(2)})

        def moved(players, play=play, state=state):
            return play.update({**state, "players": players})["players"]

        slopes = jax.jit(jax.jacobian(moved))(state["players"])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_nothing_is_raised_of_what_is_not_finite():
    play = ng.Play(GAME, optimizer=optim.sgd(0.1))
    after = play.update(play.init(PAIR), np.float64(np.inf))
    assert not np.isfinite(np.asarray(after["players"]["x"])).any()
    with pytest.raises(ng.DtypeMismatch, match="batch is float32, limit: float64"):
        play.update(play.init(PAIR), np.float32(1.0))
