"""Known ways to fail, one row each: the error, and that its message has a name, a number, a limit and a remedy."""

import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import nestgrad_torch as ng

D = torch.float64
W = torch.tensor([0.3, -1.0, 2.0], dtype=D)
X = torch.randn(7, 3, dtype=D, generator=torch.Generator().manual_seed(0))
Y = torch.randn(7, dtype=D, generator=torch.Generator().manual_seed(1))
DENSE = ng.Implicit(solver=ng.Dense())


def loss(params, hparams, batch):
    return ((X @ params["w"] - Y) ** 2).mean() + hparams["decay"] * (params["w"] ** 2).sum()


def quadratic(diagonal):
    """½ Σ d w² with curvatures d, and a term in the hyperparameter."""
    d = torch.tensor(diagonal, dtype=D)
    return lambda params, hparams, batch: 0.5 * (d * params["w"] ** 2).sum() + hparams["decay"] * params["w"].sum()


def linear(matrix):
    """The root of M w + decay."""
    m = torch.tensor(matrix, dtype=D)
    return ng.Root(lambda params, hparams, batch: {"w": m @ params["w"] + hparams["decay"]})


def sgd(hparams):
    return ng.optim.sgd(0.1, weight_decay=hparams["decay"])


def run(inner=loss, params=None, hparams=None, method=DENSE, outer=loss, function=ng.hypergradient, **more):
    inner = ng.Minimize(inner) if callable(inner) else inner
    params = {"w": W} if params is None else params
    hparams = {"decay": 0.3} if hparams is None else hparams
    given = {} if function is ng.check else {"method": method}
    return function(ng.BilevelProblem(inner=inner, outer_loss=outer), params, hparams, **given, **more)


def solved(solver, inner=loss, **more):
    return partial(run, inner, method=ng.Implicit(solver=solver), **more)


class Mixing:
    """A rule whose update mixes the entries of the gradient, so that no diagonal makes J symmetric."""

    def init(self, params):
        return {}

    def update(self, grads, state, params):
        return {"w": -0.1 * torch.cumsum(grads["w"], 0)}, state


def no_path(params, hparams, batch):
    return (params["w"] ** 2).sum()


def cut(params, hparams, batch):
    return loss(params, {"decay": hparams["decay"].detach()}, batch)


def rounded(params, hparams, batch):
    return loss(params, {"decay": torch.round(hparams["decay"])}, batch)


def clamped(params, hparams, batch):
    return loss(params, {"decay": hparams["decay"].clamp(0.5, 1.0)}, batch)


def one_pass(**changed):
    settings = {
        "hparams": {"decay": ng.Log(0.3)},
        "every": 1,
        "method": ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=1.0)),
        "outer_optimizer": partial(torch.optim.SGD, lr=0.1),
    }
    problem = ng.BilevelProblem(inner=changed.pop("inner", ng.WeightUpdate(loss, sgd)), outer_loss=loss)
    return ng.OnePass(problem, **(settings | changed))


def exploding():
    scale = iter([1.0] * 6 + [1e9])

    def outer(params, hparams, batch):
        return loss(params, hparams, batch) * next(scale)

    tuner = ng.OnePass(
        ng.BilevelProblem(inner=ng.WeightUpdate(loss, sgd), outer_loss=outer),
        hparams={"decay": ng.Real(0.3)},
        every=1,
        method=ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=1.0)),
        outer_optimizer=partial(torch.optim.SGD, lr=1e-12),
    )
    state = tuner.init({"w": W})
    for _ in range(7):
        state, _ = tuner.step(state, None, None)


def descent_out_of_space():
    update = ng.WeightUpdate(loss_of_weights, lambda h: ng.optim.sgd(h["lr"]))
    tuner = ng.HypergradientDescent(update, hparams={"lr": ng.Log(2.5)}, step_size=50.0, rule="multiplicative")
    state = tuner.init({"w": W})
    for _ in range(3):
        state, _ = tuner.step(state, None)


