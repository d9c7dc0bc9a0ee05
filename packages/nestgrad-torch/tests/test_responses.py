"""Learned responses: what they give, the method that they are, and the tuner that trains them."""

import copy
import importlib.util
import pathlib

import pytest
import torch
from torch import nn

import nestgrad_torch as ng

_spec = importlib.util.spec_from_file_location("learned", pathlib.Path(__file__).with_name("learned.py"))
learned = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(learned)

D, SGD, RESPONSES = learned.D, learned.SGD, learned.RESPONSES
rand, params, same, close, kind = learned.rand, learned.params, learned.same, learned.close, learned.kind


def hparams(dtype=D):
    """In an order that is not that of the paths."""
    return {"b": rand(2, seed=4, dtype=dtype), "a": rand(seed=5, dtype=dtype)}


def inner(w, h, batch):
    error = w["w"].sum(1) + w["deep"][1] * h["b"].sum() - 1.0
    return (error**2).sum() + h["a"].exp() * (w["w"] ** 2).sum() + (w["deep"][0] - h["b"]).square().sum()


def outer(w, h, batch):
    return ((w["w"] - 0.3) ** 2).sum() + w["deep"][0].sum() ** 2 + w["deep"][1].sin() + 0.1 * h["a"] ** 2


PROBLEM = ng.BilevelProblem(ng.Minimize(inner), outer)


def weights(response, seed=7):
    """A response's weights with no zeros among them."""
    found = ng.init_response(response, params(), hparams(), key=3)
    return ng.tree.map(lambda x: x + 0.3 * rand(*x.shape, seed=seed), found)


def spaces():
    return {"b": ng.Real(torch.tensor([0.2, -0.1], dtype=D)), "a": ng.Softplus(0.4)}


def tuner(response=RESPONSES[0], problem=PROBLEM, **settings):
    given = {"hparams": spaces(), "optimizer": ng.optim.adam(1e-2), "outer_optimizer": SGD, **settings}
    return ng.HyperTraining(problem, response=response, **given)


@pytest.mark.parametrize("response", RESPONSES, ids=kind)
def test_a_response_begins_at_params_and_draws_by_its_key_alone(response, dtype):
    before = torch.get_rng_state()
    found = ng.init_response(response, params(dtype), hparams(dtype), key=3)
    assert same(ng.respond(response, found, hparams(dtype)), params(dtype))
    assert same(found, ng.init_response(response, params(dtype), hparams(dtype), key=3))
    assert {leaf.dtype for leaf in ng.tree.leaves(found)} == {dtype}
    assert torch.equal(torch.get_rng_state(), before)
    if not isinstance(response, ng.LinearResponse):
        assert not same(found, ng.init_response(response, params(dtype), hparams(dtype), key=4))


@pytest.mark.parametrize("response", learned.SLOPED, ids=kind)
def test_the_weights_of_a_response_have_one_more_axis_that_of_its_features(response):
    found, size = ng.init_response(response, params(), hparams(), key=3), ng.features(response, 3)
    assert found["weight"]["w"].shape == (3, 2, size)
    assert found["weight"]["deep"][1].shape == (size,)
    assert "inner" not in found or found["inner"].shape == (size, 3)


def test_the_first_draws_have_the_sizes_that_are_promised():
    many = {"w": rand(2), "h": rand(50)}
    factorised = ng.init_response(ng.FactorisedResponse(400), {"w": many["w"]}, {"h": many["h"]}, key=0)
    assert abs(float(factorised["inner"].std()) * 50**0.5 - 1.0) < 0.02
    assert not factorised["offset"].any()
    mlp = ng.init_response(ng.MLPResponse(400), {"w": many["w"]}, {"h": many["h"]}, key=0)
    drawn = torch.cat([mlp["inner"].reshape(-1), mlp["offset"]]) * 50**0.5
    assert 0.99 < float(drawn.abs().max()) <= 1.0
    assert abs(float(drawn.std()) - 3**-0.5) < 0.01
    assert mlp["offset"].any()


