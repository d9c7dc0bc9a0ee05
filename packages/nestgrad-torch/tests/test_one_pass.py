"""One-pass tuning of modules and tensors: what a run carries, hands back and leaves alone."""

import copy
import gc
import io
from functools import partial

import pytest
import torch
from torch import nn

import nestgrad_torch as ng

NEVER = 10**9
ADAM = partial(torch.optim.Adam, lr=0.05)


def network(*middle):
    return nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 1)).double()


def noisy_network():
    return network(nn.BatchNorm1d(4), nn.Dropout(0.3))


def batch(rows=9, dtype=torch.float64):
    return torch.randn(rows, 3, dtype=dtype), torch.randn(rows, 1, dtype=dtype)


def error(params, hparams, data):
    return ((params(data[0]) - data[1]) ** 2).mean()


def linear_error(params, hparams, data):
    return ((data[0] @ params["w"] - data[1]) ** 2).mean()


def sgd(hparams):
    return ng.optim.sgd(hparams["lr"], momentum=hparams["momentum"], weight_decay=hparams["decay"])


def spaces():
    return {"lr": ng.Log10(0.05), "momentum": ng.Logit(0.6), "decay": ng.Log10(1e-3)}


def tuner(
    loss=error,
    every=2,
    optimizer=sgd,
    hparams=None,
    terms=3,
    outer_loss=None,
    outer_optimizer=ADAM,
    solver=None,
    **more,
):
    solver = solver or ng.Neumann(num_terms=terms, step_size=1.0)
    return ng.OnePass(
        ng.BilevelProblem(inner=ng.WeightUpdate(loss, optimizer), outer_loss=outer_loss or loss),
        hparams=hparams or spaces(),
        every=every,
        method=ng.Implicit(solver=solver),
        outer_optimizer=outer_optimizer,
        **more,
    )


def run(tune, state, steps, seed=3):
    """The state after some steps on batches drawn from the seed, and each step's info."""
    torch.manual_seed(seed)
    infos = []
    for _ in range(steps):
        state, info = tune.step(state, batch(), batch())
        infos.append(info)
    return state, infos


def leaves(values):
    return ng.tree.leaves({"": values})


