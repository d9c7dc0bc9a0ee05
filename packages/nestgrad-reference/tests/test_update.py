"""A move of play as a function of the whole state: the numbers of a step, and their derivative."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from moved_points import differences
from played_games import bilinear

import nestgrad_reference as ng
from nestgrad_reference.dynamics._map import StepMap

optim = ng.optim
CURVED = ng.Game(
    {
        "x": lambda p, b: anp.sin(p["x"] * p["y"][0]) + b * p["x"] ** 4 + p["y"][1] * p["x"],
        "y": lambda p, b: p["x"] ** 2 * p["y"][0] - b * anp.cos(p["y"][1]) + p["y"][0] * p["y"][1] ** 2,
    }
)
ALONE = ng.Game({"w": lambda p, b: anp.sum(p["w"] ** 4) - b * anp.sum(p["w"] ** 2) * p["w"][0]})
GAMES = {
    "two": (CURVED, {"x": np.array(0.7), "y": np.array([-0.9, 0.4])}),
    "one": (ALONE, {"w": np.array([0.8, -0.5])}),
}
DIRECTIONS = [
    ng.Simultaneous(),
    ng.Extragradient(step_size=0.2),
    ng.Consensus(weight=0.3),
    ng.SymplecticAdjustment(),
    ng.SymplecticAdjustment(weight=0.5, align=False),
    ng.LookAhead(look_ahead=0.3),
    ng.LOLA(look_ahead=0.3),
    ng.LOLA(look_ahead=0.3, first_order=True),
    ng.SOS(look_ahead=0.3),
    ng.SOS(look_ahead=0.3, b=9.0),
    ng.CompetitiveGradient(step_size=0.3, rtol=1e-13),
]
RULES = [
    optim.sgd(0.1, 0.9, 0.01, nesterov=True),
    optim.sgd(optim.cosine(0.1, 9), 0.9, dampening=0.3),
    optim.adam(0.1, 0.8, 0.5),
    optim.adamw(0.1, 0.8, 0.5),
    optim.rmsprop(0.1, 0.5, momentum=0.3, centered=True),
    optim.adagrad(0.1, lr_decay=0.1, initial_accumulator=0.2),
    optim.lion(0.1, weight_decay=0.1),
    optim.clipped(optim.sgd(0.1, 0.5), 0.3),
    optim.reversible_sgd(0.1, 0.75),
    optim.complex_adam(0.1, 0.8, 0.4, 0.5),
    optim.aggregated_momentum(0.1, [0.0, 0.9]),
    optim.recurrently_linked_momentum([[0.5, 0.1], [0.2, 0.6]], [1.0, 0.5], [0.1, 0.05]),
    optim.optimistic(0.1),
]


def begun(play, players, steps=2):
    """A state whose buffers are not zero."""
    state = play.init(players)
    for _ in range(steps):
        state, _ = play.step(state, 0.6)
    return state


def require_derivative(play, state):
    """That update gives a step's numbers, and its Jacobian is that by differences."""
    stepped, _ = play.step(state, 0.6)
    updated = play.update(state, 0.6)
    assert updated["step"] == stepped["step"] == state["step"] + 1
    for found, wanted in zip(ng.tree.leaves(updated), ng.tree.leaves(stepped), strict=True):
        assert np.array_equal(found, wanted)
    step = StepMap("test", lambda at: play.update(at, 0.6), state)
    found, _, _ = step.linearize(step.vector, step.carried)
    wanted = differences(lambda x: step(x, step.carried)[0], step.vector)
    assert np.abs(found - wanted).max() < 1e-8 * (1.0 + np.abs(wanted).max())


@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
@pytest.mark.parametrize("direction", DIRECTIONS, ids=repr)
@pytest.mark.parametrize("players", GAMES)
def test_every_direction_is_differentiated_through(players, direction, turns):
    game, start = GAMES[players]
    play = ng.Play(game, optimizer=optim.sgd(0.1, 0.8), direction=direction, turns=turns)
    require_derivative(play, begun(play, start, steps=1))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_every_rule_is_differentiated_through(rule):
    play = ng.Play(CURVED, optimizer=rule)
    require_derivative(play, begun(play, GAMES["two"][1]))


@pytest.mark.parametrize("direction", [ng.Consensus(weight=0.3), ng.CompetitiveGradient(step_size=0.3, rtol=1e-13)])
def test_it_is_differentiable_more_than_once(direction):
    play = ng.Play(CURVED, optimizer=optim.sgd(0.1), direction=direction)
    step = StepMap("test", lambda at: play.update(at, 0.6), play.init(GAMES["two"][1]))

    def slope(x):
        back, _, _ = step.pullback(x, step.carried)
        return back(np.arange(1.0, 1.0 + step.size))

    found = autograd.jacobian(slope)(step.vector)
    wanted = differences(slope, step.vector)
    assert np.abs(found - wanted).max() < 1e-7 * (1.0 + np.abs(wanted).max())


def test_a_player_alone_descends():
    play = ng.Play(ALONE, optimizer=optim.sgd(0.1))
    start = GAMES["one"][1]
    state, info = play.step(play.init(start), 0.6)
    slope = 4.0 * start["w"] ** 3 - 0.6 * (2.0 * start["w"] * start["w"][0] + np.array([np.sum(start["w"] ** 2), 0.0]))
    assert state["players"]["w"] == pytest.approx(start["w"] - 0.1 * slope, rel=1e-14)
    assert float(info.direction_norm) == pytest.approx(np.linalg.norm(slope))
    assert np.all(ng.game_jvp(ALONE, start, start, 0.6)["w"] != 0.0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
def test_it_does_not_look_at_whether_numbers_are_finite(turns):
    play = ng.Play(bilinear(np.inf), optimizer=optim.sgd(0.1), turns=turns)
    state = play.init({"x": np.array(1.0), "y": np.array(0.3)})
    with pytest.raises(ng.NonFinite, match="step 1: direction of player 'x'"):
        play.step(state)
    assert not np.isfinite(play.update(state)["players"]["x"])


def test_the_state_given_is_kept():
    play = ng.Play(CURVED, optimizer=optim.adam(0.1))
    state = begun(play, GAMES["two"][1])
    before = [np.array(leaf) for leaf in ng.tree.leaves(state)]
    play.update(state, 0.6)
    assert all(np.array_equal(a, b) for a, b in zip(before, ng.tree.leaves(state), strict=True))
