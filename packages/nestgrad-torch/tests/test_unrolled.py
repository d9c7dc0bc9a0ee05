"""Unrolling: the chain rule of one long graph, in every mode, and the same bits where steps are retaken."""

import pytest
import torch
from torch import nn

import nestgrad_torch as ng

D = torch.float64
X = torch.randn(12, 3, dtype=D, generator=torch.Generator().manual_seed(0))
Y = torch.randn(12, dtype=D, generator=torch.Generator().manual_seed(1))


def loss(params, hparams, batch):
    rows = slice(None) if batch is None else batch
    error = X[rows] @ params["w"] - Y[rows]
    return (error**2).mean() + hparams["wd"] * (params["w"] ** 4).sum()


def outer(params, hparams, batch):
    return ((X[:4] @ params["w"]) ** 2).sum() + hparams["wd"] ** 2


INNER = {
    "sgd": ng.WeightUpdate(loss, lambda h: ng.optim.sgd(h["lr"], momentum=0.5 + h["lr"], weight_decay=h["wd"])),
    "adam": ng.WeightUpdate(loss, lambda h: ng.optim.adam(h["lr"], b1=0.5 + h["wd"])),
    "reversible": ng.WeightUpdate(loss, lambda h: ng.optim.reversible_sgd(h["lr"], 0.8 + h["wd"])),
}
W = torch.tensor([0.3, -1.0, 0.7], dtype=D)
VALUES = {"lr": torch.tensor(0.06, dtype=D), "wd": torch.tensor(0.03, dtype=D)}
BATCHES = [torch.arange(t, t + 5) % 12 for t in range(7)]


def by_one_graph(kind, lookback):
    """The same run as one graph, cut where the look-back begins."""
    values = {k: v.clone().requires_grad_() for k, v in VALUES.items()}
    w, state = W.clone().requires_grad_(), INNER[kind].optimizer(VALUES).init({"w": W})
    for t, batch in enumerate(BATCHES):
        inside = t >= 7 - lookback
        given = values if inside else {k: v.detach() for k, v in values.items()}
        (slope,) = torch.autograd.grad(loss({"w": w}, given, batch), w, create_graph=True)
        updates, state = INNER[kind].optimizer(given).update({"w": slope}, state, {"w": w})
        w = w + updates["w"]
        if not inside:
            w = w.detach().requires_grad_()
            state = ng.tree.map(lambda x: x.detach() if isinstance(x, torch.Tensor) else x, state)
    total = outer({"w": w}, values, None)
    return torch.stack(torch.autograd.grad(total, list(values.values()))), w.detach()


def unroll(kind, **spec):
    problem = ng.BilevelProblem(inner=INNER[kind], outer_loss=outer)
    return ng.hypergradient(problem, {"w": W}, VALUES, method=ng.Unrolled(num_steps=7, **spec), inner_batches=BATCHES)


def flat(found):
    return torch.stack(list(found.total.values()))


@pytest.mark.parametrize("lookback", [1, 3, 7])
@pytest.mark.parametrize("kind", INNER)
def test_every_mode_is_the_chain_rule(kind, lookback):
    right, end = by_one_graph(kind, lookback)
    plain = unroll(kind, lookback=lookback)
    for mode in ["reverse", "forward", *(["reversible"] if kind == "reversible" else [])]:
        found = unroll(kind, lookback=lookback, mode=mode)
        assert torch.allclose(flat(found), right, rtol=1e-12)
        assert torch.allclose(found.params["w"], end, rtol=1e-13)
        assert found.status is ng.Status.TRUNCATED
    for every in (1, 2, "sqrt"):
        assert torch.equal(flat(unroll(kind, lookback=lookback, checkpoint_every=every)), flat(plain))


def noisy():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1)).double()


def of_module(params, hparams, batch):
    return (params(X)[:, 0] - Y).square().mean() + hparams["wd"] * sum((p**2).sum() for p in params.values())


