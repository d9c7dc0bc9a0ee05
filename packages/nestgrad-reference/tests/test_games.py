"""Directions and products of games: against differences of their definitions, closed forms, and each other."""

import math

import autograd.numpy as anp
import numpy as np
import pytest
from played_games import THREE, bilinear, small_ipd, tandem, three_players

import nestgrad_reference as ng

ETA, BATCH = 0.3, 0.6
CURVED = three_players()


def packed(players):
    """By hand: the game's order c, a, d; within a the paths b, w."""
    a, c, d = players["a"], players["c"], players["d"][0]
    return np.concatenate([c, np.reshape(a["b"], 1), a["w"], d.ravel()])


def unpacked(w):
    return {"a": {"w": w[4:6], "b": w[3]}, "d": [w[6:].reshape(1, 2)], "c": w[:3]}


BLOCKS = {"c": slice(0, 3), "a": slice(3, 6), "d": slice(6, 8)}
OMEGA = packed(THREE)


def loss(name, w):
    return float(CURVED.losses[name](unpacked(w), BATCH))


def differences(function, w, step=1e-5):
    """The derivative of a number or a vector, by central differences of 4th order: an error of about 1e-10."""

    def at(k, s):
        return np.asarray(function(w + s * step * np.eye(w.size)[k]))

    columns = [(8.0 * (at(k, 1) - at(k, -1)) - (at(k, 2) - at(k, -2))) / (12.0 * step) for k in range(w.size)]
    return np.stack(columns, axis=-1)


def gradient(w):
    return packed(ng.game_direction(CURVED, unpacked(w), BATCH).gradient)


def all_slopes(w, step=1e-3):
    """∇L_i in all of ω, of each player, by differences."""
    return {name: differences(lambda x, n=name: loss(n, x), w, step) for name in BLOCKS}


def parts(method, game=CURVED, players=THREE, batch=BATCH):
    return packed(ng.game_direction(game, players, batch, method=method).direction)


def close(found, wanted, limit=1e-7):
    return np.abs(np.asarray(found) - np.asarray(wanted)).max() < limit * (1.0 + np.abs(wanted).max())


XI = gradient(OMEGA)
JACOBIAN = ng.game_jacobian(CURVED, THREE, BATCH)
OTHERS = JACOBIAN.copy()
for block in BLOCKS.values():
    OTHERS[block, block] = 0.0


def test_the_gradient_is_each_players_own():
    slopes = all_slopes(OMEGA)
    assert close(XI, np.concatenate([slopes[name][block] for name, block in BLOCKS.items()]))


def test_the_jacobian_is_the_gradients_derivative_in_the_order_promised():
    assert JACOBIAN.shape == (8, 8)
    assert close(JACOBIAN, differences(gradient, OMEGA))
    assert np.abs(JACOBIAN - JACOBIAN.T).max() > 0.1


def test_products_are_those_with_the_jacobian():
    v = np.random.default_rng(1).normal(size=8)
    assert close(packed(ng.game_jvp(CURVED, THREE, unpacked(v), BATCH)), JACOBIAN @ v, 1e-13)
    assert close(packed(ng.game_vjp(CURVED, THREE, unpacked(v), BATCH)), JACOBIAN.T @ v, 1e-13)


def test_losses_structures_and_the_players_given_stay():
    before = packed(THREE)
    found = ng.game_direction(CURVED, THREE, BATCH, method=ng.SOS(look_ahead=ETA))
    assert list(found.losses) == ["c", "a", "d"]
    assert found.losses == {name: pytest.approx(loss(name, OMEGA)) for name in BLOCKS}
    for given in (found.gradient, found.direction):
        assert {k: np.shape(v) for k, v in ng.tree.named_leaves(given).items()} == {
            k: v.shape for k, v in ng.tree.named_leaves(THREE).items()
        }
        assert list(given) == list(THREE)
    assert np.array_equal(packed(THREE), before)