def loss_of_weights(params, hparams, batch):
    return ((X @ params["w"] - Y) ** 2).mean()


def broadcast(params, hparams, batch):
    return ((X @ params["w"][:, None] - Y) ** 2).mean() + hparams["decay"] * (params["w"] ** 2).sum()


def lasso_at_the_edge():
    inner = ng.ProximalGradient(
        lambda p, h, b: 0.5 * ((p["w"] - torch.tensor([2.0, 0.3, -1.0], dtype=D)) ** 2).sum(),
        lambda h: ng.prox.lasso(h["decay"]),
        1.0,
    )
    run(inner, params={"w": torch.tensor([1.7, 0.0, -0.7], dtype=D)}, outer=loss_of_weights)


def complex_loss(params, hparams, batch):
    return loss(params, hparams, batch) * 1j


UNROLLED = ng.Unrolled(num_steps=2)
ITERATIVE = {"rtol": 1e-12, "max_steps": 1}
KEYED = ng.RandomNeumann(num_terms=3, step_size=0.1)
EMPTY = torch.ones(0, 3, dtype=D)

ERRORS = [
    ("F01", partial(run, cut, outer=no_path), ng.DisconnectedHyperparameter, r"hparams\['decay'\]: 0 "),
    (
        "F02",
        partial(run, ng.WeightUpdate(loss, lambda h: torch.optim.SGD([W.clone().requires_grad_()]))),
        ng.UnsupportedOptimizer,
        "SGD, which steps in place",
    ),
    ("F03", partial(run, hparams={"decay": 1}), ng.NonDifferentiableHyperparameter, r"hparams\['decay'\]: got int"),
    ("F03", partial(run, hparams={"decay": torch.tensor(True)}), ng.NonDifferentiableHyperparameter, "bool"),
    (
        "F04",
        partial(run, rounded, outer=no_path, function=ng.check, strict=True),
        ng.DisconnectedHyperparameter,
        "decay: derivative exactly 0",
    ),
    ("F14", partial(run, lambda p, h, b: p["w"].norm() * h["decay"], {"w": 0 * W}), ng.NonFinite, "residual norm nan"),
    ("F17", partial(run, params={"w": W, "spare": W + 1}, method=DENSE), ng.SingularJacobian, "singular value 0"),
    ("F21", solved(ng.Neumann(num_terms=10, step_size=5.0)), ng.NeumannDivergence, r"last ratio of terms \d"),
    ("F22", solved(ng.CG(rtol=1e-9, max_steps=9), quadratic([1.0, -2.0, 3.0])), ng.IndefiniteCurvature, "= -0?"),
    (
        "F22",
        solved(ng.CG(rtol=1e-9, max_steps=9), quadratic([1.0, 0.0, 3.0])),
        ng.SingularJacobian,
        "value [0-9.e-]+, limit: above rounding",
    ),
    ("F22", solved(ng.Dense(), quadratic([1.0, 0.0, 3.0])), ng.SingularJacobian, "value 0"),
    ("F22", solved(ng.MINRES(rtol=1e-9, max_steps=9), quadratic([1.0, 0.0, 3.0])), ng.SingularJacobian, "MINRES"),
    ("F22", solved(ng.GMRES(rtol=1e-9, max_steps=9), quadratic([1.0, 0.0, 3.0])), ng.SingularJacobian, "GMRES"),
    ("F22", solved(ng.LSMR(rtol=1e-9, max_steps=9), quadratic([1.0, 0.0, 3.0])), ng.SingularJacobian, "LSMR"),
    ("F22", solved(ng.NormalCG(rtol=1e-9, max_steps=9), quadratic([1.0, 0.0, 3.0])), ng.SingularJacobian, "NormalCG"),
    (
        "F23",
        solved(ng.CG(rtol=1e-9, max_steps=9), ng.WeightUpdate(loss, lambda h: Mixing())),
        ng.NotSymmetric,
        r"symmetry defect 0\.\d+, limit 1e-06",
    ),
    (
        "F23",
        solved(ng.MINRES(rtol=1e-9, max_steps=9), ng.WeightUpdate(loss, lambda h: Mixing())),
        ng.NotSymmetric,
        r"symmetry defect 0\.\d+, limit 1e-06",
    ),
    *[
        ("F24", solved(kind(**ITERATIVE)), ng.NotConverged, r"after 1 steps")
        for kind in (ng.CG, ng.MINRES, ng.NormalCG, ng.LSMR, ng.GMRES, ng.BiCGSTAB)
    ],
    (
        "F24",
        solved(
            ng.BiCGSTAB(rtol=1e-9, max_steps=9),
            linear([[0.0, 1.0], [-1.0, 0.0]]),
            params={"w": W[:2]},
            outer=lambda p, h, b: p["w"][0],
        ),
        ng.Breakdown,
        "residual norm 1",
    ),
    (
        "F25",
        partial(run, method=ng.Implicit(solver=ng.Dense(), inner_tol=1e-9)),
        ng.InnerNotConverged,
        r"norm \d.*inner_tol=1e-09",
    ),
    ("F26", partial(run, lambda p, h, b: loss(p, h, b) * float("nan")), ng.NonFinite, "limit: finite"),
    (
        "F26",
        partial(run, outer=lambda p, h, b: loss(p, h, b) * float("inf"), method=ng.Implicit(solver=ng.Identity())),
        ng.NonFinite,
        "limit: finite",
    ),
    (
        "F26",
        partial(run, ng.WeightUpdate(lambda p, h, b: loss(p, h, b) * float("nan"), sgd), method=UNROLLED),
        ng.NonFinite,
        "limit: finite",
    ),
    ("F28", descent_out_of_space, ng.OutOfSpace, "hyperparameter 'lr': Log value -"),
    (
        "F29",
        partial(run, params={"w": W.half()}, hparams={"decay": torch.tensor(0.3).half()}),
        ng.InvalidInput,
        r"params\['w'\]: got torch.float16",
    ),
    ("F29", partial(run, params={"w": W.bfloat16()}), ng.InvalidInput, r"params\['w'\]: got torch.bfloat16"),
    (
        "F32",
        partial(run, hparams={"decay": torch.tensor(0.3)}),
        ng.DtypeMismatch,
        r"hparams\['decay'\] is torch.float32",
    ),
    ("F32", partial(run, inner_batch=X.float()), ng.DtypeMismatch, "inner_batch is torch.float32"),
    ("F33", partial(run, outer_batch=X.to("meta")), ng.DeviceMismatch, "outer_batch is on meta"),
    ("F35", partial(run, lambda p, h, b: p["w"] * h["decay"]), ng.NonScalarLoss, r"inner loss returned shape \(3,\)"),
    ("F35", partial(run, outer=lambda p, h, b: 1.0), ng.NonScalarLoss, "outer_loss returned float"),
    ("F35", partial(run, complex_loss), ng.NonScalarLoss, "complex128"),
    (
        "F35",
        partial(run, ng.FixedPoint(lambda p, h, b: {"w": p["w"][:2] * h["decay"]})),
        ng.InvalidInput,
        r"map returned \(2,\) for params\['w'\]",
    ),
    ("F35", partial(run, ng.Root(lambda p, h, b: {"v": p["w"] * h["decay"]})), ng.InvalidInput, "2 paths"),
    (
        "F36",
        partial(run, function=ng.check, inner_batch=EMPTY),
        ng.InvalidInput,
        r"inner_batch.*0 entries of shape \(0, 3\)",
    ),
    ("F47", partial(run, params={"w": torch.inference_mode()(W.clone)()}), ng.InvalidInput, "inference-mode tensor"),
    ("F49", partial(run, params=nn.DataParallel(nn.Linear(3, 1))), ng.UnsupportedModule, "DataParallel"),
    ("kink", lasso_at_the_edge, ng.NearKink, "nearest kink at .* of its threshold"),
    ("size", solved(ng.Dense(max_params=2)), ng.InvalidInput, "3 weights, limit max_params=2"),
    ("size", solved(ng.Nystrom(rank=4, damping=0.1), key=0), ng.InvalidInput, "rank: got 4, limit: 3 weights"),
    ("legal", partial(run, method=UNROLLED), ng.UnsupportedSpec, "Unrolled on Minimize.*WeightUpdate"),
    ("legal", partial(run, ng.WeightUpdate(loss, sgd), method=ng.DARTS(step_size=0.1)), ng.UnsupportedSpec, "SAMA"),
    ("legal", partial(run, method=ng.SAMA()), ng.UnsupportedSpec, "SAMA on Minimize.*DARTS"),
    (
        "legal",
        solved(ng.CG(rtol=1e-9, max_steps=9), ng.WeightUpdate(loss, sgd, carry="weights_and_state")),
        ng.UnsupportedSpec,
        "weights_and_state.*GMRES",
    ),
    ("legal", solved(KEYED), ng.InvalidInput, "key: got None"),
    ("legal", partial(run, key=3), ng.InvalidInput, "key: given to Dense"),
    ("legal", partial(run, warm_start={"w": W}), ng.InvalidInput, "warm_start: given to Dense"),
    ("legal", solved(ng.LSMR(**ITERATIVE), preconditioner={"w": W}), ng.InvalidInput, "preconditioner: given to LSMR"),
    (
        "legal",
        solved(ng.CG(**ITERATIVE), preconditioner={"w": W}),
        ng.InvalidInput,
        "preconditioner: smallest entry -1",
    ),
    ("legal", solved(ng.CG(**ITERATIVE), warm_start={"w": W[:2]}), ng.InvalidInput, r"warm_start\['w'\]: got \(2,\)"),
    (
        "legal",
        solved(ng.CG(**ITERATIVE), warm_start={"w": W.float()}),
        ng.DtypeMismatch,
        r"warm_start\['w'\] is torch.float32",
    ),
    (
        "legal",
        partial(run, ng.WeightUpdate(loss, sgd), method=UNROLLED, inner_batches=[X]),
        ng.InvalidInput,
        "got 1, limit",
    ),
    (
        "legal",
        partial(run, function=ng.hypergradients, outer_batches=[]),
        ng.InvalidInput,
        "outer_batches: got list of 0",
    ),
    (
        "legal",
        partial(run, ng.WeightUpdate(loss, sgd), method=UNROLLED, function=ng.hypergradients, outer_batches=[X]),
        ng.UnsupportedSpec,
        "hypergradients: method Unrolled",
    ),
    (
        "legal",
        lambda: ng.newton_step(ng.WeightUpdate(loss, sgd), {"w": W}, {"decay": 0.3}, solver=ng.Dense()),
        ng.UnsupportedSpec,
        "newton_step on WeightUpdate",
    ),
    (
        "legal",
        lambda: ng.newton_step(ng.Minimize(quadratic([1.0, 0.0, 3.0])), {"w": W}, {"decay": 0.3}, solver=ng.Dense()),
        ng.SingularJacobian,
        "value 0",
    ),
    ("legal", partial(one_pass, inner=ng.Minimize(loss)), ng.UnsupportedSpec, "OnePass: inner problem Minimize"),
    ("legal", partial(one_pass, method=ng.Implicit(solver=KEYED)), ng.UnsupportedSpec, "RandomNeumann draws at random"),
]


