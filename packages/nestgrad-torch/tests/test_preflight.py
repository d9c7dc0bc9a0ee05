"""The preflight: what is cut off, flat or wrong is raised or warned, and what is sound is let pass."""

import warnings

import pytest
import torch
from torch import nn

import nestgrad_torch as ng

X = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def with_penalty(path):
    """Least squares with path(decay) · |w|²."""

    def inner(params, hparams, batch):
        return ((X @ params["w"] - Y) ** 2).mean() + path(hparams["decay"]) * (params["w"] ** 2).sum()

    return inner


def outer(params, hparams, batch):
    return ((X @ params["w"]) ** 2).mean()


def check(inner, decay=0.6, optimizer=None, params=None, **more):
    inner = ng.Minimize(inner) if optimizer is None else ng.WeightUpdate(inner, optimizer)
    params = {"w": torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)} if params is None else params
    return ng.check(ng.BilevelProblem(inner=inner, outer_loss=outer), params, {"decay": decay}, **more)


def no_grad(x):
    with torch.no_grad():
        return x * 2.0


def in_place(x):
    y = torch.zeros_like(x)
    y.data.add_(x)
    return y


TABLE = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)

CUT = {
    "detach": lambda x: x.detach(),
    "item": lambda x: x.item(),
    "data": lambda x: x.data,
    "wrapped again": lambda x: torch.tensor(float(x.detach()), dtype=x.dtype),
    "numpy": lambda x: torch.as_tensor(2.0 * x.detach().numpy()),
    "no_grad": no_grad,
    "integer cast": lambda x: (10 * x).long().to(x.dtype),
    "threshold": lambda x: (x > 0.5).to(x.dtype),
    "argmax": lambda x: TABLE[torch.stack([x, 1 - x]).argmax()],
    "bucketize": lambda x: TABLE[torch.bucketize(x, TABLE[:2])],
    "in place": in_place,
}

FLAT = {
    "round": torch.round,
    "floor": lambda x: torch.floor(3 * x),
    "sign": torch.sign,
    "dead relu": lambda x: torch.relu(-x),
    "clamp": lambda x: x.clamp(0.7, 1.0),
}


@pytest.mark.parametrize("name", CUT)
def test_a_hyperparameter_that_is_cut_off_raises(name):
    with pytest.raises(ng.DisconnectedHyperparameter, match=r"hparams\['decay'\]: 0 .*limit.*Remedy: "):
        check(with_penalty(CUT[name]))


@pytest.mark.parametrize("name", FLAT)
def test_a_hyperparameter_with_a_flat_path_is_warned_of(name):
    with pytest.warns(ng.ZeroHypergradient, match=r"decay: derivative exactly 0.*step of.*Remedy: "):
        found = check(with_penalty(FLAT[name]))
    assert [finding.kind for finding in found] == [ng.ZeroHypergradient]
    with pytest.raises(ng.DisconnectedHyperparameter, match="decay"):
        check(with_penalty(FLAT[name]), strict=True)


def test_an_optimizer_that_steps_in_place_raises():
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ng.UnsupportedOptimizer, match="steps in place"):
        check(with_penalty(torch.exp), optimizer=lambda h: torch.optim.SGD([w], lr=h["decay"]))


def test_half_a_path_is_a_wrong_derivative():
    with pytest.warns(ng.WrongDerivative, match="decay: derivative"):
        found = check(with_penalty(lambda x: 0.1 * x + x.detach()))
    assert [finding.name for finding in found] == ["decay"]


def test_no_effect_at_all_is_warned_of_unless_it_is_allowed():
    def inner(params, hparams, batch):
        return ((X @ params["w"] - Y) ** 2).mean() + 0.0 * hparams["decay"] * params["w"].sum()

    with pytest.warns(ng.ZeroHypergradient, match="no relative step"):
        check(inner)
    assert check(inner, allow_no_effect=("decay",)) == ()


def test_an_empty_momentum_is_sound_since_the_second_step_uses_it():
    def plain(params, hparams, batch):
        return ((X @ params["w"] - Y) ** 2).mean()

    assert check(plain, optimizer=lambda h: ng.optim.sgd(0.1, momentum=h["decay"])) == ()


def test_columns_against_rows_are_warned_of():
    net = nn.Linear(3, 1).double()

    def inner(params, hparams, batch):
        return ((params(X) - Y) ** 2).mean() + hparams["decay"] * sum((p**2).sum() for p in params.values())

    problem = ng.BilevelProblem(inner=ng.Minimize(inner), outer_loss=lambda p, h, b: p(X).mean())
    with pytest.warns(ng.SuspectBroadcast, match=r"inner problem: sub combines shapes \(7, 1\) and \(7,\).*squeeze"):
        found = ng.check(problem, net, {"decay": 0.1})
    assert [finding.kind for finding in found] == [ng.SuspectBroadcast]


def test_outer_products_are_no_suspects():
    def inner(params, hparams, batch):
        gram = X[:, None] - X[None]
        return (gram @ params["w"]).square().mean() + hparams["decay"] * torch.outer(params["w"], params["w"]).sum()

    assert check(inner) == ()


def test_params_that_the_loss_does_not_use_are_named():
    params = {"w": torch.ones(3, dtype=torch.float64), "spare": torch.ones(2, dtype=torch.float64)}
    with pytest.warns(ng.NestgradWarning, match=r"params\['spare'\]: 0 differentiable paths.*Remedy: "):
        check(with_penalty(torch.exp), params=params)


def test_an_empty_batch_raises():
    with pytest.raises(ng.InvalidInput, match=r"inner_batch\['x'\]: 0 entries of shape \(0, 3\).*Remedy: "):
        check(with_penalty(torch.exp), inner_batch={"x": torch.ones(0, 3, dtype=torch.float64)})


def test_nothing_is_changed_by_a_check():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)).double()

    def inner(params, hparams, batch):
        return (params(X)[:, 0] - Y).square().mean() + hparams["decay"] * sum((p**2).sum() for p in params.values())

    problem = ng.BilevelProblem(inner=ng.Minimize(inner), outer_loss=inner)
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    assert ng.check(problem, net, {"decay": 0.1}) == ()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_at_most_one_in_a_hundred_healthy_cases_is_warned_of(dtype):
    alarms = 0
    for seed in range(100):
        draw = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype) for shape in ((9, 3), (9,)))
        torch.manual_seed(seed)
        act = (nn.Tanh(), nn.ReLU(), nn.GELU(), nn.Sigmoid())[seed % 4]
        net = nn.Sequential(nn.Linear(3, 5), act, nn.Linear(5, 1)).to(dtype)

        def inner(params, hparams, batch, x=x, y=y):
            penalty = sum((p**2).sum() for p in params.values())
            return (params(x)[:, 0] - y).square().mean() + hparams["decay"] * penalty

        def sgd(hparams):
            return ng.optim.sgd(hparams["lr"], momentum=0.9)

        update = ng.WeightUpdate(inner, sgd) if seed % 2 else ng.Minimize(inner)
        hparams = {"decay": 10.0 ** float(-4 * torch.rand((), generator=draw))} | ({"lr": 0.1} if seed % 2 else {})
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            alarms += bool(ng.check(ng.BilevelProblem(inner=update, outer_loss=inner), net, hparams))
    assert alarms <= 1