@pytest.mark.parametrize("response", learned.SLOPED, ids=kind)
def test_a_response_is_bias_plus_weight_times_features_of_the_sorted_hyperparameters(response):
    phi, h = weights(response), hparams()
    z = torch.cat([h["a"].reshape(1), h["b"]])
    if "inner" in phi:
        z = phi["inner"] @ z + phi["offset"]
    if isinstance(response, ng.MLPResponse):
        assert bool((z < 0.0).any())
        z = z.clamp(min=0.0)
    right = ng.tree.map(lambda bias, weight: bias + weight @ z, phi["bias"], phi["weight"])
    assert close(ng.respond(response, phi, h), right, rtol=1e-14)


@pytest.mark.parametrize("response", RESPONSES, ids=kind)
def test_a_response_is_differentiable_in_both_arguments(response):
    phi, h = weights(response), hparams()
    at = [leaf.clone().requires_grad_() for leaf in [*ng.tree.leaves(phi), *ng.tree.leaves(h)]]
    count = len(ng.tree.leaves(phi))

    def function(*leaves):
        given = ng.tree.unflatten(phi, leaves[:count]), ng.tree.unflatten(h, leaves[count:])
        return tuple(ng.tree.leaves(ng.respond(response, *given)))

    assert torch.autograd.gradcheck(function, at)
    assert torch.autograd.gradgradcheck(function, at)


@pytest.mark.parametrize("response", RESPONSES, ids=kind)
def test_the_transforms_of_torch_func_go_through_a_response(response):
    phi, h = weights(response), hparams()
    found = torch.func.grad(lambda at: outer(ng.respond(response, phi, at), at, None))(h)
    assert close(found, ng.hypergradient(PROBLEM, phi, h, method=response).total, rtol=1e-12)


@pytest.mark.parametrize("response", RESPONSES, ids=kind)
def test_the_hypergradient_is_the_derivative_through_the_response(response, dtype):
    phi = ng.tree.map(lambda x: x.to(dtype), weights(response))
    kept, before = copy.deepcopy(phi), torch.get_rng_state()
    found = ng.hypergradient(PROBLEM, phi, hparams(dtype), method=response)
    h = ng.tree.map(lambda x: x.clone().requires_grad_(), hparams(dtype))
    w = ng.respond(response, phi, h)
    right = torch.autograd.grad(outer(w, h, None), ng.tree.leaves(h))
    rtol = 1e-12 if dtype is D else 1e-4
    assert close(found.total, ng.tree.unflatten(h, right), rtol=rtol)
    assert close(found.total, ng.tree.map(torch.add, found.direct, found.indirect), rtol=rtol)
    assert close(found.params, ng.tree.map(torch.detach, w), rtol=rtol)
    leaves = [leaf.detach().requires_grad_() for leaf in ng.tree.leaves(w)]
    tied = ng.tree.unflatten(w, leaves)
    assert close(found.adjoint, ng.tree.unflatten(w, torch.autograd.grad(outer(tied, h, None), leaves)), rtol=rtol)
    slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(inner(tied, h, None), leaves)])
    assert found.stats.inner_optimality == pytest.approx(float(slope.norm()), rel=rtol)
    assert found.stats.rhs_norm == found.stats.adjoint_norm > 0.0
    assert (found.stats.steps, found.stats.products) == (0, 0)
    assert found.status is ng.Status.TRUNCATED
    assert {leaf.dtype for leaf in ng.tree.leaves((found.total, found.params, found.adjoint))} == {dtype}
    assert same(phi, kept)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_not_finite_is_said():
    phi = weights(RESPONSES[0])
    phi["weight"]["w"][0, 0, 0] = torch.nan
    found = ng.hypergradient(PROBLEM, phi, hparams(), method=RESPONSES[0], throw=False)
    assert found.status is ng.Status.NONFINITE
    with pytest.raises(ng.NonFinite):
        ng.hypergradient(PROBLEM, phi, hparams(), method=RESPONSES[0])


def wrong(response, change):
    phi = weights(response)
    change(phi)
    return phi