def chi(w=OMEGA):
    """∂/∂ω_i of Σ_{j≠i} stop(∂L_i/∂ω_j) · ∂L_j/∂ω_j, by differences."""
    slopes, found = all_slopes(w), np.zeros(8)
    for name, block in BLOCKS.items():
        still = slopes[name].copy()
        still[block] = 0.0
        found[block] = differences(lambda x, s=still: s @ gradient(x), w)[block]
    return found


def lola():
    """∂/∂ω_i of L_i(ω_i, ω_j - η ∂L_j/∂ω_j), by differences."""
    found = np.zeros(8)
    for name, block in BLOCKS.items():

        def after(x, name=name, block=block):
            moved = x - ETA * gradient(x)
            moved[block] = x[block]
            return loss(name, moved)

        found[block] = differences(after, OMEGA, 1e-3)[block]
    return found


def symplectic(sign=1.0):
    return XI + 0.7 * sign * 0.5 * (JACOBIAN.T - JACOBIAN) @ XI


def aligned():
    back, turned = JACOBIAN.T @ XI, 0.5 * (JACOBIAN.T - JACOBIAN) @ XI
    return symplectic(math.copysign(1.0, (XI @ back) * (turned @ back) / 8 + 0.1))


DIRECTIONS = {
    "simultaneous": (ng.Simultaneous(), lambda: XI, 0),
    "extragradient": (ng.Extragradient(step_size=ETA), lambda: gradient(OMEGA - ETA * XI), 0),
    "consensus": (ng.Consensus(weight=ETA), lambda: XI + ETA * JACOBIAN.T @ XI, 1),
    "symplectic": (ng.SymplecticAdjustment(weight=0.7, align=False), symplectic, 2),
    "aligned": (ng.SymplecticAdjustment(weight=0.7), aligned, 2),
    "look-ahead": (ng.LookAhead(look_ahead=ETA), lambda: XI - ETA * OTHERS @ XI, 1),
    "LOLA": (ng.LOLA(look_ahead=ETA), lola, 0),
    "first-order LOLA": (ng.LOLA(look_ahead=ETA, first_order=True), lambda: XI - ETA * (OTHERS @ XI + chi()), 2),
    "competitive": (
        ng.CompetitiveGradient(step_size=ETA, rtol=1e-12),
        lambda: np.linalg.solve(np.eye(8) + ETA * OTHERS, XI),
        np.linalg.matrix_rank(OTHERS) + 1,  # the degree of the minimal polynomial of I + ηH_o
    ),
}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_direction_is_its_definition(name):
    method, wanted, products = DIRECTIONS[name]
    found = ng.game_direction(CURVED, THREE, BATCH, method=method)
    assert close(packed(found.direction), wanted())
    assert np.array_equal(packed(found.gradient), XI)
    assert found.products == products


def test_sos_is_its_definition_where_shaping_helps_and_where_it_is_held_back():
    held, helping = 0, 0
    for seed in range(6):
        w = np.random.default_rng(seed).normal(size=8)
        xi, others = gradient(w), ng.game_jacobian(CURVED, unpacked(w), BATCH)
        for block in BLOCKS.values():
            others[block, block] = 0.0
        xi_0, shaping = xi - 0.1 * others @ xi, -0.1 * chi(w)
        along = shaping @ xi_0
        share = 1.0 if along >= 0.0 else min(1.0, -0.01 * (xi_0 @ xi_0) / along)
        held, helping = held + (share < 1.0), helping + (along >= 0.0)
        found = ng.game_direction(CURVED, unpacked(w), BATCH, method=ng.SOS(look_ahead=0.1, a=0.01))
        assert close(packed(found.direction), xi_0 + share * shaping, 1e-6)
        assert found.products == 2
    assert held
    assert helping


@pytest.mark.parametrize("name", [name for name in DIRECTIONS if name != "simultaneous"])
def test_no_two_directions_are_the_same_one_there(name):
    """Else the test above could not tell them apart."""
    wanted = DIRECTIONS[name][1]()
    for other, (_, point, _) in DIRECTIONS.items():
        same = {name, other} == {"symplectic", "aligned"} and close(aligned(), symplectic())
        assert other == name or same or not close(point(), wanted, 1e-4), other