@pytest.mark.parametrize(
    ("mode", "call", "error", "words"), ERRORS, ids=[f"{i}-{row[0]}" for i, row in enumerate(ERRORS)]
)
def test_a_failure_has_a_name_a_number_and_a_remedy(mode, call, error, words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, ng.NestgradError)
    assert re.search(words, message), message
    assert re.search(r"limit", message), message
    assert re.search(r"Remedy: \S.*\.$", message), message


WARNINGS = [
    (
        "F04",
        partial(run, rounded, outer=no_path, function=ng.check),
        ng.ZeroHypergradient,
        "decay: derivative exactly 0",
    ),
    ("F04", partial(run, rounded, outer=no_path), ng.ZeroHypergradient, r"hparams\['decay'\]: hypergradient exactly 0"),
    ("F05", partial(run, clamped, outer=no_path, function=ng.check), ng.ZeroHypergradient, "relative step of 5"),
    (
        "F17",
        partial(run, params={"w": W, "spare": W + 1}, function=ng.check),
        ng.NestgradWarning,
        r"params\['spare'\]: 0",
    ),
    ("F27", exploding, ng.ExplodingHypergradient, "training step 7: hypergradient norm"),
    ("F34", partial(run, broadcast, function=ng.check), ng.SuspectBroadcast, r"\(7, 1\) and \(7,\)"),
]


