"""Directions of a game against dense ones, the identities between them, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestgrad_jax as ng

pytestmark = pytest.mark.usefixtures("x64")
_RNG = np.random.default_rng(11)
SHAPES = {"zoe": {"b": (2,), "a": (1, 2)}, "ann": [(), (2,)], "kim": (3,)}
SIZES = {"zoe": 4, "ann": 3, "kim": 3}
COUNT = sum(SIZES.values())
MIXES = {name: _RNG.normal(size=(5, COUNT)) for name in SHAPES}
CURVES = {name: _RNG.normal(size=(COUNT, COUNT)) for name in SHAPES}
PLACES = dict(zip(SIZES, np.split(np.arange(COUNT), np.cumsum(list(SIZES.values()))[:-1]), strict=True))


def vector_of(players):
    """The entries in the order of turns, and of sorted paths within a player."""
    zoe, ann = players["zoe"], players["ann"]
    parts = [zoe["a"], zoe["b"], ann[0], ann[1], players["kim"]]
    return jnp.concatenate([jnp.ravel(part) for part in parts])


def players_of(entries):
    vector = jnp.asarray(entries)
    return {
        "kim": vector[7:10],
        "ann": [vector[4], vector[5:7]],
        "zoe": {"a": vector[0:2].reshape(1, 2), "b": vector[2:4]},
    }


def loss_of(name):
    def loss(players, batch):
        w = vector_of(players)
        return jnp.sum(jnp.tanh(MIXES[name] @ w)) + 0.1 * w @ CURVES[name] @ w + batch * jnp.sum(w**3)

    return loss


GAME = ng.Game({name: loss_of(name) for name in SHAPES})
POINT = 0.4 * _RNG.normal(size=COUNT)
BATCH = np.float64(0.05)
BLOCKS = np.zeros((COUNT, COUNT), bool)
for _places in PLACES.values():
    BLOCKS[np.ix_(_places, _places)] = True


def slopes(name, vector):
    """∂L_i/∂ω, in all players."""
    return np.asarray(jax.grad(lambda w: GAME.losses[name](players_of(w), BATCH))(jnp.asarray(vector)))


def joint(vector):
    """ĝ, one player after another."""
    return np.concatenate([slopes(name, vector)[places] for name, places in PLACES.items()])


def dense():
    return np.asarray(ng.game_jacobian(GAME, players_of(POINT), BATCH))


def shaping(jacobian, slopes_of):
    """χ, with the other players' slopes of L_i as slopes_of(name)."""
    chi = np.zeros(COUNT)
    for name, places in PLACES.items():
        others = np.setdiff1d(np.arange(COUNT), places)
        chi[places] = jacobian[np.ix_(others, places)].T @ slopes_of(name)[others]
    return chi


def symplectic(spec, xi, jacobian):
    back, turned = jacobian.T @ xi, 0.5 * (jacobian.T - jacobian) @ xi
    sign = np.sign((xi @ back) * (turned @ back) / COUNT + 0.1) if spec.align else 1.0
    return xi + spec.weight * sign * turned


def exact_lola(spec, xi, jacobian):
    direction = np.zeros(COUNT)
    for name, places in PLACES.items():
        moved = POINT - spec.look_ahead * xi
        moved[places] = POINT[places]
        there = slopes(name, moved)
        chi = shaping(jacobian, lambda _, there=there: there)
        direction[places] = there[places] - spec.look_ahead * chi[places]
    return direction


def sos(spec, xi, jacobian):
    ahead = xi - spec.look_ahead * np.where(BLOCKS, 0.0, jacobian) @ xi
    chi = -spec.look_ahead * shaping(jacobian, lambda name: slopes(name, POINT))
    along = chi @ ahead
    first = 1.0 if along >= 0 else min(1.0, -spec.a * ahead @ ahead / along)
    second = xi @ xi if np.linalg.norm(xi) < spec.b else 1.0
    return ahead + min(first, second) * chi


def competitive(spec, xi, jacobian):
    return np.linalg.solve(np.eye(COUNT) + spec.step_size * np.where(BLOCKS, 0.0, jacobian), xi)