@pytest.mark.parametrize(("fourth_power", "sign"), [(4.8, 1.0), (8.0, -1.0)])
def test_alignment_turns_the_adjustment_away_from_unstable_points(fourth_power, sign):
    """Of a hill that turns, 2Ĝ = [[-1, 1], [-1, -1]]: ⟨ξ, Ĝᵀξ⟩⟨Aᵀξ, Ĝᵀξ⟩ / n = -|ω|⁴ / 64, which is -0.1 at 6.4."""
    hill = ng.Game(
        {
            "x": lambda p, _: -0.25 * p["x"] ** 2 + 0.5 * p["x"] * p["y"],
            "y": lambda p, _: -0.25 * p["y"] ** 2 - 0.5 * p["x"] * p["y"],
        }
    )
    size = fourth_power**0.25
    point = {"x": np.array(0.6 * size), "y": np.array(-0.8 * size)}
    turned = ng.game_direction(hill, point, method=ng.SymplecticAdjustment())
    xi, found = turned.gradient, turned.direction
    assert found["x"] - xi["x"] == pytest.approx(sign * -0.5 * xi["y"])
    assert found["y"] - xi["y"] == pytest.approx(sign * 0.5 * xi["x"])


X, Y, SIGMA = 1.3, -0.7, 0.8
AT = {"x": np.array(X), "y": np.array(Y)}


def both(method, game=None, players=AT):
    found = ng.game_direction(game or bilinear(SIGMA), players, method=method).direction
    return float(found["x"]), float(found["y"])


def pulled(weight):
    """ξ of the bilinear game and so much of the pull towards its solution."""
    return pytest.approx((SIGMA * Y + weight * X, -SIGMA * X + weight * Y), abs=1e-13)


def test_directions_of_a_bilinear_game_have_their_closed_forms():
    square, across = SIGMA**2, 1.0 + (ETA * SIGMA) ** 2
    assert both(ng.Extragradient(step_size=ETA)) == pulled(ETA * square)
    assert both(ng.Consensus(weight=ETA)) == pulled(ETA * square)
    assert both(ng.SymplecticAdjustment(weight=ETA)) == pulled(ETA * square)
    assert both(ng.LookAhead(look_ahead=ETA)) == pulled(ETA * square)
    assert both(ng.LOLA(look_ahead=ETA)) == pulled(2.0 * ETA * square)
    assert both(ng.LOLA(look_ahead=ETA, first_order=True)) == pulled(2.0 * ETA * square)
    assert both(ng.SOS(look_ahead=ETA)) == pulled(2.0 * ETA * square)
    found = np.array(both(ng.CompetitiveGradient(step_size=ETA, rtol=1e-13)))
    assert tuple(found * across) == pulled(ETA * square)


def test_sos_near_a_fixed_point_shapes_by_the_squared_gradient():
    near = {"x": np.array(0.06), "y": np.array(-0.03)}
    share = 1.0 + SIGMA**2 * (0.06**2 + 0.03**2)
    wanted = (SIGMA * -0.03 + ETA * SIGMA**2 * share * 0.06, -SIGMA * 0.06 + ETA * SIGMA**2 * share * -0.03)
    assert both(ng.SOS(look_ahead=ETA), players=near) == pytest.approx(wanted, abs=1e-15)
    far = (SIGMA * -0.03 + 2 * ETA * SIGMA**2 * 0.06, -SIGMA * 0.06 + 2 * ETA * SIGMA**2 * -0.03)
    assert both(ng.SOS(look_ahead=ETA, b=0.01), players=near) == pytest.approx(far, abs=1e-15)


