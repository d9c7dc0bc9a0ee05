"""Any solver made differentiable: first, second and third derivatives, in autograd and in torch.func."""

import pytest
import torch

import nestgrad_torch as ng

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch.func.jvp's own

D = torch.float64
N, M = 4, 2
ROOT = torch.randn(N, N, dtype=D, generator=torch.Generator().manual_seed(0))
H = ROOT @ ROOT.T / N + torch.eye(N, dtype=D)
C = torch.randn(N, M, dtype=D, generator=torch.Generator().manual_seed(1))
AIM = torch.randn(N, dtype=D, generator=torch.Generator().manual_seed(2))
X, S = torch.tensor([0.4, -0.7], dtype=D), torch.tensor(0.3, dtype=D)


def inner(params, hparams, batch):
    w = torch.cat([params["a"].reshape(-1), params["b"].reshape(-1)])
    pull = hparams["s"] * (w**2).sum() * torch.exp(0.1 * w[0])
    return 0.5 * w @ H @ w + 0.05 * (w**4).sum() - (C @ hparams["x"]) @ w + pull


def solve(hparams, batch):
    """Newton steps, whose own graph is of no use to anyone."""
    w = torch.zeros(N, dtype=D)

    def value(w):
        return inner({"a": w[:3], "b": w[3]}, hparams, batch)

    for _ in range(30):
        w = w - torch.linalg.solve(torch.func.hessian(value)(w), torch.func.grad(value)(w))
    return {"a": w[:3], "b": w[3].numpy()}


def outer(params, hparams, batch):
    w = torch.cat([params["a"], params["b"][None]])
    return ((w - AIM) ** 2).sum() + (w**3).sum() * hparams["s"]


METHODS = [
    ng.Implicit(solver=solver)
    for solver in (ng.Dense(), ng.CG(rtol=1e-13, max_steps=30), ng.GMRES(rtol=1e-13, max_steps=30))
]


@pytest.fixture(params=METHODS, ids=lambda m: type(m.solver).__name__)
def through(request):
    response = ng.best_response(solve, inner=ng.Minimize(inner), method=request.param)

    def total(x, s):
        return outer(response({"x": x, "s": s}), {"s": s}, None)

    total.method = request.param
    return total


def test_the_gradient_through_it_is_the_hypergradient(through):
    x, s = X.clone().requires_grad_(), S.clone().requires_grad_()
    found = torch.autograd.grad(through(x, s), [x, s])
    params = ng.tree.map(torch.as_tensor, solve({"x": X, "s": S}, None))
    problem = ng.BilevelProblem(inner=ng.Minimize(inner), outer_loss=outer)
    right = ng.hypergradient(problem, params, {"x": X, "s": S}, method=through.method)
    assert torch.allclose(found[0], right.total["x"], rtol=1e-12)
    assert torch.allclose(found[1], right.total["s"], rtol=1e-12)


def test_first_and_second_derivatives_are_those_of_differences(through):
    x, s = X.clone().requires_grad_(), S.clone().requires_grad_()
    assert torch.autograd.gradcheck(through, (x, s), rtol=1e-6)
    assert torch.autograd.gradgradcheck(through, (x, s), rtol=1e-5)


def test_third_derivatives_are_those_of_differences(through):
    u = torch.tensor([1.0, -2.0], dtype=D)

    def curvature(x):
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(through(x, S), x, create_graph=True)
        (h,) = torch.autograd.grad(g @ u, x, create_graph=True)
        return x, h

    x, h = curvature(X)
    (third,) = torch.autograd.grad(h @ u, x)
    step = 1e-5
    ends = [[(curvature(X + sign * step * e)[1] @ u).detach() for sign in (1, -1)] for e in torch.eye(M, dtype=D)]
    assert torch.allclose(third, torch.stack([(a - b) / (2 * step) for a, b in ends]), rtol=1e-5, atol=1e-8)


def test_torch_func_agrees(through):
    x, s = X.clone().requires_grad_(), S.clone().requires_grad_()
    right = torch.autograd.grad(through(x, s), [x, s])
    found = torch.func.grad(through, argnums=(0, 1))(X, S)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(found, right, strict=True))
    u = torch.tensor([1.0, -2.0], dtype=D)
    _, along = torch.func.jvp(through, (X, S), (u, torch.ones((), dtype=D)))
    assert float(along) == pytest.approx(float(right[0] @ u + right[1]), rel=1e-12)
    rows = torch.stack([X, 2 * X, -X])
    each = torch.stack([through(row, S) for row in rows])
    assert torch.equal(torch.func.vmap(through, in_dims=(0, None))(rows, S), each)
    slopes = torch.func.vmap(torch.func.grad(through), in_dims=(0, None))(rows, S)
    assert torch.allclose(slopes[0], right[0], rtol=1e-12)
    second = torch.autograd.functional.hessian(lambda x: through(x, S), X)
    assert torch.allclose(torch.func.hessian(through)(X, S), second, rtol=1e-10)