@pytest.mark.parametrize(
    ("response", "change", "named"),
    [
        (RESPONSES[1], lambda phi: phi.pop("inner"), r"weights\['inner'\]: got none, limit: shape \(2, 3\)"),
        (RESPONSES[0], lambda phi: phi.pop("weight"), r"weights\['weight'\]: got none"),
        (RESPONSES[0], lambda phi: phi.update(inner=rand(2, 3)), r"weights\['inner'\]: got one"),
        (RESPONSES[2], lambda phi: phi.update(inner=rand(4, 2)), r"'inner'\]: got \(4, 2\), limit: shape \(4, 3\)"),
        (RESPONSES[2], lambda phi: phi.update(offset=rand(3)), r"'offset'\]: got \(3,\), limit: shape \(4,\)"),
        (
            RESPONSES[0],
            lambda phi: phi["weight"].update(w=rand(3, 2, 2)),
            r"'weight/w'\]: got \(3, 2, 2\), limit: shape \(3, 2, 3\)",
        ),
        (RESPONSES[0], lambda phi: phi["weight"].pop("w"), r"'weight/w'\]: got none, limit: shape \(3, 2, 3\)"),
        (RESPONSES[0], lambda phi: phi["bias"].pop("w"), r"'weight/w'\]: got one, limit: a leaf for each"),
    ],
)
def test_weights_of_another_response_are_refused_by_name(response, change, named):
    phi = wrong(response, change)
    with pytest.raises(ng.InvalidInput, match=named) as refused:
        ng.respond(response, phi, hparams())
    assert "init_response(" in str(refused.value)
    with pytest.raises(ng.InvalidInput, match=named):
        ng.hypergradient(PROBLEM, phi, hparams(), method=response)


def test_what_a_response_cannot_take_is_refused():
    module, response = nn.Linear(2, 1).double(), RESPONSES[0]
    with pytest.raises(ng.UnsupportedModule, match="functional_call"):
        ng.init_response(response, module, hparams(), key=0)
    with pytest.raises(ng.UnsupportedModule, match="functional_call"):
        ng.respond(response, module, hparams())
    with pytest.raises(ng.UnsupportedModule, match="functional_call"):
        ng.hypergradient(PROBLEM, module, hparams(), method=response)
    with pytest.raises(ng.UnsupportedModule, match="functional_call"):
        tuner().init(module, key=0)
    with pytest.raises(ng.InvalidInput, match="LinearResponse"):
        ng.respond("linear", weights(response), hparams())
    updated = ng.BilevelProblem(ng.WeightUpdate(inner, lambda h: ng.optim.sgd(0.1)), outer)
    with pytest.raises(ng.UnsupportedSpec, match="Minimize"):
        ng.hypergradient(updated, weights(response), hparams(), method=response)
    with pytest.raises(ng.UnsupportedSpec, match="Minimize"):
        tuner(problem=updated)
    with pytest.raises(ng.UnsupportedSpec, match="compile"):
        ng.hypergradient(PROBLEM, weights(response), hparams(), method=response, compile=True)
    with pytest.raises(ng.DtypeMismatch):
        ng.respond(response, weights(response), hparams(torch.float32))
    with pytest.raises(ng.UnsupportedOptimizer, match="init"):
        tuner(optimizer=torch.optim.Adam([torch.zeros(1, requires_grad=True)]))
    with pytest.raises(ng.UnsupportedOptimizer, match="function of the leaves"):
        tuner(outer_optimizer=torch.optim.Adam([torch.zeros(1, requires_grad=True)]))


def test_a_hyperparameter_of_neither_loss_is_refused_though_the_response_knows_it():
    lonely = {**hparams(), "c": rand(seed=9)}
    phi = ng.init_response(RESPONSES[0], params(), lonely, key=0)
    with pytest.raises(ng.DisconnectedHyperparameter, match="'c'"):
        ng.hypergradient(PROBLEM, phi, lonely, method=RESPONSES[0])


def test_a_module_is_trained_by_the_remedy_that_its_refusal_names():
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    kept, data = copy.deepcopy(module.state_dict()), (rand(6, 2, seed=1), rand(6, 1, seed=2))

    def error(w, h, batch):
        return (torch.func.functional_call(module, w, batch[0]) - batch[1]).square().mean()

    def penalised(w, h, batch):
        return error(w, h, batch) + h["decay"] * sum((x**2).sum() for x in w.values())

    run = tuner(problem=ng.BilevelProblem(ng.Minimize(penalised), error), hparams={"decay": ng.Log(0.1)})
    state, losses = run.init(dict(module.named_parameters()), key=0), []
    assert same(run.response_params(state), {name: p.detach() for name, p in module.named_parameters()})
    for _ in range(30):
        state, info = run.step(state, data, data)
        losses.append(float(info.inner_loss))
    assert losses[-1] < 0.8 * losses[0]
    assert same(module.state_dict(), kept)