def test_sos_shapes_no_more_than_keeps_a_share_of_look_ahead():
    """In the team game L_1 = L_2 = xy at (1, 1): ξ₀ = 0.9 each, -ηχ = -0.1 each, and so p = 10 · 0.9 · a."""
    team = ng.Game({"x": lambda p, _: p["x"] * p["y"], "y": lambda p, _: p["x"] * p["y"]})
    ones = {"x": np.array(1.0), "y": np.array(1.0)}
    found = both(ng.SOS(look_ahead=0.1, a=0.05), team, ones)
    assert found == pytest.approx((0.9 - 0.045, 0.9 - 0.045), abs=1e-14)
    assert both(ng.SOS(look_ahead=0.1), team, ones) == pytest.approx((0.8, 0.8), abs=1e-14)


def test_lola_leaves_the_stationary_line_of_the_tandem_game():
    for x in (-0.4, 0.5, 2.0):
        line = {"x": np.array(x), "y": np.array(1.0 - x)}
        for stays in (ng.Simultaneous(), ng.LookAhead(look_ahead=ETA), ng.SOS(look_ahead=ETA)):
            assert both(stays, tandem(), line) == pytest.approx((0.0, 0.0), abs=1e-14)
        for moves in (ng.LOLA(look_ahead=ETA), ng.LOLA(look_ahead=ETA, first_order=True)):
            assert both(moves, tandem(), line) == pytest.approx((-4.0 * ETA, -4.0 * ETA), abs=1e-13)


@pytest.mark.parametrize(
    "method",
    [
        ng.LookAhead(look_ahead=0.0),
        ng.LOLA(look_ahead=0.0),
        ng.LOLA(look_ahead=0.0, first_order=True),
        ng.SOS(look_ahead=0.0),
        ng.Consensus(weight=0.0),
        ng.SymplecticAdjustment(weight=0.0),
    ],
)
def test_without_a_weight_every_direction_is_the_gradient(method):
    assert np.array_equal(parts(method), XI)


@pytest.mark.parametrize(
    "method",
    [
        ng.LookAhead(look_ahead=ETA),
        ng.LOLA(look_ahead=ETA),
        ng.LOLA(look_ahead=ETA, first_order=True),
        ng.SOS(look_ahead=ETA),
        ng.SymplecticAdjustment(weight=ETA),
        ng.CompetitiveGradient(step_size=ETA),
    ],
)
def test_players_who_do_not_meet_descend_their_gradients(method):
    alone = ng.Game({"x": lambda p, _: anp.sin(p["x"]), "y": lambda p, _: p["y"] ** 4})
    wanted = (math.cos(X), 4.0 * Y**3)
    assert both(method, alone) == pytest.approx(wanted, abs=1e-14)


@pytest.mark.parametrize(
    ("one", "two", "losses"),
    [
        (-300.0, -300.0, (1.9590639972476165, 1.9590639972476165)),
        (300.0, 300.0, (1.0, 1.0)),
        (0.0, 0.0, (1.8436208881352993, 1.8436208881352993)),
        (30.0, -30.0, (2.102345068718576, 1.6894059319451813)),
    ],
)
def test_the_small_prisoners_dilemma_has_its_known_losses(one, two, losses):
    found = ng.game_direction(small_ipd(), {"one": np.array(one), "two": np.array(two)})
    assert (found.losses["one"], found.losses["two"]) == pytest.approx(losses, abs=1e-12, rel=0.0)


def test_a_bilevel_problem_is_a_game_whose_leader_takes_the_params_as_given():
    def inner(params, hparams, batch):
        return 0.5 * (params - batch * hparams) ** 2

    def outer(params, hparams, batch):
        return params * batch + hparams**3

    game = ng.Game.of(ng.BilevelProblem(ng.Minimize(inner), outer))
    players = {"params": np.array(2.0), "hparams": np.array(0.5)}
    found = ng.game_direction(game, players, (3.0, 7.0))
    assert found.gradient == {"params": pytest.approx(0.5), "hparams": pytest.approx(0.75)}
    assert ng.game_jacobian(game, players, (3.0, 7.0)) == pytest.approx(
        np.array([[1.0, -3.0], [7.0, 3.0]]) - [[0, 0], [7.0, 0]]
    )


