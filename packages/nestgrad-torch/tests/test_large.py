"""Large params, which are used where they are: the numbers that a copy gives, and little memory."""

import copy
import gc
from functools import partial

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import nestgrad_torch as ng
from nestgrad_torch import _tree
from nestgrad_torch._second_order import lean_squares

D = torch.float64


def rand(*shape, seed=0):
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def params():
    return {"w": rand(4, 3, seed=1), "deep": [rand(3, seed=2)], "unused": rand(2, seed=3)}


def inner(w, h, batch):
    error = (batch @ w["w"]).tanh() @ w["deep"][0] - 1.0
    return (error**2).mean() + h["decay"].exp() * (w["w"].square().sum() + w["deep"][0].pow(2.0).sum())


def outer(w, h, batch):
    return ((batch @ w["w"]).sin() @ w["deep"][0] - 0.5).square().mean()


HPARAMS = {"decay": torch.tensor(-2.0, dtype=D)}
RULES = {
    "sgd": lambda h: ng.optim.sgd(0.1, momentum=0.9, weight_decay=h["decay"].exp()),
    "adam": lambda h: ng.optim.adam(0.1, weight_decay=0.01),
    "a rate a weight": lambda h: ng.optim.sgd(ng.tree.map(lambda x: 0.1 + x.abs(), params())),
}
PROBLEMS = {
    "minimize": ng.Minimize(inner),
    **{name: ng.WeightUpdate(inner, rule) for name, rule in RULES.items()},
    "with its state": ng.WeightUpdate(inner, RULES["sgd"], carry="weights_and_state"),
}
METHODS = {
    "neumann": ng.Implicit(solver=ng.Neumann(num_terms=4, step_size=0.1)),
    "gmres": ng.Implicit(solver=ng.GMRES(rtol=1e-12, max_steps=30), damping=0.5),
    "normal cg": ng.Implicit(solver=ng.NormalCG(rtol=1e-3, max_steps=60), damping=0.5),
}


def both(monkeypatch, function):
    """What it returns for params that are small, and for the same as large ones."""
    found = [function()]
    monkeypatch.setattr(_tree, "_LARGE", 1)
    return [*found, function()]


def close(one, other):
    rows = zip(ng.tree.leaves(one), ng.tree.matched(one, other)[0], strict=True)
    return all(torch.allclose(a, b, rtol=1e-10, atol=1e-13) for a, b in rows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_hypergradient_of_large_params_is_that_of_small_ones(monkeypatch, name, method):
    problem, w = ng.BilevelProblem(PROBLEMS[name], outer), params()
    kept, given = copy.deepcopy(w), {"inner_batch": rand(6, 4, seed=4), "outer_batch": rand(5, 4, seed=5)}
    small, large = both(
        monkeypatch, lambda: ng.hypergradient(problem, w, HPARAMS, method=METHODS[method], throw=False, **given)
    )
    for part in ("total", "direct", "indirect", "adjoint"):
        assert close(getattr(large, part), getattr(small, part))
    assert large.status is small.status
    for number in ("params_norm", "inner_optimality", "residual_norm", "adjoint_norm", "rhs_norm"):
        assert getattr(large.stats, number) == pytest.approx(
            getattr(small.stats, number), rel=1e-8, abs=1e-12, nan_ok=True
        )
    assert all(map(torch.equal, ng.tree.leaves(w), ng.tree.leaves(kept)))


@pytest.mark.parametrize("method", [METHODS["neumann"], None], ids=["neumann", "chosen"])
def test_a_run_on_a_large_module_is_that_on_a_small_one(monkeypatch, method):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Tanh(), nn.Linear(5, 1)).double()
    kept, batches = copy.deepcopy(net.state_dict()), [rand(6, 4, seed=s) for s in range(2)]

    def loss(w, h, batch):
        return (w(batch) - 1.0).square().mean() + h["decay"] * sum(x.square().sum() for x in w.values())

    problem = ng.BilevelProblem(ng.WeightUpdate(loss, lambda h: ng.optim.sgd(h["lr"], momentum=0.9)), loss)
    spaces = {"decay": ng.Log(0.01), "lr": ng.Log(0.1)}

    def run():
        torch.manual_seed(0)
        rate = partial(torch.optim.Adam, lr=0.01)
        made = ng.OnePass(problem, hparams=spaces, every=3, method=method, outer_optimizer=rate)
        state = made.init(net)
        for _ in range(7):
            state, _ = made.step(state, *batches)
        return {key: state[key] for key in ("params", "opt_state", "hparams", "buffers")}

    small, large = both(monkeypatch, run)
    assert close(large, small)
    assert all(map(torch.equal, net.state_dict().values(), kept.values()))


