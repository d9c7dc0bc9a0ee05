"""Play.update: the move of Play.step, bit for bit, as a function that is differentiable as often as asked."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import nestgrad_torch as ng

D = torch.float64

TWO = ng.Game(
    {
        "x": lambda p, b: (p["x"][0] * p["y"] * b).sin() + p["x"].exp().prod() + p["x"][1] ** 3 * p["y"],
        "y": lambda p, b: (p["y"] * p["x"].sum()).cos() + p["y"] ** 4 * b - p["x"].prod() * p["y"] ** 2,
    }
)
ONE = ng.Game({"x": lambda p, b: (p["x"] ** 2).prod() * b + p["x"].sin().sum()})
RULES = {"x": ng.optim.complex_momentum(0.05, 0.7, 0.4), "y": ng.optim.sgd(0.1, momentum=0.5)}
BATCH = torch.tensor(0.8, dtype=D)
DIRECTIONS = [
    ng.Simultaneous(),
    ng.Extragradient(step_size=0.3),
    ng.Consensus(weight=0.3),
    ng.SymplecticAdjustment(weight=0.7),
    ng.LookAhead(look_ahead=0.3),
    ng.LOLA(look_ahead=0.3),
    ng.LOLA(look_ahead=0.3, first_order=True),
    ng.SOS(look_ahead=0.3),
    ng.SOS(look_ahead=3.0, a=0.01),
    ng.CompetitiveGradient(step_size=0.3, rtol=1e-14),
]


def begun(game, direction, turns):
    players = {"x": torch.tensor([0.4, -0.6], dtype=D), "y": torch.tensor(0.3, dtype=D)}
    play = ng.Play(game, optimizer={name: RULES[name] for name in game.names}, direction=direction, turns=turns)
    state, _ = play.step(play.init({name: players[name] for name in game.names}), BATCH)
    return play, state


def floating(state):
    return [leaf for leaf in ng.tree.leaves(state) if isinstance(leaf, torch.Tensor)]


def with_leaves(state, leaves):
    new = iter(leaves)
    return ng.tree.map(lambda leaf: next(new) if isinstance(leaf, torch.Tensor) else leaf, state)


@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
@pytest.mark.parametrize("game", [TWO, ONE], ids=["two", "one"])
@pytest.mark.parametrize("direction", DIRECTIONS, ids=str)
def test_it_is_the_step_and_differentiable_twice(direction, game, turns):
    play, state = begun(game, direction, turns)
    expected, _ = play.step(state, BATCH)

    def moved(*leaves):
        return tuple(floating(play.update(with_leaves(state, leaves), BATCH)))

    leaves = [leaf.clone().requires_grad_() for leaf in floating(state)]
    assert all(map(torch.equal, moved(*leaves), floating(expected)))
    plain = play.update(state, BATCH)
    assert all(map(torch.equal, floating(plain), floating(expected)))
    assert not any(leaf.requires_grad for leaf in floating(plain))
    assert plain["step"] == expected["step"] == 2
    summed = lambda *x: sum((leaf * leaf).sin().sum() for leaf in moved(*x))  # noqa: E731
    assert gradcheck(summed, leaves, atol=1e-6)
    assert gradgradcheck(summed, leaves, atol=1e-5)


def test_a_graph_leads_to_all_that_requires_grad_and_there_is_none_without():
    play, state = begun(TWO, ng.Simultaneous(), "alternating")
    state["opt_state"]["y"]["trace"].requires_grad_()
    assert play.update(state, BATCH)["players"]["y"].requires_grad
    with torch.no_grad():
        assert not play.update(state, BATCH)["players"]["y"].requires_grad


def test_it_does_not_look_at_whether_numbers_are_finite():
    odd = ng.Game({"x": lambda p, _: p["x"] ** 2, "y": lambda p, _: (p["y"] - p["y"].detach()).sqrt()})
    play = ng.Play(odd, optimizer=ng.optim.sgd(0.1))
    for attached in (False, True):
        state = play.init({"x": torch.tensor(1.0, dtype=D), "y": torch.tensor(1.0, dtype=D)})
        state["players"]["x"].requires_grad_(attached)
        after = play.update(state)
        assert float(after["players"]["x"].detach()) == pytest.approx(0.8)
        assert not after["players"]["y"].isfinite()
    with pytest.raises(ng.NonFinite, match="player 'y'"):
        play.step(state)


def test_a_loss_without_second_derivatives_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            return 3.0 * slope * ctx.saved_tensors[0] ** 2

    point = {"w": torch.tensor([0.3, 0.4], dtype=D)}
    for loss, named in (
        (lambda p, _: Once.apply(p["w"]).square().sum(), "once_differentiable"),
        (lambda p, _: torch.nn.functional.multi_margin_loss(p["w"][None], torch.tensor([0])), "multi_margin_loss"),
    ):
        play = ng.Play(ng.Game({"w": loss}), optimizer=ng.optim.sgd(0.1))
        with pytest.raises(ng.DoubleBackwardUnsupported, match=named):
            ng.lyapunov_exponents(play.update, play.init(point), num_steps=2)
