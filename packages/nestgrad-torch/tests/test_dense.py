"""Every inner problem and solver beside dense Jacobians of F, written out here and taken by torch itself."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

import nestgrad_torch as ng

D = torch.float64
N, M = 6, 3


def draw(*shape, seed):
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


ROOT = draw(N, N, seed=0)
H = ROOT @ ROOT.T / N + torch.eye(N, dtype=D)
C, SHIFT, AIM = draw(N, M, seed=1), draw(N, seed=2), draw(N, seed=3)
MIX = 0.4 * draw(N, N, seed=4) / math.sqrt(N)
RATES = torch.tensor([0.1, 0.2, 0.3, 0.15], dtype=D)
W = draw(N, seed=5)
X, S = draw(M, seed=6), torch.tensor(0.7, dtype=D)
TRACE = torch.full((N,), 0.2, dtype=D)


def as_tree(w):
    return {"a": w[:4].reshape(2, 2), "b": w[4:]}


def as_vector(params):
    return torch.cat([params["a"].reshape(-1), params["b"]])


def loss(params, hparams, batch):
    w = as_vector(params)
    return 0.5 * w @ H @ w - (SHIFT + C @ hparams["x"]) @ w + 0.1 * (w**4).sum() * hparams["s"]


def outer(params, hparams, batch):
    w = as_vector(params)
    return ((w - AIM) ** 2).sum() + 0.3 * w.sum() * hparams["s"] + (hparams["x"] ** 2).sum()


def contraction(params, hparams, batch):
    return as_tree(torch.tanh(MIX @ as_vector(params) + C @ hparams["x"]) * hparams["s"])


def equations(params, hparams, batch):
    w = as_vector(params)
    return as_tree((H + 2 * MIX) @ w + 0.1 * w**3 - C @ hparams["x"] * hparams["s"])


def optimizer(hparams):
    rates = {"a": RATES.view(2, 2) * hparams["s"], "b": torch.tensor(0.25, dtype=D)}
    return ng.optim.sgd(rates, momentum=hparams["s"] * 0.5, weight_decay=0.1)


def proximal(hparams):
    return ng.prox.elastic_net(hparams["s"] * 0.5, 0.3)


INNER = {
    "minimize": ng.Minimize(loss),
    "update": ng.WeightUpdate(loss, optimizer),
    "whole update": ng.WeightUpdate(loss, optimizer, carry="weights_and_state"),
    "fixed point": ng.FixedPoint(contraction),
    "root": ng.Root(equations),
    "proximal": ng.ProximalGradient(loss, proximal, 0.1),
}

SOLVERS = [
    ng.Dense(),
    ng.CG(rtol=1e-12, max_steps=50),
    ng.MINRES(rtol=1e-12, max_steps=50),
    ng.NormalCG(rtol=1e-11, max_steps=300),
    ng.LSMR(rtol=1e-11, max_steps=300),
    ng.GMRES(rtol=1e-12, max_steps=50),
    ng.GMRES(rtol=1e-12, max_steps=300, restart=5),
    ng.BiCGSTAB(rtol=1e-12, max_steps=100),
    ng.Neumann(num_terms=4000, step_size=0.15),
]


def state_of(kind):
    return {"opt_state": {"trace": as_tree(TRACE)}} if "update" in kind else {}


def gradient(w, x, s):
    values = {"x": x, "s": s}
    return torch.autograd.grad(loss(as_tree(w), values, None), w, create_graph=True)[0]


def residual(kind, z, x, s):
    """F by hand."""
    w = z[:N] if z.requires_grad else z[:N].detach().requires_grad_()
    if kind == "minimize":
        return gradient(w, x, s)
    if "update" in kind:
        trace = z[N:] if kind == "whole update" else TRACE
        rates = torch.cat([RATES * s, torch.full((2,), 0.25, dtype=D)])
        v = 0.5 * s * trace + gradient(w, x, s) + 0.1 * w
        return rates * v if kind == "update" else torch.cat([rates * v, trace - v])
    values = {"x": x, "s": s}
    if kind == "fixed point":
        return w - as_vector(contraction(as_tree(w), values, None))
    if kind == "root":
        return as_vector(equations(as_tree(w), values, None))
    y = w - 0.1 * gradient(w, x, s)
    return w - torch.sign(y) * torch.clamp(y.abs() - 0.05 * s, min=0.0) / 1.03


def dense(kind, damping):
    """(J + δI, B, v, ∂L_out/∂λ)."""
    z = torch.cat([W, TRACE]) if kind == "whole update" else W.clone()
    J, by_x, by_s = jacobian(lambda z, x, s: residual(kind, z, x, s), (z, X, S))
    v, d_x, d_s = jacobian(lambda w, x, s: outer(as_tree(w), {"x": x, "s": s}, None), (W, X, S))
    B, size = torch.cat([by_x, by_s[:, None]], 1), len(z)
    return J + damping * torch.eye(size, dtype=D), B, torch.cat([v, v.new_zeros(size - N)]), torch.cat([d_x, d_s[None]])


def flat(hparams):
    return torch.cat([hparams["x"], hparams["s"][None]])


def run(function, kind, solver, *more, damping=0.0, **given):
    method = ng.Implicit(solver=solver, damping=damping)
    problem = ng.BilevelProblem(inner=INNER[kind], outer_loss=outer)
    return function(problem, as_tree(W), {"x": X, "s": S}, *more, method=method, **state_of(kind), **given)


def legal(kind, solver):
    symmetric = isinstance(solver, (ng.CG, ng.MINRES))
    return not (symmetric and kind not in {"minimize", "update"})


CASES = [(kind, solver) for kind in INNER for solver in SOLVERS if legal(kind, solver)]


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize(("kind", "solver"), CASES, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_both_modes_equal_dense_algebra(kind, solver, damping):
    J, B, v, d = dense(kind, damping)
    right = d - B.T @ torch.linalg.solve(J.T, v)
    found = run(ng.hypergradient, kind, solver, damping=damping)
    assert (flat(found.total) - right).norm() < 1e-8 * right.norm()
    xi = draw(M + 1, seed=9)
    along = run(ng.hypergradient_jvp, kind, solver, {"x": xi[:M], "s": xi[M]}, damping=damping)
    assert abs(along.total - xi @ right) < 1e-8 * right.norm() * xi.norm()
    response = -torch.linalg.solve(J, B @ xi)[:N]
    assert (as_vector(along.response) - response).norm() < 1e-8 * response.norm()


@pytest.mark.parametrize(("kind", "solver"), CASES, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_warm_starts_and_preconditioners_change_the_way_and_not_the_end(kind, solver):
    traits = ng.TRAITS.get(type(solver), ng.Traits())
    cold = run(ng.hypergradient, kind, solver)
    if traits.warm_start:
        warm = run(ng.hypergradient, kind, solver, warm_start=cold.adjoint)
        assert warm.stats.steps <= 1
        assert torch.allclose(flat(warm.total), flat(cold.total), rtol=1e-8)
    if traits.preconditioner and not isinstance(solver, ng.Neumann):
        ones = as_tree(torch.linspace(0.5, 1.5, N, dtype=D))
        given = {"params": ones, "opt_state": [ones["a"], ones["b"]]} if kind == "whole update" else ones
        other = run(ng.hypergradient, kind, solver, preconditioner=given)
        assert torch.allclose(flat(other.total), flat(cold.total), rtol=1e-8)


@pytest.mark.parametrize("kind", INNER)
def test_response_jacobians_and_newton_steps_equal_dense_algebra(kind):
    J, B, _, _ = dense(kind, 0.0)
    method = ng.Implicit(solver=ng.Dense())
    found = ng.best_response_jacobian(INNER[kind], as_tree(W), {"x": X, "s": S}, method=method, **state_of(kind))
    right = -torch.linalg.solve(J, B)[:N]
    assert found["a"]["x"].shape == (2, 2, M)
    assert found["b"]["s"].shape == (2,)
    rows = [torch.cat([found[k]["x"].reshape(-1, M), found[k]["s"].reshape(-1, 1)], 1) for k in ("a", "b")]
    assert torch.allclose(torch.cat(rows), right, rtol=1e-10)
    if "update" in kind:
        return
    F = residual(kind, W.clone(), X, S).detach()
    moved, size = ng.newton_step(INNER[kind], as_tree(W), {"x": X, "s": S}, solver=ng.Dense())
    assert torch.allclose(as_vector(moved), W - torch.linalg.solve(J, F), rtol=1e-10)
    assert size == pytest.approx(float(F.norm()))


def test_a_module_takes_a_newton_step_as_a_copy():
    net, x = torch.nn.Linear(3, 1).double(), draw(9, 3, seed=1)
    inner = ng.Minimize(lambda p, h, b: (p(x) - 1.0).square().mean() + h["decay"] * (p["weight"] ** 2).sum())
    before = net.weight.detach().clone()
    moved, size = ng.newton_step(inner, net, {"decay": 0.1}, solver=ng.Dense())
    again, left = ng.newton_step(inner, moved, {"decay": 0.1}, solver=ng.Dense())
    assert torch.equal(net.weight, before)
    assert isinstance(again, torch.nn.Linear)
    assert left < 1e-12 < size


def test_several_outer_batches_share_one_linearisation():
    problem = ng.BilevelProblem(inner=INNER["minimize"], outer_loss=lambda p, h, b: outer(p, h, None) * b)
    call = (problem, as_tree(W), {"x": X, "s": S})
    method = ng.Implicit(solver=ng.Dense())
    batches = [torch.tensor(b, dtype=D) for b in (1.0, -2.0)]
    found = ng.hypergradients(*call, method=method, outer_batches=batches)
    for batch, one in zip(batches, found, strict=True):
        assert torch.equal(flat(one.total), flat(ng.hypergradient(*call, method=method, outer_batch=batch).total))
    assert [one.stats.products for one in found] == [N, 0]


def test_nystrom_with_all_columns_is_the_damped_inverse_and_random_neumann_is_right_on_average():
    J, B, v, d = dense("minimize", 0.0)
    right = d - B.T @ torch.linalg.solve(J + 0.2 * torch.eye(N, dtype=D), v)
    found = run(ng.hypergradient, "minimize", ng.Nystrom(rank=N, damping=0.2), key=0)
    assert torch.allclose(flat(found.total), right, rtol=1e-10)
    few = run(ng.hypergradient, "minimize", ng.Nystrom(rank=2, damping=0.2), key=1)
    picked = torch.randperm(N, generator=torch.Generator().manual_seed(1))[:2]
    columns = J[:, picked]
    low = columns @ torch.linalg.solve(columns[picked], columns.T)
    right = d - B.T @ torch.linalg.solve(low + 0.2 * torch.eye(N, dtype=D), v)
    assert torch.allclose(flat(few.total), right, rtol=1e-9)
    series = run(ng.hypergradient, "minimize", ng.Neumann(num_terms=3, step_size=0.05), throw=False)
    terms = {}
    for key in range(40):
        one = run(ng.hypergradient, "minimize", ng.RandomNeumann(num_terms=3, step_size=0.05), key=key, throw=False)
        terms[one.stats.steps] = flat(one.total)
    assert set(terms) == {1, 2, 3}
    assert torch.allclose(torch.stack(list(terms.values())).mean(0), flat(series.total), rtol=1e-12)


@pytest.mark.parametrize("kind", INNER)
def test_verification_trusts_the_solution_and_nothing_far_from_it(kind):
    problem = ng.BilevelProblem(inner=INNER[kind], outer_loss=outer)
    method, params = ng.Implicit(solver=ng.Dense()), as_tree(W)
    far = ng.verify(problem, params, {"x": X, "s": 0.7}, method=method, **state_of(kind))
    assert far.trusted == ("update" in kind)
    if "update" in kind:
        return
    for _ in range(12):
        params, _ = ng.newton_step(INNER[kind], params, {"x": X, "s": 0.7}, solver=ng.Dense())
    assert ng.verify(problem, params, {"x": X, "s": 0.7}, method=method).trusted
    assert (
        ng.verify(problem, params, {"x": X, "s": 0.7}, method=method, max_params=2).reference == "central differences"
    )