@pytest.mark.parametrize(
    ("mode", "call", "kind", "words"), WARNINGS, ids=[f"{i}-{row[0]}" for i, row in enumerate(WARNINGS)]
)
def test_a_doubt_is_a_warning_with_a_name_a_number_and_a_remedy(mode, call, kind, words):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        call()
    messages = [str(w.message) for w in heard if issubclass(w.category, kind)]
    assert any(re.search(words, message) for message in messages), messages
    assert all("limit" in message and "Remedy: " in message for message in messages)


def test_f06_what_may_have_no_effect_is_let_pass():
    def inner(params, hparams, batch):
        return loss(params, hparams, batch) + 0.0 * hparams["spare"] * params["w"].sum()

    allowed = {"hparams": {"decay": 0.3, "spare": 0.5}, "allow_no_effect": ("spare",)}
    assert run(inner, function=ng.check, **allowed) == ()


def test_f13_adam_is_differentiated_where_no_gradient_has_ever_been():
    def sparse(params, hparams, batch):
        return (params["w"][:2] ** 2).sum()

    update = ng.WeightUpdate(sparse, lambda h: ng.optim.adam(h["decay"]), carry="weights_and_state")
    method = ng.Unrolled(num_steps=3)
    found = run(update, method=method)
    assert bool(found.total["decay"].isfinite())
    assert bool(found.adjoint["w"].isfinite().all())
    single = run(update, method=ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=0.5)), throw=False)
    assert bool(single.total["decay"].isfinite())


