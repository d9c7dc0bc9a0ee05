"""Self-tuning: what its fixed points are known to be."""

import importlib.util
import math
import pathlib

import pytest
import torch

import nestgrad_torch as ng
from nestgrad_torch import gated

_spec = importlib.util.spec_from_file_location("learned", pathlib.Path(__file__).with_name("learned.py"))
learned = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(learned)

D, SGD, rand, same, close = learned.D, learned.SGD, learned.rand, learned.same, learned.close
SIGNS = torch.tensor([[1.0], [-1.0]], dtype=D)


def number(value):
    return torch.tensor(value, dtype=D)


def of_one(inner, outer, **settings):
    """A tuner of one hyperparameter h and one weight w."""
    given = {"optimizer": ng.optim.sgd(0.1), "outer_optimizer": SGD, "samples": 2, "every": 1, **settings}
    center = given.pop("center", 0.7)
    return ng.SelfTuning(ng.BilevelProblem(ng.Minimize(inner), outer), hparams={"h": ng.Real(number(center))}, **given)


def slope_of_scale(entropy, scale, curvature=3.0):
    """How far a step of size 1 moves ς where the outer loss is ½ a h², h being 0."""
    run = of_one(
        lambda w, h, batch: 0.5 * (w["w"] - h["h"]).square(),
        lambda w, h, batch: 0.5 * curvature * h["h"].square(),
        entropy=entropy,
        scale=scale,
        center=0.0,
    )
    state = run.init({"w": number(0.3)}, key=0)
    after, _ = run.step(state, None, None, noise=(SIGNS, SIGNS))
    return float(after["scales"] - state["scales"])


def test_the_scale_stays_where_entropy_and_curvature_balance():
    best = math.sqrt(0.02 / 3.0)
    assert abs(slope_of_scale(0.02, best)) < 1e-15
    assert slope_of_scale(0.02, 1.1 * best) < -1e-6
    assert slope_of_scale(0.02, 0.9 * best) > 1e-6


def test_the_scale_shrinks_without_entropy_and_grows_with_much():
    assert slope_of_scale(0.0, 0.5) < -1e-3
    assert slope_of_scale(10.0, 0.5) > 1e-3
    assert slope_of_scale(None, 0.5) == 0.0


def test_the_entropys_slope_is_1_where_the_scale_is_too_small_to_be_divided():
    run = of_one(
        lambda w, h, batch: 0.5 * (w["w"] - h["h"]).square(), lambda w, h, batch: 0.0 * h["h"] + 1.0, entropy=0.5
    )
    state = run.init({"w": number(0.3)}, key=0)
    for low in (-40.0, -900.0):
        state["scales"] = torch.full((1,), low, dtype=D)
        after, _ = run.step(state, None, None)
        assert float(after["scales"]) == pytest.approx(low + 0.1 * 0.5, rel=1e-14)


def curved(w, h, batch):
    return 0.5 * (w["w"] - h["h"].square()).square()


CURVED = ng.PredictionLoss(
    predict=lambda w, h, batch: w["w"], loss=lambda value, h, batch: 0.5 * (value - h["h"].square()).square()
)


def settled(objective, center=0.7, scale=1.0):
    """φ as if trained for long: (weight · gates, bias) from its fixed point."""
    run = of_one(
        CURVED, lambda w, h, batch: w["w"].sin(), objective=objective, entropy=None, scale=scale, center=center
    )
    state = run.init({"w": number(0.1)}, key=0)
    state["params"]["weight"]["w"] = number(1.0)
    state["params"]["gates"]["w"] = torch.tensor([[0.5]], dtype=D)
    for _ in range(400):
        state, _ = run.step({**state, "hparams": {"h": number(center)}}, None, None, noise=(SIGNS, SIGNS))
    slope = state["params"]["weight"]["w"] * state["params"]["gates"]["w"].reshape(())
    return run, {**state, "hparams": {"h": number(center)}}, float(slope)


@pytest.mark.parametrize("objective", ["centred", "linearised"])
def test_centred_the_base_point_is_the_best_response_and_the_slope_its_derivative(objective):
    run, state, slope = settled(objective)
    assert float(run.response_params(state)["w"]) == pytest.approx(0.49, rel=1e-10)
    assert slope == pytest.approx(1.4, rel=1e-8)
    _, info = run.step(state, None, None, noise=(SIGNS, torch.zeros(2, 1, dtype=D)))
    assert float(info.hypergradient.total["h"]) == pytest.approx(math.cos(0.49) * 1.4, rel=1e-7)


def test_sampled_the_base_point_is_off_by_the_variance():
    run, state, slope = settled("sampled")
    assert float(run.response_params(state)["w"]) == pytest.approx(0.49 + 1.0, rel=1e-7)
    assert slope == pytest.approx(1.4, rel=1e-7)