@pytest.mark.parametrize("optimizer", ["sgd", "reversible"])
def test_dropout_and_batch_norm_are_taken_again_as_they_were(optimizer):
    make = {"sgd": lambda h: ng.optim.sgd(h["lr"], 0.8), "reversible": lambda h: ng.optim.reversible_sgd(h["lr"], 0.9)}
    problem = ng.BilevelProblem(inner=ng.WeightUpdate(of_module, make[optimizer]), outer_loss=of_module)
    net, found = noisy(), {}
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for name, more in {"plain": {}, "sqrt": {"checkpoint_every": "sqrt"}, "seven": {"checkpoint_every": 7}}.items():
        torch.manual_seed(5)
        state = torch.get_rng_state()
        found[name] = ng.hypergradient(problem, net, VALUES, method=ng.Unrolled(num_steps=30, **more))
        assert torch.equal(state, torch.get_rng_state())
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(flat(found["plain"]), flat(found["sqrt"]))
    assert torch.equal(flat(found["plain"]), flat(found["seven"]))
    for mode in ["forward", *(["reversible"] if optimizer == "reversible" else [])]:
        torch.manual_seed(5)
        other = ng.hypergradient(problem, net, VALUES, method=ng.Unrolled(num_steps=30, mode=mode))
        assert torch.allclose(flat(other), flat(found["plain"]), rtol=1e-9)


def test_a_thousand_steps_are_undone_to_the_bit():
    problem = ng.BilevelProblem(inner=INNER["reversible"], outer_loss=outer)
    found, again = (
        ng.hypergradient(problem, {"w": W}, VALUES, method=ng.Unrolled(num_steps=1000, **more))
        for more in ({"mode": "reversible"}, {"checkpoint_every": "sqrt"})
    )
    assert torch.allclose(flat(found), flat(again), rtol=1e-8)


def test_a_loss_that_is_not_the_same_twice_is_found_when_its_steps_are_undone():
    calls = []

    def drifting(params, hparams, batch):
        calls.append(None)
        return loss(params, hparams, batch) * (1.0 + 0.01 * len(calls))

    inner = ng.WeightUpdate(drifting, INNER["reversible"].optimizer)
    with pytest.raises(ng.InvalidInput, match=r"6 entries of the start differ .*limit 0.*Remedy: "):
        ng.hypergradient(
            ng.BilevelProblem(inner=inner, outer_loss=outer),
            {"w": W},
            VALUES,
            method=ng.Unrolled(num_steps=5, mode="reversible"),
        )


def test_reversible_unrolling_needs_its_own_optimizer_and_small_weights():
    with pytest.raises(ng.UnsupportedOptimizer, match=r"optimizer SGD, limit: ReversibleSGD.*Remedy: "):
        unroll("sgd", mode="reversible")
    problem = ng.BilevelProblem(inner=INNER["reversible"], outer_loss=outer)
    method = ng.Unrolled(num_steps=1, mode="reversible")
    with pytest.raises(ng.InvalidInput, match=r"size 600, limit: 512.*Remedy: "):
        ng.hypergradient(problem, {"w": torch.full((3,), 600.0, dtype=D)}, VALUES, method=method)


def test_evolution_strategies_are_exact_on_affine_losses_with_as_many_pairs_as_entries():
    A = torch.randn(3, 2, dtype=D)
    inner = ng.FixedPoint(lambda p, h, b: {"w": 0.5 * p["w"] + A @ h["x"]})
    problem = ng.BilevelProblem(inner=inner, outer_loss=lambda p, h, b: (p["w"] * Y[:3]).sum() + h["x"].sum())
    x, w, total = torch.randn(2, dtype=D, requires_grad=True), W, 0.0
    for t in range(6):
        w = 0.5 * w + A @ x
        total = total + ((w * Y[:3]).sum() + x.sum() if t % 2 else 0.0)
    method = ng.PES(num_steps=6, truncation=2, sigma=0.1, num_pairs=6)
    found = ng.hypergradient(problem, {"w": W}, {"x": x.detach()}, method=method, key=3)
    assert torch.allclose(found.total["x"], torch.autograd.grad(total, x)[0], rtol=1e-10)
    assert float(found.outer_loss) == pytest.approx(float(total.detach()) / 3)