def test_at_a_solution_a_competitive_step_is_zero_and_free():
    found = ng.game_direction(
        bilinear(), {"x": np.array(0.0), "y": np.array(0.0)}, method=ng.CompetitiveGradient(step_size=1.0)
    )
    assert found.direction == {"x": 0.0, "y": 0.0}
    assert found.products == 0


def test_a_competitive_solve_that_does_not_converge_is_an_error_with_its_number():
    method = ng.CompetitiveGradient(step_size=ETA, max_steps=2)
    with pytest.raises(ng.NotConverged, match=r"CompetitiveGradient\(.*residual norm .*limit .*after 2 steps.*Remedy"):
        ng.game_direction(CURVED, THREE, BATCH, method=method)
    kept = ng.game_direction(CURVED, THREE, BATCH, method=method, throw=False)
    assert kept.products == 2
    assert np.isfinite(packed(kept.direction)).all()


def test_competing_players_of_a_singular_model_are_refused():
    """σ = 1 in a team and a step of 1: I + H_o = [[1, 1], [1, 1]]."""
    team = ng.Game({"x": lambda p, _: p["x"] * p["y"], "y": lambda p, _: p["x"] * p["y"]})
    with pytest.raises(ng.SingularJacobian, match="singular value"):
        both(ng.CompetitiveGradient(step_size=1.0), team)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    "method", [ng.Simultaneous(), ng.LookAhead(look_ahead=0.1), ng.CompetitiveGradient(step_size=0.1)]
)
def test_a_gradient_that_is_not_finite_is_refused_by_the_players_name(method):
    game = ng.Game({"x": lambda p, _: p["x"] ** 2, "y": lambda p, _: anp.sum(anp.sqrt(p["y"]))})
    players = {"x": np.array(1.0), "y": np.array([1.0, -1.0])}
    with pytest.raises(ng.NonFinite, match=r"gradient of player 'y': 1 of 2 entries.*limit 0\. Remedy"):
        ng.game_direction(game, players, method=method)
    kept = ng.game_direction(game, players, throw=False)
    assert np.isnan(kept.direction["y"][1])
    assert kept.direction["x"] == 2.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ng.game_direction(bilinear(), {"x": np.array(1.0)}), ng.InvalidInput, "players: got x, limit: .*x, y"),
        (lambda: ng.game_direction(bilinear(), {**AT, "y": {}}), ng.InvalidInput, r"players\['y'\]: 0 leaves, limit"),
        (
            lambda: ng.game_direction(bilinear(), {**AT, "y": np.array(1)}),
            ng.InvalidInput,
            r"players\['y'\].*int64, limit",
        ),
        (
            lambda: ng.game_direction(bilinear(), {**AT, "y": np.float32(1.0)}),
            ng.DtypeMismatch,
            r"players\['y'\] is float32, limit: float64",
        ),
        (lambda: ng.game_direction(bilinear(), AT, method="lola"), ng.InvalidInput, "method 'lola', limit: one of"),
        (
            lambda: ng.game_direction(ng.Game({"x": lambda p, _: p["x"], "y": lambda p, _: anp.ones(2) * p["y"]}), AT),
            ng.NonScalarLoss,
            r"loss of player 'y' returned shape \(2,\).*limit",
        ),
        (lambda: ng.game_jvp(bilinear(), AT, {"x": 1.0}), ng.InvalidInput, "tangents: .*limit 0"),
        (lambda: ng.game_vjp(bilinear(), AT, {**AT, "y": np.ones(2)}), ng.InvalidInput, r"cotangents\['y'\].*limit"),
        (
            lambda: ng.game_jacobian(CURVED, THREE, BATCH, max_params=7),
            ng.InvalidInput,
            "8 entries, limit max_params=7. Remedy: game_jvp",
        ),
    ],
)
def test_what_is_wrong_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
