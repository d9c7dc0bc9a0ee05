"""Playing games: against matrices, closed forms, and the rates that the spectra foretell."""

import autograd.numpy as anp
import numpy as np
import pytest
from played_games import bilinear, dirac_gan, linear, small_ipd, tandem

import nestgrad_reference as ng
from nestgrad_reference import spectra

optim = ng.optim
START = {"x": np.array(1.0), "y": np.array(0.3)}


def played(play, players, steps, batch=None):
    """The final state, the infos, and the norm of all players after each step."""
    state, infos, norms = play.init(players), [], []
    for _ in range(steps):
        state, info = play.step(state, batch)
        infos.append(info)
        norms.append(np.sqrt(sum(float(np.sum(leaf**2)) for leaf in ng.tree.leaves(state["players"]))))
    return state, infos, np.array(norms)


def test_players_at_once_see_the_old_and_in_turn_the_new():
    at_once, infos, _ = played(ng.Play(bilinear(), optimizer=optim.sgd(0.1)), START, 1)
    assert at_once["players"] == {"x": pytest.approx(1.0 - 0.03), "y": pytest.approx(0.3 + 0.1)}
    assert infos[0].losses == {"x": pytest.approx(0.3), "y": pytest.approx(-0.3)}
    assert float(infos[0].direction_norm) == pytest.approx(np.hypot(0.3, 1.0))
    play = ng.Play(bilinear(), optimizer=optim.sgd(0.1), turns="alternating")
    in_turn, infos, _ = played(play, START, 1)
    assert in_turn["players"] == {"x": pytest.approx(0.97), "y": pytest.approx(0.3 + 0.097)}
    assert infos[0].losses == {"x": pytest.approx(0.3), "y": pytest.approx(-0.97 * 0.3)}
    assert float(infos[0].direction_norm) == pytest.approx(np.hypot(0.3, 0.97))


def test_the_games_order_is_the_order_of_turns():
    play = ng.Play(bilinear(), optimizer=optim.sgd(0.1), turns="alternating")
    state, _, _ = played(play, {"y": START["y"], "x": START["x"]}, 1)
    assert state["players"] == {"y": pytest.approx(0.397), "x": pytest.approx(0.97)}
    assert list(state["players"]) == ["y", "x"]


def test_in_turn_a_direction_is_taken_anew():
    """Extragradient: x descends y + ηx, and then y descends -x' + ηy."""
    method = ng.Extragradient(step_size=0.2)
    play = ng.Play(bilinear(), optimizer=optim.sgd(0.1), direction=method, turns="alternating")
    state, infos, _ = played(play, START, 1)
    x = 1.0 - 0.1 * (0.3 + 0.2)
    y = 0.3 - 0.1 * (-x + 0.2 * 0.3)
    assert state["players"] == {"x": pytest.approx(x), "y": pytest.approx(y)}
    assert float(infos[0].direction_norm) == pytest.approx(np.hypot(0.5, -x + 0.06))


@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
@pytest.mark.parametrize("direction", [ng.LOLA(look_ahead=0.2), ng.CompetitiveGradient(step_size=0.2)])
def test_a_step_goes_down_its_direction(turns, direction):
    """Player by player at the point where the direction is to be taken."""
    start = {"one": np.array(0.2), "two": np.array(-0.5)}
    state, _, _ = played(ng.Play(small_ipd(), optimizer=optim.sgd(1.5), direction=direction, turns=turns), start, 1)
    expected = dict(start)
    for name in ("one", "two"):
        at = start if turns == "simultaneous" else expected
        part = ng.game_direction(small_ipd(), at, method=direction).direction[name]
        expected = {**expected, name: expected[name] - 1.5 * part}
    assert state["players"] == expected


def test_each_player_has_its_optimizer_and_the_state_given_is_kept():
    play = ng.Play(bilinear(), optimizer={"y": optim.sgd(0.1, 0.9), "x": optim.complex_adam(0.2, 0.5, 0.3)})
    state = play.init(START)
    assert set(state["opt_state"]["y"]) == {"trace"}
    assert set(state["opt_state"]["x"]) == {"real", "imag", "v", "count"}
    after, _ = play.step(state)
    again, _ = play.step(state)
    assert after["players"] == again["players"] != state["players"]
    assert state["players"] == START
    assert (state["step"], after["step"]) == (0, 1)


def test_the_state_after_some_steps_is_the_maps_power():
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(4, 4))
    matrix[:2, :2] += matrix[:2, :2].T
    matrix[2:, 2:] += matrix[2:, 2:].T
    step, momentum, start = 0.07, 0.8 * np.exp(0.5j), rng.normal(size=4)
    state, _, _ = played(
        ng.Play(linear(matrix), optimizer=optim.complex_momentum(step, 0.8, 0.5)),
        {"first": start[:2], "second": start[2:]},
        9,
    )
    eye, turned = np.eye(4), step * momentum
    once = np.block(
        [
            [momentum.real * eye, -momentum.imag * eye, -matrix],
            [momentum.imag * eye, momentum.real * eye, 0.0 * eye],
            [turned.real * eye, -turned.imag * eye, eye - step * matrix],
        ]
    )
    wanted = np.linalg.matrix_power(once, 9) @ np.concatenate([np.zeros(8), start])
    held = [state["opt_state"][name][part] for part in ("real", "imag") for name in ("first", "second")]
    found = np.concatenate([*held, state["players"]["first"], state["players"]["second"]])
    assert np.abs(found - wanted).max() < 1e-12 * (1.0 + np.abs(wanted).max())
    assert state["step"] == 9