def look_ahead(spec, xi, jacobian):
    return xi - spec.look_ahead * np.where(BLOCKS, 0.0, jacobian) @ xi


def first_order(spec, xi, jacobian):
    return look_ahead(spec, xi, jacobian) - spec.look_ahead * shaping(jacobian, lambda name: slopes(name, POINT))


KINDS = {
    "simultaneous": (ng.Simultaneous(), lambda spec, xi, _: xi, 0),
    "extragradient": (
        ng.Extragradient(step_size=0.3),
        lambda spec, xi, _: joint(POINT - spec.step_size * xi),
        0,
    ),
    "consensus": (ng.Consensus(weight=0.7), lambda spec, xi, jac: xi + spec.weight * jac.T @ xi, 1),
    "symplectic": (ng.SymplecticAdjustment(weight=0.8, align=False), symplectic, 2),
    "symplectic, aligned": (ng.SymplecticAdjustment(weight=0.8), symplectic, 2),
    "look-ahead": (ng.LookAhead(look_ahead=0.3), look_ahead, 1),
    "LOLA": (ng.LOLA(look_ahead=0.3), exact_lola, 0),
    "LOLA, first order": (ng.LOLA(look_ahead=0.3, first_order=True), first_order, 2),
    "SOS": (ng.SOS(look_ahead=0.3), sos, 2),
    "competitive": (ng.CompetitiveGradient(step_size=0.3, rtol=1e-13), competitive, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_directions_are_those_of_the_dense_jacobian(kind):
    spec, formula, products = KINDS[kind]
    found = ng.game_direction(GAME, players_of(POINT), BATCH, method=spec)
    xi = joint(POINT)
    np.testing.assert_allclose(vector_of(found.gradient), xi, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(vector_of(found.direction), formula(spec, xi, dense()), rtol=1e-9, atol=1e-10)
    assert jax.tree.structure(found.direction) == jax.tree.structure(players_of(POINT))
    for name in SHAPES:
        np.testing.assert_allclose(found.losses[name], GAME.losses[name](players_of(POINT), BATCH), rtol=1e-13)
    assert found.products == products if products is not None else 1 <= found.products <= COUNT + 1
    assert isinstance(found.products, int)


def test_the_jacobian_has_players_in_turn_and_leaves_by_path():
    expected = np.zeros((COUNT, COUNT))
    for name, places in PLACES.items():
        whole = jax.hessian(lambda w, name=name: GAME.losses[name](players_of(w), BATCH))(jnp.asarray(POINT))
        expected[places] = np.asarray(whole)[places]
    np.testing.assert_allclose(dense(), expected, rtol=1e-11, atol=1e-12)


def test_products_are_those_of_the_dense_jacobian():
    t = jnp.asarray(_RNG.normal(size=COUNT))
    along = ng.game_jvp(GAME, players_of(POINT), players_of(t), BATCH)
    back = ng.game_vjp(GAME, players_of(POINT), players_of(t), BATCH)
    np.testing.assert_allclose(vector_of(along), dense() @ np.asarray(t), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(vector_of(back), dense().T @ np.asarray(t), rtol=1e-11, atol=1e-12)


def bilinear(sigma):
    def product(players, batch):
        return sigma * players["x"] * players["y"]

    return ng.Game({"x": product, "y": lambda players, batch: -product(players, batch)})


def at(x, y):
    return {"x": jnp.asarray(x), "y": jnp.asarray(y)}


def parts(game, players, method):
    found = ng.game_direction(game, players, method=method).direction
    return [float(found["x"]), float(found["y"])]


def test_o1_shaping_is_exact_to_first_order_where_losses_are_affine_in_others():
    x, y, sigma, eta = 0.7, -0.4, 1.3, 0.2
    game = bilinear(sigma)
    shaped = [sigma * y + 2 * eta * sigma**2 * x, -sigma * x + 2 * eta * sigma**2 * y]
    for first in (False, True):
        found = parts(game, at(x, y), ng.LOLA(look_ahead=eta, first_order=first))
        np.testing.assert_allclose(found, shaped, rtol=1e-14)
    ahead = [sigma * y + eta * sigma**2 * x, -sigma * x + eta * sigma**2 * y]
    np.testing.assert_allclose(parts(game, at(x, y), ng.LookAhead(look_ahead=eta)), ahead, rtol=1e-14)
    assert abs(parts(game, at(x, y), ng.Extragradient(step_size=eta))[0] - shaped[0]) > 0.1


CURVED = ng.Game(
    {
        "x": lambda players, batch: jnp.sin(players["x"] * players["y"]) + players["x"] ** 2,
        "y": lambda players, batch: jnp.cos(players["x"] + 2.0 * players["y"]),
    }
)
NOTHING_AHEAD = [ng.LookAhead(look_ahead=0.0), ng.LOLA(look_ahead=0.0), ng.SOS(look_ahead=0.0)]
NOTHING_AHEAD += [ng.LOLA(look_ahead=0.0, first_order=True), ng.Consensus(weight=0.0)]


@pytest.mark.parametrize("method", NOTHING_AHEAD, ids=repr)
def test_o2_without_a_look_ahead_players_descend_their_gradients(method):
    found = ng.game_direction(CURVED, at(0.3, -1.2), method=method)
    np.testing.assert_allclose(list(found.direction.values()), list(found.gradient.values()), rtol=1e-13)


TANDEM = ng.Game(
    {
        "x": lambda players, batch: (players["x"] + players["y"]) ** 2 - 2 * players["x"],
        "y": lambda players, batch: (players["x"] + players["y"]) ** 2 - 2 * players["y"],
    }
)


def test_o3_on_the_tandem_games_line_only_lola_moves():
    players = at(0.3, 0.7)
    for still in (ng.LookAhead(look_ahead=0.1), ng.SOS(look_ahead=0.1), ng.CompetitiveGradient(step_size=0.1)):
        np.testing.assert_allclose(parts(TANDEM, players, still), [0.0, 0.0], atol=1e-15)
    moved = parts(TANDEM, players, ng.LOLA(look_ahead=0.1, first_order=True))
    np.testing.assert_allclose(moved, [-0.1 * 4.0] * 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("total", "share"),
    [(1.2, 0.5 * 0.2048 / 0.3072), (1.02, 0.0032), (0.8, 1.0)],
    ids=["against it", "at rest", "along it"],
)
def test_sos_shapes_as_far_as_it_does_no_harm(total, share):
    """In the tandem game at x + y = s: ξ = 2s - 2, H_o ξ = 2ξ, χ = 4s for each player."""
    found = parts(TANDEM, at(0.3, total - 0.3), ng.SOS(look_ahead=0.1))
    np.testing.assert_allclose(found, [0.8 * (2 * total - 2) - share * 0.4 * total] * 2, rtol=1e-11)


APART = [ng.LookAhead(look_ahead=0.3), ng.LOLA(look_ahead=0.3), ng.LOLA(look_ahead=0.3, first_order=True)]
APART += [ng.SOS(look_ahead=0.3), ng.SymplecticAdjustment(), ng.CompetitiveGradient(step_size=0.3)]


@pytest.mark.parametrize("method", APART, ids=repr)
def test_o4_players_apart_descend_their_gradients(method):
    def own(name):
        return lambda players, batch: jnp.sum(jnp.cos(players[name])) + jnp.sum(players[name] ** 4)

    game = ng.Game({"x": own("x"), "y": own("y")})
    players = {"x": jnp.asarray([0.3, -1.2]), "y": jnp.asarray(0.8)}
    found = ng.game_direction(game, players, method=method)
    for name in players:
        np.testing.assert_allclose(found.direction[name], found.gradient[name], rtol=1e-12)


def small_ipd(discount=0.9):
    """One logit a player; after the other's defection both cooperate with σ(-3). States CC, CD, DC, DD."""
    rewards = {"x": jnp.asarray([-1.0, -3.0, 0.0, -2.0]), "y": jnp.asarray([-1.0, 0.0, -3.0, -2.0])}
    frozen = jax.nn.sigmoid(jnp.asarray(-3.0))

    def loss_of(name):
        def loss(players, batch):
            p, q = jax.nn.sigmoid(players["x"]), jax.nn.sigmoid(players["y"])
            first, second = jnp.stack([p, frozen, p, frozen]), jnp.stack([q, q, frozen, frozen])
            chances = (first * second, first * (1 - second), (1 - first) * second, (1 - first) * (1 - second))
            start = jnp.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)])
            visits = jnp.linalg.solve(jnp.eye(4) - discount * jnp.stack(chances, axis=1), rewards[name])
            return -(1 - discount) * start @ visits

        return loss

    return ng.Game({"x": loss_of("x"), "y": loss_of("y")})


@pytest.mark.parametrize(
    ("logits", "losses"),
    [
        ((0.0, 0.0), (1.8436208881352993, 1.8436208881352993)),
        ((-800.0, -800.0), (1.9590639972476165, 1.9590639972476165)),
        ((800.0, 800.0), (1.0, 1.0)),
        ((30.0, -30.0), (2.102345068718576, 1.6894059319451813)),
    ],
)
def test_the_small_prisoners_dilemma_has_its_known_losses(logits, losses):
    found = ng.game_direction(small_ipd(), at(*logits))
    np.testing.assert_allclose([found.losses["x"], found.losses["y"]], losses, rtol=1e-12)


def refused(call, message, kind=ng.InvalidInput):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "limit" in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_what_fits_no_game_is_refused_by_name():
    game, players = bilinear(1.0), at(1.0, 2.0)
    refused(lambda: ng.game_direction(game, {"x": players["x"]}), "players: got x")
    refused(lambda: ng.game_direction("x", players), "game is str")
    refused(lambda: ng.game_direction(game, {"x": {}, "y": players["y"]}), r"players\['x'\]: 0 leaves")
    refused(lambda: ng.game_direction(game, {"x": jnp.asarray(1), "y": players["y"]}), r"players\['x'\]: got int")
    refused(
        lambda: ng.game_direction(game, {"x": jnp.float32(1), "y": np.float64(2)}), r"players\['y'\]", ng.DtypeMismatch
    )
    refused(lambda: ng.game_jvp(game, players, {"x": players["x"]}), "tangents: structure")
    refused(lambda: ng.game_vjp(game, players, {**players, "y": jnp.zeros(2)}), r"cotangents\['y'\]: shape \(2,\)")
    refused(lambda: ng.game_jacobian(game, players, max_params=1), "2 entries in players, limit max_params=1.*game_jvp")
    refused(lambda: ng.game_direction(game, players, method="LOLA"), "no rule for str", ng.UnsupportedSpec)
    vector = ng.Game({"x": lambda players, batch: jnp.ones(2), "y": game.losses["y"]})
    refused(lambda: ng.game_direction(vector, players), "loss of player 'x' returned shape", ng.NonScalarLoss)


def test_a_direction_that_is_not_finite_names_its_player():
    game = ng.Game({"x": lambda p, b: p["x"] ** 2, "y": lambda p, b: jnp.log(p["y"]) * p["x"]})
    refused(lambda: ng.game_direction(game, at(1.0, 0.0)), "player 'y'", ng.NonFinite)
    unthrown = float(ng.game_direction(game, at(1.0, 0.0), throw=False).direction["y"])
    assert np.isinf(unthrown)
    inside = jax.jit(lambda players: ng.game_direction(game, players).direction["y"])(at(1.0, 0.0))
    assert float(inside) == unthrown


def test_an_unfinished_competitive_solve_is_said():
    spec = ng.CompetitiveGradient(step_size=0.3, rtol=1e-12, max_steps=1)
    refused(lambda: ng.game_direction(GAME, players_of(POINT), BATCH, method=spec), "after 1 steps", ng.NotConverged)
    unthrown = ng.game_direction(GAME, players_of(POINT), BATCH, method=spec, throw=False)
    assert np.isnan(vector_of(unthrown.direction)).all()
    zero = parts(bilinear(1.0), at(0.0, 0.0), ng.CompetitiveGradient(step_size=0.3))
    assert zero == [0.0, 0.0]