# The best response of a quadratic with a linear term that is affine in λ is affine.

H = rand(4, 4, seed=11) @ rand(4, 4, seed=11).T + torch.eye(4, dtype=D)
C, START = rand(4, 2, seed=12), rand(4, seed=13)
AFFINE = ng.BilevelProblem(
    ng.Minimize(lambda w, h, batch: 0.5 * w["w"] @ H @ w["w"] - (START + C @ h["h"]) @ w["w"]),
    lambda w, h, batch: (w["w"] ** 3).sum() + (h["h"] ** 2).sum(),
)
BEST = {"bias": {"w": torch.linalg.solve(H, START)}, "weight": {"w": torch.linalg.solve(H, C)}}


def test_an_affine_best_response_gives_the_implicit_hypergradient():
    h = {"h": rand(2, seed=14)}
    found = ng.hypergradient(AFFINE, BEST, h, method=ng.LinearResponse())
    solution = {"w": torch.linalg.solve(H, START + C @ h["h"])}
    right = ng.hypergradient(AFFINE, solution, h, method=ng.Implicit(solver=ng.Dense()))
    assert torch.allclose(found.total["h"], right.total["h"], rtol=1e-12, atol=1e-12)
    assert torch.allclose(found.params["w"], solution["w"], rtol=1e-12)
    assert found.stats.inner_optimality < 1e-12


def test_an_affine_best_response_stays_in_place_whatever_the_noise():
    run = ng.HyperTraining(
        AFFINE,
        hparams={"h": ng.Real(rand(2, seed=14))},
        response=ng.LinearResponse(),
        optimizer=ng.optim.sgd(0.1),
        outer_optimizer=SGD,
        samples=3,
    )
    state = {**run.init({"w": START}, key=0), "params": BEST}
    after, info = run.step(state, None, None, noise=100.0 * rand(3, 2, seed=15))
    assert close(after["params"], BEST, rtol=1e-12)
    right = ng.hypergradient(AFFINE, BEST, state["hparams"], method=ng.LinearResponse())
    assert close(info.hypergradient.total, right.total, rtol=1e-12)
    assert torch.allclose(after["hparams"]["h"], state["hparams"]["h"] - 0.1 * right.total["h"], rtol=1e-12)


def test_where_the_best_response_is_curved_the_slope_is_right_and_the_value_off_by_the_variance():
    curved = ng.BilevelProblem(
        ng.Minimize(lambda w, h, batch: 0.5 * (w["w"] - h["h"] ** 2) ** 2), lambda w, h, batch: w["w"].sin()
    )
    center, variance = 0.7, 0.09
    run = ng.HyperTraining(
        curved,
        hparams={"h": ng.Real(torch.tensor(center, dtype=D))},
        response=ng.LinearResponse(),
        optimizer=ng.optim.sgd(0.5),
        outer_optimizer=SGD,
        distribution=ng.Normal(variance=variance),
        response_steps=100,
    )
    state, noise = run.init({"w": rand(seed=1)}, key=0), torch.tensor([[1.0], [-1.0]], dtype=D)
    value, slope = center**2 + variance, 2.0 * center
    bias, weight = torch.tensor(value - slope * center, dtype=D), torch.tensor([slope], dtype=D)
    state["params"] = {"bias": {"w": bias}, "weight": {"w": weight}}
    assert float(run.response_params(state)["w"]) == pytest.approx(value, rel=1e-14)
    after, _ = run.step(state, None, None, noise=noise)
    assert close(after["params"], state["params"], rtol=1e-12)
    astray = {**state, "params": ng.tree.map(lambda x: x + 0.1, state["params"])}
    assert not close(run.step(astray, None, None, noise=noise)[0]["params"], astray["params"], rtol=1e-3)