def same(left, right):
    """Whether two trees hold the same bits."""
    pairs = list(zip(leaves(left), leaves(right), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


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


def test_buffers_are_updated_by_training_steps_alone():
    tune, net = tuner(every=1), noisy_network()
    state = tune.init(net)
    inner, outer = batch(), batch()
    after, _ = tune.step(state, inner, outer)
    twin = copy.deepcopy(net)
    twin(inner[0])
    assert same(after["buffers"], dict(twin.named_buffers()))
    assert same(state["buffers"], dict(net.named_buffers()))
    assert int(run(tune, after, 4)[0]["buffers"]["1.num_batches_tracked"]) == 5


OUTER = {
    "Adam": ADAM,
    "AdamW": partial(torch.optim.AdamW, lr=0.05, amsgrad=True),
    "NAdam": partial(torch.optim.NAdam, lr=0.05),
    "RAdam": partial(torch.optim.RAdam, lr=0.05),
    "Adamax": partial(torch.optim.Adamax, lr=0.05),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.05, initial_accumulator_value=0.1),
    "Adadelta": partial(torch.optim.Adadelta, lr=1.0),
    "Adafactor": partial(torch.optim.Adafactor, lr=0.05),
    "ASGD": partial(torch.optim.ASGD, lr=0.05, t0=1),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.05, momentum=0.5, centered=True),
    "Rprop": partial(torch.optim.Rprop, lr=0.05),
    "SGD": partial(torch.optim.SGD, lr=0.05),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("outer_optimizer", OUTER.values(), ids=OUTER)
def test_the_outer_optimizer_is_carried_as_one_that_persists(outer_optimizer):
    tune = tuner(linear_error, outer_optimizer=outer_optimizer)
    state = tune.init({"w": torch.randn(3, 1, dtype=torch.float64)})
    persistent = {name: leaf.clone() for name, leaf in state["hparams"].items()}
    optimizer = outer_optimizer(list(persistent.values()))
    for _ in range(6):
        state, infos = run(tune, state, 2)
        for name, leaf in persistent.items():
            leaf.grad = infos[-1].hypergradient.total[name].clone()
        optimizer.step()
        assert same(state["hparams"], persistent)


@pytest.mark.parametrize("fresh", [False, True], ids=["same tuner", "new tuner"])
def test_a_saved_run_goes_on_bit_for_bit(fresh):
    net = noisy_network()
    tune = tuner()
    state, _ = run(tune, tune.init(net), 5)
    stored = io.BytesIO()
    torch.save(state, stored)
    stored.seek(0)
    read = torch.load(stored, weights_only=True)
    assert same(read, state)
    if fresh:
        later = tuner()
        later.init(copy.deepcopy(net))
    else:
        later = tune
    assert same(run(later, read, 5, seed=7)[0], run(tune, state, 5, seed=7)[0])


def test_a_saved_run_on_tensors_needs_no_init():
    tune = tuner(linear_error)
    state, _ = run(tune, tune.init({"w": torch.randn(3, 1, dtype=torch.float64)}), 3)
    assert same(run(tuner(linear_error), state, 4)[0], run(tune, state, 4)[0])


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


def test_memory_does_not_grow_with_the_steps():
    tune = tuner(every=1)
    state = run(tune, tune.init(noisy_network()), 3)[0]

    def alive():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    before = alive()
    for _ in range(50):
        state, info = tune.step(state, batch(), batch())
    held = leaves([state, info.inner_loss, info.hparams, info.hypergradient.total, info.hypergradient.outer_loss])
    assert not any(leaf.requires_grad for leaf in held if torch.is_tensor(leaf))
    del info, held
    assert alive() == before


def nan_on_huge_inputs(params, hparams, data):
    return linear_error(params, hparams, data) * torch.where(data[0].abs().max() > 1e3, torch.nan, 1.0)


@pytest.mark.parametrize("which", ["inner", "outer"])
def test_a_nan_raises_with_the_step_and_leaves_the_state(which):
    tune = tuner(nan_on_huge_inputs, every=3)
    state, _ = run(tune, tune.init({"w": torch.randn(3, 1, dtype=torch.float64)}), 2)
    kept = copy.deepcopy(state)
    bad = (1e6 * torch.ones(9, 3, dtype=torch.float64), torch.ones(9, 1, dtype=torch.float64))
    batches = (bad, batch()) if which == "inner" else (batch(), bad)
    with pytest.raises(ng.NonFinite, match=r"training step 3: .*limit: finite.*Remedy"):
        tune.step(state, *batches)
    assert same(state, kept)
    after, info = tune.step(state, batch(), batch())
    assert info.hypergradient.status.ok
    assert after["step"] == 3


def test_a_nan_is_recorded_where_it_does_not_raise():
    tune = tuner(nan_on_huge_inputs, every=1, throw=False)
    bad = (1e6 * torch.ones(9, 3, dtype=torch.float64), torch.ones(9, 1, dtype=torch.float64))
    state, info = tune.step(tune.init({"w": torch.zeros(3, 1, dtype=torch.float64)}), batch(), bad)
    assert info.hypergradient.status is ng.Status.NONFINITE
    assert state["step"] == 1
    assert info.tuned


def test_a_series_that_diverges_raises_where_it_overflows_only():
    start = {"w": torch.ones(3, 1)}
    data = (torch.randn(9, 3), torch.ones(9, 1))

    def step(rate, throw=True):
        tune = tuner(
            linear_error,
            every=1,
            terms=9,
            optimizer=lambda h: ng.optim.sgd(h["lr"]),
            hparams={"lr": ng.Log10(rate)},
            throw=throw,
        )
        return tune.step(tune.init(start), data, data)[1].hypergradient

    assert step(10.0).status is ng.Status.DIVERGED
    assert step(10.0).total["lr"].isfinite()
    assert not step(1e6, throw=False).total["lr"].isfinite()
    with pytest.raises(ng.NeumannDivergence, match="training step 1"):
        step(1e6)


def test_a_singular_solve_raises_where_no_hypergradient_is_left():
    def flat(params, hparams, data):
        return linear_error(params, hparams, data) + 0.0 * params["idle"].sum()

    tune = tuner(
        flat, every=1, optimizer=lambda h: ng.optim.sgd(h["lr"]), hparams={"lr": ng.Log10(0.1)}, solver=ng.Dense()
    )
    state = tune.init({"w": torch.zeros(3, 1, dtype=torch.float64), "idle": torch.ones(2, dtype=torch.float64)})
    with pytest.raises(ng.SingularJacobian, match="training step 1"):
        run(tune, state, 1)


def test_a_leaf_edited_in_place_counts_from_the_next_step():
    tune = tuner(linear_error, every=NEVER)
    state, infos = run(tune, tune.init({"w": torch.randn(3, 1, dtype=torch.float64)}), 1)
    state["hparams"]["lr"].fill_(-5.0)
    assert float(tune.values(state)["lr"]) == pytest.approx(1e-5)
    after, infos = run(tune, state, 1)
    assert float(infos[0].hparams["lr"]) == pytest.approx(1e-5)
    assert (after["params"]["w"] - state["params"]["w"]).abs().max() < 1e-3


def test_reported_values_are_the_users_to_change():
    start = {"w": torch.randn(3, 1, dtype=torch.float64)}
    tune, twin = tuner(linear_error), tuner(linear_error)
    state, infos = run(tune, tune.init(start), 1)
    expected, _ = run(twin, twin.init(start), 1)
    infos[0].hparams["lr"].fill_(7.0)
    infos[0].hparams["momentum"] = "0.6"
    infos[0].hypergradient.total["lr"].fill_(7.0)
    tune.values(state).clear()
    assert same(run(tune, state, 5)[0], run(twin, expected, 5)[0])
    assert not tune.step(state | {"step": 0}, batch(), batch())[1].hypergradient.total["lr"].any()


def test_a_tuner_may_be_read_and_begun_in_inference_mode():
    net, tune, twin = network(), tuner(), tuner()
    with torch.inference_mode():
        state = tune.init(net)
        values = tune.values(state)
    assert not any(leaf.is_inference() for leaf in leaves([state, values]) if torch.is_tensor(leaf))
    assert same(run(tune, state, 4)[0], run(twin, twin.init(net), 4)[0])


def test_a_step_in_no_grad_is_the_same_step():
    tune = tuner(every=1)
    state, data = tune.init(network()), (batch(), batch())
    expected, _ = tune.step(state, *data)
    with torch.no_grad():
        assert same(tune.step(state, *data)[0], expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert same(tune.step(state, *data)[0], expected)


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


def test_init_with_another_module_starts_another_run():
    tune = tuner()
    run(tune, tune.init(network()), 3)
    wide = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    state = tune.init(wide)
    torch.manual_seed(3)
    for _ in range(3):
        state, info = tune.step(state, batch(dtype=torch.float32), batch(dtype=torch.float32))
    assert info.hparams["lr"].dtype == torch.float32
    twin = tuner()
    expected = twin.init(wide)
    torch.manual_seed(3)
    for _ in range(3):
        expected, _ = twin.step(expected, batch(dtype=torch.float32), batch(dtype=torch.float32))
    assert same(state, expected)


class Averaging(nn.Module):
    """x ↦ x w - a, a being a running mean that forward assigns anew instead of changing it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1, dtype=torch.float64))
        self.register_buffer("average", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        found = x @ self.weight - self.average
        self.average = 0.5 * self.average + 0.5 * found.mean()
        return found


def test_buffers_that_forward_assigns_anew_are_carried():
    net, tune = Averaging(), tuner(every=2)
    state, _ = run(tune, tune.init(net), 1)
    torch.manual_seed(3)
    net_alone = Averaging()
    net_alone(batch()[0])
    assert torch.equal(state["buffers"]["average"], net_alone.average)
    assert not state["buffers"]["average"].requires_grad
    again, _ = run(tune, state, 1)
    assert not torch.equal(again["buffers"]["average"], state["buffers"]["average"])
    assert not net.average.any()


def test_a_loss_that_fails_leaves_the_module_whole():
    net = noisy_network()
    own = {id(t) for t in (*net.parameters(), *net.buffers())}

    def failing(params, hparams, data):
        params(data[0])
        return params(data[0][:, :1])

    tune = tuner(failing)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(tune, tune.init(net), 1)
    assert {id(t) for t in (*net.parameters(), *net.buffers())} == own
