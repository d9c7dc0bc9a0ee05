"""Solves and runs that fail; the first column is the failure's number."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import prox

_spec = importlib.util.spec_from_file_location("failing_problems", pathlib.Path(__file__).with_name("problems.py"))
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
N = problems.N
W = problems.W
H = problems.H
X = problems.X
DENSE = problems.DENSE
SERIES = problems.SERIES
times = problems.times
loss = problems.loss
outer = problems.outer
call = problems.call
sgd = problems.sgd
tuned = problems.tuned
soft = problems.soft
U = problems.U
assert_named = problems.assert_named


def quadratic(*eigenvalues):
    diagonal = jnp.asarray(eigenvalues, jnp.float32)
    return lambda w, h, b: 0.5 * (diagonal * w["w"] ** 2).sum() + h["gain"] * h["shift"] * w["w"].sum()


def skewed(w, h, b):
    spin = jnp.asarray([[1.0, 2.0, 0.0], [-2.0, 1.0, 0.0], [0.0, 0.0, 1.0]], jnp.float32)
    return {"w": times(spin, w["w"]) - h["gain"] * h["shift"]}


def breaking(w, h, b):
    turn = jnp.asarray([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], jnp.float32)
    return {"w": times(turn, w["w"]) - h["gain"] * h["shift"]}


def descended(rate):
    inner = ng.WeightUpdate(lambda w, h, b: -10.0 * (w["w"] ** 2).sum(), lambda h: optax.sgd(h["m"]))
    tuner = ng.HypergradientDescent(inner, hparams={"m": ng.Logit(0.9)}, step_size=rate, rule="multiplicative")
    state = tuner.init(W)
    for _ in range(3):
        state, _ = tuner.step(state, X)


def nan_run():
    tuner = tuned(lambda w, h, b: jnp.sqrt(w["w"] - 9.0).sum())
    tuner.step(tuner.init(W), X, None)


KINKED = ng.ProximalGradient(lambda w, h, b: 0.0 * (w["w"] ** 2).sum(), lambda h: prox.lasso(0.5), 1.0)


MODES = [
    ("F21", "series", lambda: call(method=SERIES), ng.NeumannDivergence, "Neumann", "limit 1"),
    (
        "F22",
        "indefinite",
        lambda: call(quadratic(1.0, -1.0, 2.0), method=ng.Implicit(solver=ng.CG(rtol=1e-5, max_steps=9))),
        ng.IndefiniteCurvature,
        "CG",
        "limit 0",
    ),
    ("F22", "singular", lambda: call(quadratic(1.0, 0.0, 2.0)), ng.SingularJacobian, "Dense", "limit"),
    (
        "F22",
        "singular LSMR",
        lambda: call(quadratic(1.0, 0.0, 2.0), method=ng.Implicit(solver=ng.LSMR(rtol=1e-5, max_steps=20))),
        ng.SingularJacobian,
        "LSMR",
        "limit",
    ),
    (
        "F22",
        "singular MINRES",
        lambda: call(quadratic(1.0, 0.0, 2.0), method=ng.Implicit(solver=ng.MINRES(rtol=1e-5, max_steps=20))),
        ng.SingularJacobian,
        "MINRES",
        "limit",
    ),
    (
        "F22",
        "singular GMRES",
        lambda: call(quadratic(1.0, 0.0, 2.0), method=ng.Implicit(solver=ng.GMRES(rtol=1e-5, max_steps=20))),
        ng.SingularJacobian,
        "GMRES",
        "limit",
    ),
    (
        "F22",
        "breakdown",
        lambda: call(
            kind=ng.Root(breaking),
            method=ng.Implicit(solver=ng.BiCGSTAB(rtol=1e-5, max_steps=20)),
            outer_loss=lambda w, h, b: w["w"][0] + w["w"][2],
        ),
        ng.Breakdown,
        "BiCGSTAB",
        "limit",
    ),
    (
        "F23",
        "not symmetric",
        lambda: call(kind=ng.Root(skewed), method=ng.Implicit(solver=ng.CG(rtol=1e-5, max_steps=9))),
        ng.NotSymmetric,
        "CG",
        "limit 0.0001",
    ),
    (
        "F23",
        "MINRES",
        lambda: call(kind=ng.FixedPoint(skewed), method=ng.Implicit(solver=ng.MINRES(rtol=1e-5, max_steps=9))),
        ng.NotSymmetric,
        "MINRES",
        "limit 0.0001",
    ),
    (
        "F23",
        "ruled out",
        lambda: call(
            kind=ng.ProximalGradient(loss, soft, 0.1), method=ng.Implicit(solver=ng.CG(rtol=1e-5, max_steps=9))
        ),
        U,
        "CG on ProximalGradient",
        "limit",
    ),
    (
        "F23",
        "Nystrom",
        lambda: call(optimizer=sgd, method=ng.Implicit(solver=ng.Nystrom(rank=2, damping=0.1)), key=0),
        U,
        "Nystrom on WeightUpdate",
        "limit",
    ),
    *(
        (
            "F24",
            kind.__name__,
            lambda kind=kind: call(method=ng.Implicit(solver=kind(rtol=1e-6, max_steps=1))),
            ng.NotConverged,
            kind.__name__,
            "after 1 steps",
        )
        for kind in (ng.CG, ng.MINRES, ng.NormalCG, ng.LSMR, ng.GMRES, ng.BiCGSTAB)
    ),
    (
        "F25",
        "unsolved",
        lambda: call(method=ng.Implicit(solver=ng.Dense(), inner_tol=1e-6)),
        ng.InnerNotConverged,
        "Dense",
        "inner_tol=1e-06",
    ),
    (
        "F26",
        "nan loss",
        lambda: call(lambda w, h, b: jnp.log(-(w["w"] ** 2)).sum() * h["gain"] * h["shift"]),
        ng.NonFinite,
        "Implicit",
        "limit: finite",
    ),
    ("F26", "nan run", nan_run, ng.NonFinite, "training step 1", "limit: finite"),
    (
        "F26",
        "nan unroll",
        lambda: call(lambda w, h, b: jnp.sqrt(w["w"] - 9.0).sum(), optimizer=sgd, method=ng.Unrolled(num_steps=2)),
        ng.NonFinite,
        "Unrolled",
        "limit: finite",
    ),
    ("F28", "out of space", lambda: descended(5.0), ng.OutOfSpace, "m", "Logit"),
    ("F28", "initial value", lambda: ng.Log10(-1.0), ng.OutOfSpace, "Log10", "-1"),
    (
        "kink",
        "edge",
        lambda: call(
            kind=KINKED,
            params={"w": jnp.full(N, 0.5)},
            method=DENSE,
            outer_loss=lambda w, h, b: (w["w"] * h["gain"] * h["shift"]).sum(),
        ),
        ng.NearKink,
        "ProximalGradient|Implicit",
        "limit kink_tol",
    ),
]


@pytest.mark.parametrize("mode", MODES, ids=[f"{mode[0]}-{mode[1]}" for mode in MODES])
def test_a_failure_is_named(mode):
    assert_named(mode)


def test_a_derivative_that_does_not_converge_is_never_silent():
    response = ng.best_response(
        lambda h, b: W, inner=ng.Minimize(loss), method=ng.Implicit(solver=ng.CG(rtol=1e-6, max_steps=1))
    )
    for slope in (jax.grad, lambda f: jax.jit(jax.grad(f))):
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"NotConverged: .*Remedy: raise max_steps"):
            jax.block_until_ready(slope(lambda h: outer(response(h, X), h, None))(H))


def test_a_hypergradient_out_of_all_proportion_is_warned_of():
    tuner = tuned(lambda w, h, b: b * (w["w"] ** 2).sum())
    state = tuner.init(W)
    for _ in range(6):
        state, _ = tuner.step({**tuner.init(W), "step": state["step"]}, jnp.float32(0.1), None)
    with pytest.warns(ng.ExplodingHypergradient, match="limit"):
        tuner.step({**tuner.init(W), "step": state["step"]}, jnp.float32(1e4), None)