def test_squares_are_those_of_pow_in_every_derivative():
    x, along = rand(7, seed=1).requires_grad_(), rand(7, seed=2)

    def derivatives(square):
        value = (square(x) * along).cos().sum()
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first.dot(along), x, create_graph=True)
        return value, first, second, *torch.autograd.grad(second.dot(along), x)

    for square in (torch.square, lambda y: y**2, lambda y: y.pow(2.0), lambda y: torch.pow(y, 2)):
        right = derivatives(square)
        with lean_squares():
            found = derivatives(square)
            assert "Square" in square(x).grad_fn.name()
        assert all(torch.allclose(a, b, rtol=1e-14) for a, b in zip(found, right, strict=True))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which torch.func.jvp calls
def test_squares_go_through_the_transforms_of_torch_func_and_other_powers_are_left_alone():
    x, along = rand(3, 2, seed=1), rand(3, 2, seed=2)
    with lean_squares():
        assert torch.equal(torch.func.vmap(lambda y: (y**2).sum())(x), torch.square(x).sum(1))
        assert torch.allclose(torch.func.grad(lambda y: (y**2).sum())(x), 2.0 * x)
        assert torch.allclose(torch.func.jvp(torch.square, (x,), (along,))[1], 2.0 * x * along)
        assert torch.equal(x.abs() ** 1.5, x.abs() * x.abs().sqrt()) or torch.allclose(
            x.abs() ** 1.5, x.abs() * x.abs().sqrt()
        )
        assert torch.equal(torch.arange(3) ** 2, torch.tensor([0, 1, 4]))
        assert torch.allclose(2.0**x, (x * torch.tensor(2.0, dtype=D).log()).exp())
        assert torch.allclose(x ** along.abs(), torch.pow(x, along.abs()), equal_nan=True)


# A network of 118,282 weights with one decay a weight, in the place of a million.

SIZES = [96, 1024, 18, 10]


def network():
    rows = enumerate(zip(SIZES, SIZES[1:], strict=False))
    return {f"w{k}": torch.randn(a, b) / a**0.5 for k, (a, b) in rows}


def error(w, batch):
    hidden = batch[0]
    for weights in w.values():
        hidden = (hidden @ weights).tanh()
    return nn.functional.cross_entropy(hidden, batch[1])


def penalised(w, h, batch):
    return error(w, batch) + 0.5 * sum((h[k].exp() * w[k] ** 2).sum() for k in w)


def peak(call):
    """Bytes that the allocator gave out at the peak of a call, beyond those before it."""
    call()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    now = highest = 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


@pytest.mark.filterwarnings("ignore::nestgrad.ZeroHypergradient")
def test_one_decay_a_weight_takes_no_more_than_two_and_a_half_training_steps_memory():
    w, batch = network(), (torch.rand(16, SIZES[0]), torch.randint(0, 10, (16,)))
    assert sum(x.numel() for x in w.values()) >= _tree._LARGE
    h = ng.tree.map(lambda x: torch.full_like(x, -4.0), w)
    problem = ng.BilevelProblem(ng.Minimize(penalised), lambda w, h, batch: error(w, batch))
    method = ng.Implicit(solver=ng.Neumann(num_terms=5, step_size=0.005))
    leaves = ng.tree.map(lambda x: x.clone().requires_grad_(), w)
    optimizer = torch.optim.SGD(leaves.values(), lr=0.01)

    def train():
        penalised(leaves, h, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    given = {"method": method, "inner_batch": batch, "outer_batch": batch}
    step, found = peak(train), peak(lambda: ng.hypergradient(problem, w, h, **given))
    assert found <= 2.5 * step


def changing(w, h, batch):
    value = still(w, h, batch)
    with torch.no_grad():
        w["rows"].mul_(
            2.0
        )  # torch itself refuses a loss that goes on from there, not one that writes for the next step
    return value


def still(w, h, batch):
    return (w["rows"] * h["decay"].exp()).square().sum()


@pytest.mark.parametrize(("inside", "outside"), [(changing, still), (still, changing)], ids=["inner", "outer"])
def test_a_loss_that_writes_to_large_params_is_named(inside, outside):
    method = ng.Implicit(solver=ng.Neumann(num_terms=1, step_size=0.1))
    w = {"bias": torch.ones(2), "rows": torch.ones(100, 1000)}
    problem = ng.BilevelProblem(ng.Minimize(inside), outside)
    with pytest.raises(ng.InvalidInput, match=r"params\['rows'\]: changed in place 1 times by a loss, limit 0"):
        ng.hypergradient(problem, w, {"decay": -2.0}, method=method)

    update = ng.WeightUpdate(inside, lambda h: ng.optim.sgd(0.1))
    tuner = ng.OnePass(
        ng.BilevelProblem(update, outside),
        method=method,
        hparams={"decay": ng.Real(init=-2.0)},
        every=1,
        outer_optimizer=partial(torch.optim.SGD, lr=0.1),
    )
    with pytest.raises(ng.InvalidInput, match=r"params\['rows'\]: changed in place"):
        tuner.step(tuner.init(w), None, None)
