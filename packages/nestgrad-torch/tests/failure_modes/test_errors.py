"""Known ways to fail, one row each: the error, and that its message has a name, a number, a limit and a remedy."""

import importlib.util
import pathlib
import re
from functools import partial

import pytest
import torch
from torch import nn

import nestgrad_torch as ng

_spec = importlib.util.spec_from_file_location("failing_problems", pathlib.Path(__file__).with_name("problems.py"))
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
W = problems.W
X = problems.X
DENSE = problems.DENSE
loss = problems.loss
quadratic = problems.quadratic
linear = problems.linear
sgd = problems.sgd
run = problems.run
solved = problems.solved
Mixing = problems.Mixing
no_path = problems.no_path
cut = problems.cut
rounded = problems.rounded
one_pass = problems.one_pass
descent_out_of_space = problems.descent_out_of_space
lasso_at_the_edge = problems.lasso_at_the_edge
complex_loss = problems.complex_loss
UNROLLED = problems.UNROLLED
ITERATIVE = problems.ITERATIVE
KEYED = problems.KEYED
EMPTY = problems.EMPTY


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
