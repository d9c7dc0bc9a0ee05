"""An nn.Module is taken wherever params are: its trainable params by name, everything else its own."""

import copy

import pytest
import torch
from torch import nn

import nestgrad_torch as ng

DENSE = ng.Implicit(solver=ng.Dense())
SERIES = ng.Implicit(solver=ng.Neumann(num_terms=4, step_size=0.05))


def network(*middle):
    return nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 1)).double()


def batch(rows=9):
    return torch.randn(rows, 3, dtype=torch.float64), torch.randn(rows, 1, dtype=torch.float64)


def squared_error(predict):
    def loss(params, hparams, data):
        return ((predict(params, data[0]) - data[1]) ** 2).mean() + 0.1 * hparams["decay"] ** 2

    return loss


def decayed(predict):
    error = squared_error(predict)

    def loss(params, hparams, data):
        return error(params, hparams, data) + hparams["decay"].exp() * sum((w**2).sum() for w in params.values())

    return loss


def called(params, x):
    return params(x)


def minimised(predict=called):
    return ng.BilevelProblem(inner=ng.Minimize(decayed(predict)), outer_loss=squared_error(predict))


def updated(predict=called):
    def optimizer(hparams):
        return ng.optim.sgd(hparams["lr"], momentum=hparams["momentum"], weight_decay=0.01)

    return ng.BilevelProblem(inner=ng.WeightUpdate(decayed(predict), optimizer), outer_loss=squared_error(predict))


def hypergradient(problem, params, method=DENSE, seed=1, **hparams):
    data = torch.Generator().manual_seed(5)
    batches = [torch.randn(9, n, generator=data, dtype=torch.float64) for n in (3, 1, 3, 1)]
    torch.manual_seed(seed)
    hparams = {"decay": 1.0} | hparams
    return ng.hypergradient(
        problem, params, hparams, method=method, inner_batch=tuple(batches[:2]), outer_batch=tuple(batches[2:])
    )


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def close(a, b):
    return all(torch.allclose(a[name], b[name], rtol=1e-10, atol=1e-14) for name in a)


@pytest.mark.parametrize(
    ("make", "method", "hparams"),
    [
        (minimised, DENSE, {}),
        (minimised, ng.Implicit(solver=ng.CG(rtol=0.0, max_steps=5)), {}),
        (updated, SERIES, {"lr": 0.1, "momentum": 0.9}),
    ],
    ids=["dense", "cg", "update"],
)
def test_a_module_gives_the_number_of_its_dict_of_params(make, method, hparams):
    net = network()

    def functional(params, x):
        return torch.func.functional_call(net, params, (x,))

    params = {name: p.detach() for name, p in net.named_parameters()}
    whole = hypergradient(make(), net, method, **hparams)
    assert same(whole.total, hypergradient(make(functional), params, method, **hparams).total)
    assert whole.total["decay"].abs() > 1e-3


def test_losses_receive_params_that_are_a_dict_and_can_be_called():
    net, seen = network(), []

    def predict(params, x):
        seen.append(type(params))
        assert list(params) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        by_hand = torch.tanh(x @ params["0.weight"].T + params["0.bias"]) @ params["2.weight"].T + params["2.bias"]
        assert torch.allclose(params(x), by_hand)
        assert torch.equal(torch.func.functional_call(net, params, (x,)), params(x))
        return params(x)

    hypergradient(minimised(predict), net)
    assert seen == [ng.ModuleParams, ng.ModuleParams]


@pytest.mark.parametrize("frozen", [["0.weight", "0.bias"], ["0.bias"], ["0.weight", "2.weight"]], ids=str)
def test_frozen_params_are_constants(frozen):
    net = network()
    for name in frozen:
        net.get_parameter(name).requires_grad_(False)
    held = {name: net.get_parameter(name).detach() for name in frozen}

    def with_constants(params, x):
        return torch.func.functional_call(net, {**params, **held}, (x,))

    free = {name: p.detach() for name, p in net.named_parameters() if name not in frozen}
    assert close(hypergradient(minimised(), net).total, hypergradient(minimised(with_constants), free).total)
    unfrozen = hypergradient(minimised(), net.requires_grad_())
    assert not close(unfrozen.total, hypergradient(minimised(with_constants), free).total)