# The best response H⁻¹(start + Cλ) is affine; one gate an entry, each with two numbers, holds it.

H = rand(4, 4, seed=11) @ rand(4, 4, seed=11).T + torch.eye(4, dtype=D)
C, START, LEAVES = rand(4, 2, seed=12), rand(4, seed=13), rand(2, seed=14)
AFFINE = ng.BilevelProblem(
    ng.Minimize(
        ng.PredictionLoss(
            predict=lambda w, h, batch: w["w"],
            loss=lambda w, h, batch: 0.5 * w @ H @ w - (START + C @ h["h"]) @ w,
        )
    ),
    lambda w, h, batch: (w["w"] ** 3).sum() + (h["h"] ** 2).sum(),
)


@pytest.mark.parametrize("objective", ["sampled", "centred", "linearised"])
def test_at_the_fixed_point_of_a_quadratic_the_hypergradient_is_the_implicit_one(objective):
    run = ng.SelfTuning(
        AFFINE,
        hparams={"h": ng.Real(LEAVES)},
        optimizer=ng.optim.sgd(0.05),
        outer_optimizer=SGD,
        objective=objective,
        samples=3,
        every=1,
    )
    state = run.init({"w": START}, key=0)
    solution = torch.linalg.solve(H, START + C @ LEAVES)
    at_zero = torch.linalg.solve(H, START)
    state["params"] = {
        "bias": {"w": at_zero if objective == "sampled" else solution},
        "weight": {"w": torch.ones(4, dtype=D)},
        "gates": {"w": torch.linalg.solve(H, C)},
    }
    after, info = run.step(state, None, None, noise=(rand(3, 2, seed=15), torch.zeros(3, 2, dtype=D)))
    assert close(after["params"], state["params"], rtol=1e-12, atol=1e-13)
    right = ng.hypergradient(AFFINE, {"w": solution}, {"h": LEAVES}, method=ng.Implicit(solver=ng.Dense()))
    assert close(info.hypergradient.total, right.total, rtol=1e-11)
    assert close(info.hypergradient.direct, right.direct, rtol=1e-11)
    again = ng.hypergradient(AFFINE, run.response_weights(state), {"h": LEAVES}, method=run.response)
    assert close(again.total, right.total, rtol=1e-11)


def test_centring_changes_no_value_of_the_network():
    shape, x = {"fc": {"weight": rand(3, 2, seed=1), "bias": rand(3, seed=2)}}, rand(4, 2, seed=3)
    seen = []

    def loss(w, h, batch):
        value = gated.linear(w["fc"], batch)
        seen.append(value.detach())
        return (value.square().sum(1) * h["h"].exp()).mean()

    phi, noise = ng.init_response(ng.GatedResponse(gate_scale=1.0), shape, {"h": rand()}, key=0), rand(4, 1, seed=4)
    for objective in ("sampled", "centred"):
        run = ng.SelfTuning(
            ng.BilevelProblem(ng.Minimize(loss), loss),
            hparams={"h": ng.Real(number(0.3))},
            optimizer=ng.optim.sgd(0.0),
            outer_optimizer=SGD,
            objective=objective,
            every=2,
        )
        state = {**run.init(shape, key=0), "step": 3, "params": phi}
        if objective == "sampled":  # whose code is λ itself
            state["params"] = {**phi, "bias": run_at(phi, -0.3)}
        run.step(state, x, x, noise=(noise, noise))
    sampled, outer_sampled, general, centred, outer_centred = seen
    assert torch.allclose(sampled, centred, rtol=1e-12, atol=1e-13)
    assert torch.allclose(outer_sampled, outer_centred, rtol=1e-12, atol=1e-13)
    assert torch.equal(general, gated.linear(shape["fc"], x))


def run_at(phi, code):
    return ng.respond(ng.GatedResponse(), phi, {"h": number(code)})


def test_linearised_and_centred_part_where_a_prediction_is_curved_alone():
    def tuned(predict):
        loss = ng.PredictionLoss(predict=predict, loss=lambda value, h, batch: 0.5 * (value - h["h"]).square().sum())
        states = []
        for objective in ("centred", "linearised"):
            run = of_one(
                loss, lambda w, h, batch: w["w"].sum() + h["h"], objective=objective, optimizer=ng.optim.sgd(1.0)
            )
            state = run.init({"w": rand(3)}, key=0)
            state["params"]["gates"] = {"w": rand(3, 1, seed=3)}
            states.append(run.step(state, None, None)[0]["params"])
        return states

    straight, bent = tuned(lambda w, h, batch: w["w"] * 2.0 - h["h"]), tuned(lambda w, h, batch: w["w"].sin())
    assert close(*straight, rtol=1e-12, atol=1e-13)
    assert close(bent[0]["bias"], bent[1]["bias"], rtol=1e-12)
    assert not close(bent[0]["gates"], bent[1]["gates"], rtol=1e-3)
