"""Arguments and combinations that are refused; the first column is the failure's number."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim, prox

_spec = importlib.util.spec_from_file_location("failing_problems", pathlib.Path(__file__).with_name("problems.py"))
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
N = problems.N
W = problems.W
H = problems.H
X = problems.X
DENSE = problems.DENSE
times = problems.times
loss = problems.loss
outer = problems.outer
cut = problems.cut
call = problems.call
preflight = problems.preflight
sgd = problems.sgd
rooted = problems.rooted
E = problems.E
U = problems.U
assert_named = problems.assert_named


def deleted():
    leaf = jnp.array(W["w"])
    leaf.delete()
    return {"w": leaf}


def reversible(momentum=0.5, **changed):
    with jax.enable_x64(changed.pop("x64", True)):
        rule = changed.pop("optimizer", lambda h: optim.reversible_sgd(0.1 * h["gain"] * h["shift"], momentum))
        return call(optimizer=rule, method=ng.Unrolled(num_steps=2, mode="reversible"), **changed)


def repeated(function):
    for _ in range(4):
        function()


MODES = [
    (
        "F03",
        "integer",
        lambda: call(hparams={**H, "gain": jnp.int32(1)}),
        ng.NonDifferentiableHyperparameter,
        "hparams['gain']",
        "int32",
    ),
    ("F03", "bool", lambda: call(hparams={**H, "gain": True}), ng.NonDifferentiableHyperparameter, "gain", "limit"),
    ("F10", "no terms", lambda: ng.Neumann(num_terms=0, step_size=0.1), E, "num_terms", "0"),
    (
        "F29",
        "half",
        lambda: call(params={"w": W["w"].astype(jnp.bfloat16)}),
        ng.DtypeMismatch,
        "params['w']",
        "limit: float32",
    ),
    (
        "F31",
        "cut to single",
        lambda: call(params={"w": np.zeros(N)}),
        ng.DtypeMismatch,
        "params['w']",
        "limit: float32",
    ),
    (
        "F32",
        "mixed",
        lambda: call(hparams={**H, "gain": jnp.float16(1.0)}),
        ng.DtypeMismatch,
        "hparams['gain']",
        "limit: float32",
    ),
    ("F32", "64-bit integers", lambda: reversible(x64=False), ng.DtypeMismatch, "reversible", "limit: int64"),
    ("F36", "sizes", lambda: call(inner_batch=X[:, :2]), E, "hypergradient", "limit: equal sizes"),
    ("F36", "empty", lambda: preflight(inner_batch=X[:0]), E, "inner_batch", "limit: at least 1"),
    (
        "F36",
        "index",
        lambda: preflight(lambda w, h, b: loss(w, h, X) + w["w"][b].sum(), inner_batch=jnp.arange(2, 5)),
        E,
        "inner loss",
        "limit 0",
    ),
    (
        "F42",
        "hash",
        lambda: call(type("Loss", (), {"__call__": staticmethod(loss), "__hash__": None})()),
        E,
        "problem is not hashable",
        "limit",
    ),
    ("F43", "deleted", lambda: call(params=deleted()), E, "params['w']", "0 live buffers"),
    ("F50", "state", lambda: reversible(opt_state=optax.EmptyState()), E, "opt_state", "limit: ReversibleState"),
    ("legal", "unrolled Minimize", lambda: call(method=ng.Unrolled(num_steps=2)), U, "Unrolled on Minimize", "limit"),
    ("legal", "darts on update", lambda: call(optimizer=sgd, method=ng.DARTS(step_size=0.1)), U, "DARTS", "limit"),
    ("legal", "sama on Minimize", lambda: call(method=ng.SAMA()), U, "SAMA", "limit"),
    ("legal", "no rule", lambda: call(method=ng.Dense()), U, "got the solver Dense", "limit"),
    ("legal", "warm start", lambda: call(warm_start=W), E, "warm_start", "limit: CG"),
    ("legal", "preconditioner", lambda: call(preconditioner=W), E, "preconditioner", "limit: CG"),
    ("legal", "key", lambda: call(key=0), E, "key", "limit: RandomNeumann"),
    (
        "legal",
        "no key",
        lambda: call(method=ng.Implicit(solver=ng.RandomNeumann(num_terms=2, step_size=0.1))),
        E,
        "key",
        "limit: an int",
    ),
    (
        "legal",
        "bad key",
        lambda: call(key="a", method=ng.Implicit(solver=ng.Nystrom(rank=1, damping=0.1))),
        E,
        "key",
        "limit: an int",
    ),
    (
        "legal",
        "rank",
        lambda: call(key=0, method=ng.Implicit(solver=ng.Nystrom(rank=9, damping=0.1))),
        E,
        "rank 9",
        "limit 3",
    ),
    ("legal", "batches", lambda: call(inner_batches=[X], inner_batch=None), E, "inner_batches", "limit: Unrolled"),
    (
        "legal",
        "too few batches",
        lambda: call(optimizer=sgd, method=ng.Unrolled(num_steps=2), inner_batches=[X], inner_batch=None),
        E,
        "inner_batches",
        "num_steps=2",
    ),
    (
        "legal",
        "negative diagonal",
        lambda: call(preconditioner={"w": -W["w"]}, method=ng.Implicit(solver=ng.CG(rtol=1e-5, max_steps=9))),
        E,
        "preconditioner['w']",
        "limit: above 0",
    ),
    (
        "legal",
        "odd warm start",
        lambda: call(warm_start={"v": W["w"]}, method=ng.Implicit(solver=ng.CG(rtol=1e-5, max_steps=9))),
        E,
        "warm_start",
        "limit",
    ),
    ("legal", "map", lambda: call(kind=ng.Root(lambda w, h, b: w["w"])), E, "Root.residual", "limit"),
    (
        "legal",
        "newton",
        lambda: ng.newton_step(ng.WeightUpdate(loss, sgd), W, H, solver=ng.Dense()),
        U,
        "newton_step",
        "limit",
    ),
    (
        "legal",
        "several",
        lambda: ng.hypergradients(
            ng.BilevelProblem(ng.Minimize(loss), outer), W, H, method=ng.SAMA(), outer_batches=[X]
        ),
        U,
        "hypergradients",
        "limit: Implicit",
    ),
    (
        "legal",
        "no batches",
        lambda: ng.hypergradients(ng.BilevelProblem(ng.Minimize(loss), outer), W, H, method=DENSE, outer_batches=[]),
        E,
        "outer_batches",
        "limit: a list of at least 1",
    ),
    (
        "legal",
        "direction",
        lambda: ng.hypergradient_jvp(
            ng.BilevelProblem(ng.Minimize(loss), outer), W, H, {"gain": jnp.float32(1.0)}, method=DENSE, inner_batch=X
        ),
        E,
        "direction",
        "limit",
    ),
    (
        "legal",
        "reversible rule",
        lambda: reversible(optimizer=sgd),
        ng.UnsupportedOptimizer,
        "sgd|GradientTransf",
        "limit: ReversibleSGD",
    ),
    ("legal", "reversible momentum", lambda: reversible(0.0), E, "momentum", "limit: 1/65536"),
    ("legal", "too large", lambda: reversible(params={"w": 1e4 * W["w"]}), E, "reversible", "limit 1024"),
    ("legal", "reversible in jit", lambda: jax.jit(lambda w: reversible(params=w))(W), U, "reversible", "limit 0"),
    (
        "legal",
        "response method",
        lambda: ng.best_response(lambda h, b: W, inner=ng.Minimize(loss), method=ng.SAMA()),
        U,
        "best_response",
        "limit: Implicit",
    ),
    (
        "legal",
        "response shape",
        lambda: ng.best_response(lambda h, b: {"v": 1.0}, inner=ng.Minimize(loss), method=DENSE, result_like=W)(H, X),
        (E, jax.errors.JaxRuntimeError),
        "solve returned",
        "limit",
    ),
    ("legal", "linear solver", lambda: rooted(solve=3), E, "solve", "limit"),
    ("legal", "strength", lambda: prox.lasso({"v": 1.0})(W, 0.1), E, "prox", "limit"),
    ("legal", "check in jit", lambda: jax.jit(lambda w: preflight(params=w) and 0)(W), E, "check", "limit 0"),
]


@pytest.mark.parametrize("mode", MODES, ids=[f"{mode[0]}-{mode[1]}" for mode in MODES])
def test_a_failure_is_named(mode):
    assert_named(mode)


def test_the_same_code_compiled_again_and_again_is_warned_of():
    def made():
        return lambda w, h, b: loss(w, h, b) + 0.0 * w["w"].sum()

    with pytest.warns(ng.Recompilation, match=r"compiled 4 times .* limit 3"):
        repeated(lambda: call(made()))
