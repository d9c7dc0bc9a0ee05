"""Errors name the thing, the number beside its limit, and a remedy."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import nestgrad_torch as ng

DENSE = ng.Implicit(solver=ng.Dense())
SERIES = ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=1.0))
W = torch.ones(3, dtype=torch.float64)
BATCH = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def loss(params, hparams, batch):
    return ((batch @ params["w"]) ** 2).mean() + hparams["decay"] * (params["w"] ** 2).sum()


def refused(error, *words):
    """Expect the error, with these words in this order, then a limit and a remedy."""
    pattern = ".*".join(words)
    return pytest.raises(error, match=rf"(?s)^(?=.*{pattern})(?=.*limit).*Remedy: ")


def hypergradient(params=None, hparams=None, inner=loss, outer=loss, method=DENSE, batch=BATCH, optimizer=None):
    problem = ng.Minimize(inner) if optimizer is None else ng.WeightUpdate(inner, optimizer)
    return ng.hypergradient(
        ng.BilevelProblem(inner=problem, outer_loss=outer),
        {"w": W} if params is None else params,
        {"decay": 0.1} if hparams is None else hparams,
        method=method,
        inner_batch=batch,
        outer_batch=BATCH,
    )


def test_the_problem_of_these_tests_is_sound():
    assert hypergradient().status.ok


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (1, "int"),
        (True, "bool"),
        (torch.tensor(1), "int64"),
        (torch.tensor([True]), "bool"),
        (torch.ones(2) * 1j, "complex64"),
    ],
    ids=repr,
)
def test_hparams_that_are_not_real_numbers_are_refused(leaf, kind):
    with refused(ng.NonDifferentiableHyperparameter, r"hparams\['a/decay'\]", kind):
        hypergradient(hparams={"a": {"decay": leaf}})


@pytest.mark.parametrize("leaf", [np.ones(2), np.float32(1.0), "0.1"], ids=["array", "scalar", "text"])
def test_hparams_of_another_library_are_refused(leaf):
    with refused(ng.InvalidInput, r"hparams\['decay'\]", type(leaf).__name__):
        hypergradient(hparams={"decay": leaf})


def test_no_hparams_are_refused():
    with refused(ng.InvalidInput, "hparams: 0 leaves"):
        hypergradient(hparams={})


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(W.clone(), requires_grad=False)


@pytest.mark.parametrize("params", [{}, Frozen(), {"w": torch.ones(0)}], ids=["empty", "frozen", "no entries"])
def test_params_with_nothing_to_train_are_refused(params):
    with refused(ng.InvalidInput, "params: 0 trainable entries"):
        hypergradient(params)


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (torch.arange(3), "int64"),
        (torch.ones(3) * 1j, "complex64"),
        (np.ones(3), "ndarray"),
        (1.0, "float"),
        (nn.Linear(1, 1), "Linear"),
    ],
    ids=["integer", "complex", "numpy", "float", "module"],
)
def test_params_that_are_not_real_tensors_are_refused(leaf, kind):
    with refused(ng.InvalidInput, r"params\['layer/w'\]", kind):
        hypergradient({"layer": {"w": leaf}})


def test_one_tensor_under_two_names_is_refused():
    with refused(ng.InvalidInput, r"params\['v'\]", r"params\['w'\]", "2 paths"):
        hypergradient({"w": W, "v": W})
    assert hypergradient({"w": W, "v": W.clone()}, method=ng.Implicit(solver=ng.Identity())).status.ok


MIXED = {
    "params": {"params": {"w": W, "v": W.half()}},
    "hparams": {"hparams": {"decay": torch.tensor(0.1, dtype=torch.float16)}},
    "inner_batch": {"batch": BATCH.half()},
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_precision_is_refused_by_name(name):
    with refused(ng.DtypeMismatch, name, "float16", "limit: torch.float64"):
        hypergradient(**MIXED[name])


ELSEWHERE = {
    "params": {"params": {"w": W, "v": W.to("meta")}},
    "hparams": {"hparams": {"decay": torch.tensor(0.1, dtype=torch.float64, device="meta")}},
    "inner_batch": {"batch": (BATCH, torch.ones(5, dtype=torch.int64, device="meta"))},
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_another_device_is_refused_by_name(name):
    with refused(ng.DeviceMismatch, name, "is on meta", "limit: cpu"):
        hypergradient(**ELSEWHERE[name])


def test_integer_batches_are_welcome():
    found = hypergradient(batch=(BATCH, torch.arange(5)), inner=lambda p, h, b: loss(p, h, b[0][b[1]]))
    assert torch.equal(found.total["decay"], hypergradient().total["decay"])


with torch.inference_mode():
    INFERRED = W.clone()

UNUSABLE = {
    "params": {"params": {"w": INFERRED}},
    "hparams": {"hparams": {"decay": INFERRED}},
    "inner_batch": {"batch": (BATCH, INFERRED)},
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_inference_tensors_are_refused_by_name(name):
    with refused(ng.InvalidInput, name, "inference-mode tensor"):
        hypergradient(**UNUSABLE[name])


@pytest.mark.parametrize("level", ["inner", "outer"])
@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda x: float(x.detach()), "float"),
        (lambda x: x[None], r"shape \(1,\)"),
        (lambda x: x * torch.ones(2, 2, dtype=torch.float64), r"shape \(2, 2\)"),
        (lambda x: x.long(), "int64"),
        (lambda x: x * 1j, "complex128"),
        (lambda x: None, "NoneType"),
    ],
    ids=["float", "row", "matrix", "integer", "complex", "none"],
)
def test_losses_that_are_no_real_scalar_are_refused(level, spoil, kind):
    with refused(ng.NonScalarLoss, level, kind):
        hypergradient(**{level: lambda p, h, b: spoil(loss(p, h, b))})


def under_no_grad(value):
    with torch.no_grad():
        return value * 1.0


CUTS = {
    "detach": torch.detach,
    "item": lambda x: x.item(),
    "float": lambda x: float(x.detach()),
    "no_grad": under_no_grad,
    "data": lambda x: x.data,
    "numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "integer": lambda x: x.long(),
    "comparison": lambda x: x > 0,
}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("through", ["loss", "optimizer"])
def test_a_hyperparameter_that_is_cut_off_is_named(cut, through):
    hparams = {"decay": 0.1, "rate": 0.5}
    with refused(ng.DisconnectedHyperparameter, r"hparams\['rate'\]", "0 differentiable paths", "at least 1"):
        if through == "loss":
            hypergradient(hparams=hparams, inner=lambda p, h, b: loss(p, h, b) * (1 + cut(h["rate"])))
        else:
            hypergradient(hparams=hparams, method=SERIES, optimizer=lambda h: ng.optim.sgd(cut(h["rate"]) * 1.0))


def test_a_loss_under_no_grad_is_named():
    def quiet(params, hparams, batch):
        with torch.no_grad():
            return loss(params, hparams, batch)

    with refused(ng.DisconnectedHyperparameter, r"hparams\['decay'\]"):
        hypergradient(inner=quiet, outer=quiet, method=SERIES)


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [
        (lambda h: torch.optim.SGD([W.clone()], lr=0.1), "SGD"),
        (lambda h: torch.optim.Adam([W.clone()], lr=h["decay"].detach()), "Adam"),
        (lambda h: None, "NoneType"),
        (lambda h: torch.optim.SGD, "type"),
    ],
    ids=["sgd", "adam", "none", "class"],
)
def test_optimizers_that_step_in_place_are_refused(optimizer, kind):
    with refused(ng.UnsupportedOptimizer, "WeightUpdate.optimizer", kind):
        hypergradient(optimizer=optimizer, method=SERIES)
    problem = ng.BilevelProblem(inner=ng.WeightUpdate(loss, optimizer), outer_loss=loss)
    with refused(ng.UnsupportedOptimizer, "WeightUpdate.optimizer", kind):
        one_pass(problem=problem).init({"w": W})


def test_dense_above_its_limit_is_refused():
    with refused(ng.InvalidInput, "Dense: 3 weights", "max_params=2"):
        hypergradient(method=ng.Implicit(solver=ng.Dense(max_params=2)))


@pytest.mark.parametrize("method", [ng.Dense(), ng.Implicit, None, "cg"], ids=["solver", "class", "none", "text"])
def test_what_is_no_method_is_refused(method):
    with refused(ng.UnsupportedSpec, "method"):
        hypergradient(method=method)


def one_pass(**changed):
    settings = {
        "problem": ng.BilevelProblem(
            inner=ng.WeightUpdate(loss, lambda h: ng.optim.sgd(h["lr"], weight_decay=h["decay"])), outer_loss=loss
        ),
        "hparams": {"lr": ng.Log10(0.1), "decay": ng.Log10(0.01)},
        "every": 1,
        "method": SERIES,
        "outer_optimizer": partial(torch.optim.Adam, lr=0.05),
    } | changed
    return ng.OnePass(settings.pop("problem"), **settings)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"problem": ng.BilevelProblem(inner=ng.Minimize(loss), outer_loss=loss)}, ng.UnsupportedSpec, "Minimize"),
        ({"every": 0}, ng.InvalidInput, "every: got 0"),
        ({"every": 2.0}, ng.InvalidInput, "every: got 2.0"),
        ({"method": ng.Neumann(num_terms=2, step_size=1.0)}, ng.UnsupportedSpec, "method: got Neumann"),
        ({"hparams": {}}, ng.InvalidInput, "0 hyperparameters"),
        ({"hparams": {"lr": 0.1}}, ng.InvalidInput, r"hparams\['lr'\]: got 0.1"),
        ({"hparams": 0.1}, ng.InvalidInput, "hparams: got float"),
        ({"outer_optimizer": torch.optim.Adam([W.clone()])}, ng.UnsupportedOptimizer, "outer_optimizer: got Adam"),
    ],
    ids=["minimize", "every", "every float", "solver", "no spaces", "a number", "no tree", "an instance"],
)
def test_a_tuner_that_cannot_be_built_is_refused(changed, error, words):
    with refused(error, "OnePass.*", words):
        one_pass(**changed)


def test_what_needs_symmetry_or_a_key_is_refused_for_a_tuner():
    with refused(ng.UnsupportedSpec, "RandomNeumann draws at random"):
        one_pass(method=ng.Implicit(solver=ng.RandomNeumann(num_terms=3, step_size=1.0)))
    with refused(ng.UnsupportedSpec, "OnePass.method: Nystrom"):
        one_pass(method=ng.Implicit(solver=ng.Nystrom(rank=1, damping=0.1)))
    update = ng.WeightUpdate(loss, lambda h: ng.optim.sgd(0.1), carry="weights_and_state")
    with refused(ng.UnsupportedSpec, "CG on WeightUpdate", "weights_and_state"):
        one_pass(
            problem=ng.BilevelProblem(inner=update, outer_loss=loss),
            method=ng.Implicit(solver=ng.CG(rtol=1e-3, max_steps=9)),
        )


@pytest.mark.parametrize(
    "space",
    [
        lambda: ng.Log10(torch.tensor([0.1, -1.0], dtype=torch.float64)),
        lambda: ng.Logit({"w": torch.ones(3, dtype=torch.float64)}),
    ],
    ids=["negative", "one"],
)
def test_initial_values_out_of_their_space_are_refused(space):
    with refused(ng.OutOfSpace, "hyperparameter 'lr", "strictly between 0 and"):
        one_pass(hparams={"lr": space(), "decay": ng.Log10(0.01)}).init({"w": W})


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda leaves: None, "NoneType"),
        (lambda leaves: torch.optim.lr_scheduler.StepLR, "type"),
        (partial(torch.optim.LBFGS, lr=0.1), "closure"),
    ],
    ids=["none", "class", "lbfgs"],
)
def test_outer_optimizers_that_cannot_step_are_refused(make, word):
    with refused(ng.UnsupportedOptimizer, "OnePass.outer_optimizer", word):
        one_pass(outer_optimizer=make).init({"w": W})


@pytest.mark.parametrize("which", ["inner_batch", "outer_batch"])
def test_batches_are_checked_before_the_first_step(which):
    tune = one_pass(every=5)
    batches = {"inner_batch": BATCH, "outer_batch": BATCH, which: BATCH.float()}
    with refused(ng.DtypeMismatch, which, "limit: torch.float64"):
        tune.step(tune.init({"w": W}), **batches)


def test_a_hyperparameter_cut_off_from_a_tuner_is_named():
    problem = ng.BilevelProblem(inner=ng.WeightUpdate(loss, lambda h: ng.optim.sgd(h["lr"].item())), outer_loss=loss)
    tune = one_pass(problem=problem)
    with refused(ng.DisconnectedHyperparameter, r"hparams\['lr'\]"):
        tune.step(tune.init({"w": W}), BATCH, BATCH)


def test_a_module_is_asked_of_a_run_that_has_none():
    tune = one_pass()
    state = tune.init({"w": W})
    with refused(ng.InvalidInput, "OnePass.module", "0 modules"):
        tune.module(state)


def test_a_plain_optimizer_needs_the_runs_own_names():
    tune = one_pass()
    state = tune.init({"w": W})
    with refused(ng.InvalidInput, "OnePass.torch_optimizer: 3 names", "'bias'"):
        tune.torch_optimizer(state, nn.Linear(3, 1))


class Bare:
    def init(self, params):
        return {}

    def update(self, grads, state, params):
        return grads, state


def test_a_plain_optimizer_needs_a_rule_that_knows_one():
    problem = ng.BilevelProblem(inner=ng.WeightUpdate(loss, lambda h: Bare()), outer_loss=loss)
    tune = one_pass(problem=problem)
    with pytest.raises(ng.UnsupportedOptimizer, match=r"Bare names no torch.optim counterpart.*Remedy"):
        tune.torch_optimizer(tune.init({"w": W}), nn.Linear(3, 1))


def test_per_parameter_takes_a_number():
    with refused(ng.InvalidInput, "per_parameter", "Tensor"):
        ng.per_parameter(ng.Real(torch.ones(3)), {"w": W})


def test_a_failed_solve_raises_its_error_or_returns_its_status():
    def saddle(params, hparams, batch):
        return (params["w"] * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64) * params["w"]).sum() * hparams[
            "decay"
        ]

    cg = ng.Implicit(solver=ng.CG(rtol=1e-6, max_steps=9))
    with refused(ng.IndefiniteCurvature, "smallest curvature", "limit 0"):
        hypergradient(inner=saddle, method=cg)
    problem = ng.BilevelProblem(inner=ng.Minimize(saddle), outer_loss=loss)
    found = ng.hypergradient(problem, {"w": W}, {"decay": 0.1}, method=cg, outer_batch=BATCH, throw=False)
    assert found.status is ng.Status.INDEFINITE


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_modules_are_refused():
    scripted = torch.jit.trace(nn.Linear(3, 1), torch.ones(2, 3))
    with refused(ng.UnsupportedModule, "params", "scripted"):
        hypergradient(scripted)