def test_a_scalar_root_found_by_bisection_has_its_derivatives():
    @ng.implicit_diff.custom_root(lambda y, a: y**3 + y - a)
    def bisect(start, a):
        low, high = start
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if middle**3 + middle < float(a) else (low, middle)
        return middle

    a = torch.tensor(2.0, dtype=D, requires_grad=True)
    y = bisect((-10.0, 10.0), a)
    (slope,) = torch.autograd.grad(y, a, create_graph=True)
    assert float(y.detach()) == pytest.approx(1.0)
    assert float(slope.detach()) == pytest.approx(0.25)
    assert float(torch.autograd.grad(slope, a)[0]) == pytest.approx(-6 / 64)


FEATURES = torch.randn(20, 5, dtype=D, generator=torch.Generator().manual_seed(3))
TARGETS = torch.randn(20, dtype=D, generator=torch.Generator().manual_seed(4))


def ridge_objective(w, decay, X, y):
    error = X @ w - y
    return 0.5 * (error @ error) / len(y) + 0.5 * decay * w @ w


def ridge(start, decay, X, y):
    return torch.linalg.solve(X.T @ X / len(y) + decay * torch.eye(5, dtype=D), X.T @ y / len(y))


@pytest.mark.parametrize("solve", [None, ng.LSMR(rtol=1e-13, max_steps=50), "given"], ids=["default", "lsmr", "given"])
def test_ridge_in_jaxopts_call_form_has_its_closed_form(solve):
    if solve == "given":

        def solve(matvec, b):
            return torch.linalg.solve(torch.stack([matvec(e) for e in torch.eye(5, dtype=D)], 1), b)

    wrapped = ng.implicit_diff.custom_root(torch.func.grad(ridge_objective), solve=solve)(ridge)
    decay = torch.tensor(10.0, dtype=D)
    found = torch.autograd.functional.jacobian(lambda x: wrapped(None, x, X=FEATURES, y=TARGETS), decay)
    w, size = ridge(None, decay, FEATURES, TARGETS), FEATURES.T @ FEATURES / 20 + 10 * torch.eye(5, dtype=D)
    assert torch.allclose(found, -torch.linalg.solve(size, w), rtol=1e-10)
    step = wrapped(None, decay, FEATURES, TARGETS.requires_grad_(False))
    assert torch.equal(step, w)


def test_a_fixed_point_may_return_more():
    def descend(w, decay):
        return w - 0.05 * torch.func.grad(ridge_objective)(w, decay, FEATURES, TARGETS)

    @ng.implicit_diff.custom_fixed_point(descend, has_aux=True)
    def run(start, decay):
        return ridge(start, decay, FEATURES, TARGETS), "iterations"

    decay = torch.tensor(10.0, dtype=D, requires_grad=True)
    w, more = run(None, decay)
    assert more == "iterations"
    expected = torch.autograd.grad(ridge(None, decay, FEATURES, TARGETS).sum(), decay)[0]
    assert float(torch.autograd.grad(w.sum(), decay)[0]) == pytest.approx(float(expected), rel=1e-9)


def refused(error, words):
    return pytest.raises(error, match=rf"(?s)(?=.*{words})(?=.*limit).*Remedy: ")


def test_what_would_be_lost_is_named():
    decay = torch.tensor(10.0, dtype=D, requires_grad=True)
    lazy = ng.implicit_diff.custom_root(torch.func.grad(ridge_objective), solve=lambda _, b: torch.zeros_like(b))(ridge)
    with refused(ng.NotConverged, "residual norm .*, limit .*, after 0 steps"):
        lazy(None, decay, FEATURES, TARGETS).sum().backward()
    hidden = ng.Minimize(lambda p, h, b: ((p["w"] - h["x"] * decay) ** 2).sum())
    response = ng.best_response(lambda h, b: {"w": h["x"]}, inner=hidden, method=METHODS[0])
    with refused(ng.InvalidInput, "holds a tensor of shape .. that requires grad"):
        response({"x": X})
    cut = ng.Minimize(lambda p, h, b: ((p["w"] - h["x"].detach()) ** 2).sum())
    response = ng.best_response(lambda h, b: {"w": h["x"]}, inner=cut, method=METHODS[0])
    with refused(ng.DisconnectedHyperparameter, r"hparams\['x'\]: 0 "):
        response({"x": X.clone().requires_grad_()})["w"].sum().backward()
    strict = ng.Implicit(solver=ng.Dense(), inner_tol=1e-6)
    square = ng.Minimize(lambda p, h, b: ((p["w"] - h["x"]) ** 2).sum())
    response = ng.best_response(lambda h, b: {"w": h["x"] + 1}, inner=square, method=strict)
    with refused(ng.InnerNotConverged, "inner residual"):
        response({"x": X})
    rooted = ng.implicit_diff.custom_root(torch.func.grad(ridge_objective))(ridge)
    with pytest.warns(ng.ZeroHypergradient, match="init_params.*Remedy: "):
        rooted(torch.zeros(5, dtype=D, requires_grad=True), decay, FEATURES, TARGETS)