MOMENTA = [
    (0.0, 0.0, "simultaneous"),
    (0.9, 0.0, "simultaneous"),
    (0.5, np.pi, "simultaneous"),
    (0.5, np.pi, "alternating"),
    (0.9, np.pi / 8, "simultaneous"),
    (0.9, np.pi / 8, "alternating"),
    (0.9, np.pi / 2, "simultaneous"),
    (0.9, np.pi / 2, "alternating"),
]


@pytest.mark.parametrize(("modulus", "argument", "turns"), MOMENTA)
def test_a_dirac_gan_decays_as_its_spectrum_says(modulus, argument, turns):
    """The logarithm of the factor a step, to 1 %, so near the equilibrium that the game is linear throughout."""
    play = ng.Play(dirac_gan(), optimizer=optim.complex_momentum(0.1, modulus, argument), turns=turns)
    momentum = modulus * np.exp(1j * argument)
    spectrum = (
        np.linalg.eigvals(ng.game_jacobian(dirac_gan(), {"theta": np.zeros(()), "psi": np.zeros(())}))
        if turns == "simultaneous"
        else [0.5]
    )
    rate = spectra.rate(spectrum, step_size=0.1, momentum=momentum, turns=turns)
    _, _, norms = played(play, {"theta": np.array(1e-45), "psi": np.array(3e-46)}, 700)
    logs, steps = np.log(norms), np.arange(700)
    found = np.polyfit(steps[100:], logs[100:], 1)[0]
    assert found == pytest.approx(np.log(rate), rel=0.01)


def test_a_bilinear_game_under_other_directions_decays_as_their_spectra_say():
    start, unit = {"x": np.array(1.0), "y": np.array(0.0)}, [1j, -1j]
    extra = ng.Play(bilinear(), optimizer=optim.sgd(0.3), direction=ng.Extragradient(step_size=0.3))
    _, _, norms = played(extra, start, 60)
    assert (norms[-1] / norms[9]) ** (1 / 50) == pytest.approx(
        spectra.extragradient_rate(unit, step_size=0.3), rel=1e-9
    )
    _, _, norms = played(ng.Play(bilinear(), optimizer=optim.optimistic(0.3)), start, 200)
    rate = spectra.optimistic_rate(unit, step_size=0.3)
    assert (norms[-1] / norms[99]) ** (1 / 100) == pytest.approx(rate, rel=1e-9)


def test_gradients_reach_defection_and_lola_cooperation_in_the_small_dilemma():
    start = {"one": np.array(0.1), "two": np.array(-0.1)}
    _, naive, _ = played(ng.Play(small_ipd(), optimizer=optim.sgd(5.0)), start, 60)
    _, shaped, _ = played(ng.Play(small_ipd(), optimizer=optim.sgd(5.0), direction=ng.LOLA(look_ahead=5.0)), start, 60)
    assert min(naive[-1].losses.values()) > 1.9
    assert max(shaped[-1].losses.values()) < 1.1


def test_batches_reach_the_losses():
    game = ng.Game({"x": lambda p, b: b * p["x"], "y": lambda p, b: anp.sum(p["y"]) * b**2})
    players = {"x": np.array(1.0), "y": np.ones((2, 2))}
    state, _, _ = played(ng.Play(game, optimizer=optim.sgd(0.1)), players, 1, batch=3.0)
    assert state["players"]["x"] == pytest.approx(0.7)
    assert state["players"]["y"] == pytest.approx(np.full((2, 2), 0.1))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
def test_a_direction_that_is_not_finite_names_the_step_and_the_player(turns):
    game = ng.Game({"x": lambda p, _: p["x"] ** 2, "y": lambda p, _: anp.sqrt(p["y"])})
    players = {"x": np.array(1.0), "y": np.array(0.3)}
    play = ng.Play(game, optimizer=optim.sgd(0.4), turns=turns)
    state, _ = play.step(play.init(players))
    with pytest.raises(ng.NonFinite, match="step 2: direction of player 'y': 1 of 1 entries"):
        play.step(state)
    kept = ng.Play(game, optimizer=optim.sgd(0.4), turns=turns, throw=False)
    after, info = kept.step(state)
    assert np.isnan(after["players"]["y"])
    assert after["players"]["x"] == pytest.approx(0.04)
    assert np.isnan(info.direction_norm)


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda: ng.Play("game", optimizer=optim.sgd(0.1)), ng.InvalidInput, "Play.game: got 'game', limit"),
        (
            lambda: ng.Play(tandem(), optimizer={"x": optim.sgd(0.1)}),
            ng.InvalidInput,
            "Play.optimizer: got one for x, limit: one for each of x, y",
        ),
        (
            lambda: ng.Play(tandem(), optimizer={"x": optim.sgd(0.1), "y": "sgd"}),
            ng.UnsupportedOptimizer,
            "Play.optimizer of 'y': got str, limit",
        ),
        (
            lambda: ng.Play(tandem(), optimizer=optim.sgd(0.1), direction="lola"),
            ng.InvalidInput,
            "Play.direction: got 'lola', limit",
        ),
        (
            lambda: ng.Play(tandem(), optimizer=optim.sgd(0.1), turns="both"),
            ng.InvalidInput,
            "turns: got 'both', limit: simultaneous, alternating",
        ),
        (
            lambda: ng.Play(tandem(), optimizer=optim.sgd(0.1)).init({"x": np.array(1.0)}),
            ng.InvalidInput,
            "players: got x, limit: the game's x, y",
        ),
    ],
)
def test_what_is_wrong_is_named(made, error, message):
    with pytest.raises(error, match=message):
        made()