class Tied(nn.Module):
    """x ↦ w₂ tanh(W x) + Σ W x: the matrix W stands in two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False), nn.Linear(4, 1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.first(x))) + self.second(x).sum(1, keepdim=True)


def test_tied_weights_count_once():
    net = Tied().double()

    def by_hand(params, x):
        layer = x @ params["first.weight"].T
        return torch.tanh(layer) @ params["head.weight"].T + params["head.bias"] + layer.sum(1, keepdim=True)

    names = ["first.weight", "head.weight", "head.bias"]
    once = {name: net.get_parameter(name).detach() for name in names}
    assert close(hypergradient(minimised(), net).total, hypergradient(minimised(by_hand), once).total)


def test_a_rate_a_parameter_is_shaped_like_the_module_and_sums_to_the_shared_rate():
    net = network()
    space = ng.per_parameter(ng.Real(0.1), net)
    shapes = {name: tuple(rates.shape) for name, rates in space.initial.items()}
    assert shapes == {name: tuple(p.shape) for name, p in net.named_parameters()}
    each = hypergradient(updated(), net, SERIES, lr=space.initial, momentum=0.9).total["lr"]
    shared = hypergradient(updated(), net, SERIES, lr=0.1, momentum=0.9).total["lr"]
    assert torch.allclose(sum(g.sum() for g in each.values()), shared, rtol=1e-12)
    assert all(g.shape == net.get_parameter(name).shape for name, g in each.items())


def snapshot(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict(keep_vars=True).items()}


@pytest.mark.parametrize(("make", "hparams"), [(minimised, {}), (updated, {"lr": 0.1, "momentum": 0.9})])
def test_nothing_handed_in_is_changed(make, hparams):
    net = network(nn.BatchNorm1d(4), nn.Dropout(0.3))
    net[0].bias.requires_grad_(False)
    inner, outer = batch(), batch()
    flags = {name: p.requires_grad for name, p in net.named_parameters()}
    before, data = snapshot(net), copy.deepcopy((inner, outer))
    versions = [p._version for p in net.parameters()]
    state = torch.get_rng_state()
    hparams = {"decay": torch.tensor(-1.0, dtype=torch.float64)} | hparams
    found = ng.hypergradient(make(), net, hparams, method=SERIES, inner_batch=inner, outer_batch=outer)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(snapshot(net), before)
    assert [p._version for p in net.parameters()] == versions
    assert {name: p.requires_grad for name, p in net.named_parameters()} == flags
    assert all(p.grad is None for p in net.parameters())
    assert net.training
    assert not hparams["decay"].requires_grad
    assert not found.total["decay"].requires_grad
    for now, then in zip((*inner, *outer), (*data[0], *data[1]), strict=True):
        assert torch.equal(now, then)


def test_buffers_are_put_back_where_a_loss_calls_the_module_itself():
    net = network(nn.BatchNorm1d(4))

    def around(params, x):
        net(x)
        return params(x)

    before = snapshot(net)
    hypergradient(minimised(around), net)
    assert same(snapshot(net), before)


class Counting(nn.Module):
    """x ↦ x w (1 + number of forward passes before this one)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1, dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        self.calls += 1
        return x @ self.weight * self.calls


def test_each_loss_starts_from_the_buffers_handed_in():
    outputs = []

    def predict(params, x):
        found = params(x)
        outputs.append(float((found / (x @ params["weight"])).mean().detach()))
        return found

    hypergradient(minimised(predict), Counting())
    assert outputs == pytest.approx([1.0, 1.0])


def test_dropout_has_one_realisation_a_hypergradient():
    net, calls = network(nn.Dropout(0.5)), []

    def predict(params, x):
        calls.append(1)
        return params(x)

    exact = hypergradient(minimised(predict), net).total
    assert len(calls) == 2
    solved = hypergradient(minimised(), net, ng.Implicit(solver=ng.CG(rtol=1e-13, max_steps=400)))
    assert torch.allclose(solved.total["decay"], exact["decay"], rtol=1e-8)


def test_dropout_follows_the_seed():
    net = network(nn.Dropout(0.5))
    first, again, other = (hypergradient(minimised(), net, seed=seed).total for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_a_parameter_dict_is_read_by_name():
    weights = nn.ParameterDict({"w": torch.randn(3, 1, dtype=torch.float64)})

    def linear(params, x):
        return x @ params["w"]

    plain = hypergradient(minimised(linear), {"w": weights["w"].detach()})
    assert same(hypergradient(minimised(linear), weights).total, plain.total)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.cell(x[:, None, :])[0][:, -1])


def one_layer_twice():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(3, 1))


def parametrised():
    layer = nn.Linear(3, 4)
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh())
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 1))


LAYERS = {
    "recurrent": Recurrent,
    "layer twice": one_layer_twice,
    "parametrised": parametrised,
    "tied": Tied,
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_calling_the_params_equals_functional_call(make):
    net = make().double()
    own = {name: id(p) for name, p in net.named_parameters(remove_duplicate=False)}

    def predict(params, x):
        moved = {name: 1.5 * p for name, p in params.items()}
        held = type(params)(params._places, moved, dict(net.named_buffers()))
        expected = torch.func.functional_call(copy.deepcopy(net), moved, (x,))
        found = held(x)
        assert torch.equal(found, expected)
        assert not torch.allclose(found, params(x))
        for a, b in zip(*(torch.autograd.grad(y.sum(), list(moved.values())) for y in (found, expected)), strict=True):
            assert torch.equal(a, b)
        return params(x)

    hypergradient(minimised(predict), net, ng.Implicit(solver=ng.Identity()))
    assert {name: id(p) for name, p in net.named_parameters(remove_duplicate=False)} == own
