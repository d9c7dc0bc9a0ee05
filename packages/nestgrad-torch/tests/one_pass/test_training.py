"""One-pass tuning of modules and tensors: what trains, and what is handed back."""

import copy
import importlib.util
import pathlib

import pytest
import torch
from torch import nn

import nestgrad_torch as ng

_spec = importlib.util.spec_from_file_location("one_pass_runs", pathlib.Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)
NEVER = runs.NEVER
batch = runs.batch
error = runs.error
linear_error = runs.linear_error
network = runs.network
noisy_network = runs.noisy_network
run = runs.run
same = runs.same
sgd = runs.sgd
tuner = runs.tuner


def test_training_without_a_hyper_step_equals_torch_optim_bit_for_bit():
    net = noisy_network()
    twin = copy.deepcopy(net)
    tune = tuner(every=NEVER)
    state = tune.init(net)
    values = {name: float(x) for name, x in tune.values(state).items()}
    optimizer = torch.optim.SGD(
        twin.parameters(), lr=values["lr"], momentum=values["momentum"], weight_decay=values["decay"]
    )
    state, _ = run(tune, state, 20)
    torch.manual_seed(3)
    for _ in range(20):
        data, _ = batch(), batch()
        optimizer.zero_grad()
        error(twin, None, data).backward()
        optimizer.step()
    assert same(state["params"], dict(twin.named_parameters()))
    assert same(state["buffers"], dict(twin.named_buffers()))


def test_the_module_comes_back_with_what_was_trained():
    net = noisy_network()
    net[0].bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    tune = tuner()
    state, _ = run(tune, tune.init(net), 6)
    back = tune.module(state)
    assert same(net.state_dict(), before)
    assert same({n: p for n, p in back.named_parameters() if p.requires_grad}, state["params"])
    assert same(dict(back.named_buffers()), state["buffers"])
    assert torch.equal(back[0].bias, net[0].bias)
    assert "0.bias" not in state["params"]
    back.get_parameter("0.weight").data.zero_()
    assert state["params"]["0.weight"].any()


class Tied(nn.Module):
    """x ↦ w₂ tanh(W x) + Σ W x: the matrix W stands in two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False), nn.Linear(4, 1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.first(x))) + self.second(x).sum(1, keepdim=True)


def test_tied_weights_stay_tied():
    net = Tied().double()
    twin = copy.deepcopy(net)
    tune = tuner(every=NEVER)
    state, _ = run(tune, tune.init(net), 4)
    back = tune.module(state)
    assert list(state["params"]) == ["first.weight", "head.weight", "head.bias"]
    assert back.second.weight is back.first.weight
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.6, weight_decay=1e-3)
    torch.manual_seed(3)
    for _ in range(4):
        data, _ = batch(), batch()
        optimizer.zero_grad()
        error(twin, None, data).backward()
        optimizer.step()
    assert torch.allclose(back.first.weight, twin.first.weight, rtol=1e-12)


def test_a_plain_optimizer_goes_on_with_the_tuned_values_and_the_momentum():
    tune = tuner()
    state, infos = run(tune, tune.init(network()), 7)
    net = tune.module(state)
    optimizer = tune.torch_optimizer(state, net)
    group, tuned = optimizer.param_groups[0], infos[-1].hparams
    assert type(optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"]) == (float(tuned["lr"]), float(tuned["momentum"]))
    assert group["lr"] != pytest.approx(0.05, rel=1e-3)
    inner = batch()
    state, _ = tune.step(state, inner, batch())  # the 8th: trains with the values tuned on the 6th
    error(net, None, inner).backward()
    optimizer.step()
    assert same(state["params"], dict(net.named_parameters()))


class Descent:
    """w ← w - rate · g, with the least that a rule needs, and on lists only by name."""

    def __init__(self, rate):
        self.rate = rate

    def init(self, params):
        return {"taken": 0}

    def update(self, grads, state, params):
        return {name: -self.rate * g for name, g in grads.items()}, {"taken": state["taken"] + 1}


def test_a_rule_of_the_users_own_needs_init_and_update_alone():
    own = tuner(optimizer=lambda h: Descent(h["lr"]), hparams={"lr": ng.Log10(0.05)})
    ours = tuner(optimizer=lambda h: ng.optim.sgd(h["lr"]), hparams={"lr": ng.Log10(0.05)})
    net = network()
    state, _ = run(own, own.init(net), 6)
    expected, _ = run(ours, ours.init(net), 6)
    assert state["opt_state"] == {"taken": 6}
    assert torch.allclose(state["hparams"]["lr"], expected["hparams"]["lr"], rtol=1e-12)
    for name, w in expected["params"].items():
        assert torch.allclose(state["params"][name], w, rtol=1e-12)


def test_two_tuners_do_not_influence_one_another():
    nets, data = (network(), network()), [(batch(), batch()) for _ in range(6)]

    def alone(every, net):
        tune = tuner(every=every)
        state = tune.init(net)
        for pair in data:
            state, _ = tune.step(state, *pair)
        return state

    tuners = [tuner(every=1), tuner(every=3)]
    states = [tune.init(net) for tune, net in zip(tuners, nets, strict=True)]
    for pair in data:
        states = [tune.step(state, *pair)[0] for tune, state in zip(tuners, states, strict=True)]
    assert same(states, [alone(1, nets[0]), alone(3, nets[1])])


def test_one_tuner_serves_several_runs_at_a_time():
    starts = {d: {"w": torch.randn(3, 1, dtype=d)} for d in (torch.float64, torch.float32)}
    data = {d: [(batch(dtype=d), batch(dtype=d)) for _ in range(6)] for d in starts}

    def alone(d):
        tune = tuner(linear_error)
        state = tune.init(starts[d])
        for inner, outer in data[d]:
            state, _ = tune.step(state, inner, outer)
        return state

    shared = tuner(linear_error)
    states = {d: shared.init(starts[d]) for d in starts}
    for i in range(6):
        for d, state in states.items():
            states[d], _ = shared.step(state, *data[d][i])
    assert all(same(states[d], alone(d)) for d in starts)


def test_a_rate_a_parameter_moves_each_rate_by_itself():
    net = network()
    hparams = {"lr": ng.per_parameter(ng.Log10(0.05, clip=(1e-10, 0.06)), net)}
    tune = tuner(hparams=hparams, optimizer=lambda h: ng.optim.sgd(h["lr"], momentum=0.5))
    state, infos = run(tune, tune.init(net), 8)
    rates = infos[-1].hparams["lr"]
    assert {n: r.shape for n, r in rates.items()} == {n: p.shape for n, p in net.named_parameters()}
    assert rates["0.weight"].unique().numel() > 3
    assert max(float(r.max()) for r in rates.values()) <= 0.06 * (1 + 1e-12)
    assert len(state["outer_opt_state"]) == 4