@pytest.mark.parametrize("size", [1e-20, 1e-13, 1e20])
@pytest.mark.parametrize(
    "solver", [ng.CG, ng.MINRES, ng.NormalCG, ng.LSMR, ng.GMRES, ng.BiCGSTAB], ids=lambda s: s.__name__
)
def test_f30_the_size_of_the_outer_loss_is_irrelevant(solver, size):
    method = ng.Implicit(solver=solver(rtol=1e-10, max_steps=60))
    plain = run(outer=loss_of_weights, method=method)
    scaled = run(outer=lambda p, h, b: size * loss_of_weights(p, h, b), method=method)
    assert float(scaled.total["decay"]) == pytest.approx(size * float(plain.total["decay"]), rel=1e-9)


@pytest.mark.parametrize(
    "solver", [ng.CG, ng.MINRES, ng.NormalCG, ng.LSMR, ng.GMRES, ng.BiCGSTAB], ids=lambda s: s.__name__
)
def test_a_zero_outer_gradient_gives_exactly_zero(solver):
    for given in ({}, {"warm_start": {"w": W}}):
        found = run(
            outer=lambda p, h, b: 0.0 * p["w"].sum(), method=ng.Implicit(solver=solver(rtol=1e-9, max_steps=9)), **given
        )
        assert float(found.total["decay"]) == 0.0
        assert found.status is ng.Status.CONVERGED
