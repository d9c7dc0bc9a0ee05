"""Each way to fail ends in an error of ours with a type, the name concerned, a number beside its limit, and a remedy.

The first column is the failure's number in the list of 52 that the project keeps.
"""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import implicit_diff, optim, prox

N = 3
W = {"w": jnp.asarray([0.5, -1.0, 2.0], jnp.float32)}
H = {"gain": jnp.float32(1.3), "shift": jnp.float32(0.4)}
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, N)), jnp.float32)
DENSE = ng.Implicit(solver=ng.Dense())
SERIES = ng.Implicit(solver=ng.Neumann(num_terms=9, step_size=50.0))


def times(a, b):
    return jnp.matmul(a, b, precision="highest")


def loss(w, h, b, gain=lambda x: x):
    return (times(b, w["w"]) ** 2).mean() + 0.5 * gain(h["gain"]) * (w["w"] ** 2).sum() + h["shift"] * w["w"].sum()


def outer(w, h, b):
    return ((w["w"] - 1.0) ** 2).sum()


def cut(gain):
    return lambda w, h, b: loss(w, h, b, gain)


def call(inner=loss, outer_loss=outer, method=DENSE, optimizer=None, kind=None, **changed):
    given = {"params": W, "hparams": H, "inner_batch": X, "outer_batch": None} | changed
    level = kind or (ng.Minimize(inner) if optimizer is None else ng.WeightUpdate(inner, optimizer))
    return ng.hypergradient(ng.BilevelProblem(level, outer_loss), method=method, **given)


def preflight(inner=loss, **changed):
    given = {"params": W, "hparams": H, "inner_batch": X} | changed
    return ng.check(ng.BilevelProblem(ng.Minimize(inner), outer), **given)


def quadratic(*eigenvalues):
    diagonal = jnp.asarray(eigenvalues, jnp.float32)
    return lambda w, h, b: 0.5 * (diagonal * w["w"] ** 2).sum() + h["gain"] * h["shift"] * w["w"].sum()


def deleted():
    leaf = jnp.array(W["w"])
    leaf.delete()
    return {"w": leaf}


def host(x):
    return jax.pure_callback(np.asarray, jax.ShapeDtypeStruct((), jnp.float32), x)


def loop(x):
    return jax.lax.while_loop(lambda c: c < 5.0, lambda c: c + 1.0, x)


def skewed(w, h, b):
    spin = jnp.asarray([[1.0, 2.0, 0.0], [-2.0, 1.0, 0.0], [0.0, 0.0, 1.0]], jnp.float32)
    return {"w": times(spin, w["w"]) - h["gain"] * h["shift"]}


def breaking(w, h, b):
    turn = jnp.asarray([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], jnp.float32)
    return {"w": times(turn, w["w"]) - h["gain"] * h["shift"]}


def sgd(h):
    return optax.sgd(0.1 * h["gain"] * h["shift"])


def descended(rate):
    inner = ng.WeightUpdate(lambda w, h, b: -10.0 * (w["w"] ** 2).sum(), lambda h: optax.sgd(h["m"]))
    tuner = ng.HypergradientDescent(inner, hparams={"m": ng.Logit(0.9)}, step_size=rate, rule="multiplicative")
    state = tuner.init(W)
    for _ in range(3):
        state, _ = tuner.step(state, X)


def tuned(problem_loss, throw=True):
    problem = ng.BilevelProblem(ng.WeightUpdate(problem_loss, lambda h: optax.sgd(h["lr"])), outer)
    method = ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=1.0))
    return ng.OnePass(
        problem, hparams={"lr": ng.Log(0.1)}, every=1, method=method, outer_optimizer=optax.sgd(0.1), throw=throw
    )


def nan_run():
    tuner = tuned(lambda w, h, b: jnp.sqrt(w["w"] - 9.0).sum())
    tuner.step(tuner.init(W), X, None)


def reversible(momentum=0.5, **changed):
    with jax.enable_x64(changed.pop("x64", True)):
        rule = changed.pop("optimizer", lambda h: optim.reversible_sgd(0.1 * h["gain"] * h["shift"], momentum))
        return call(optimizer=rule, method=ng.Unrolled(num_steps=2, mode="reversible"), **changed)


def rooted(**options):
    @implicit_diff.custom_root(lambda w, a: w**2 - a, **options)
    def solver(init, a):
        return jnp.sqrt(a)

    return solver


def closed_over():
    def run(a):
        solver = implicit_diff.custom_root(lambda w, b: w**2 - a * b)(lambda init, b: jnp.sqrt(b))
        return solver(jnp.float32(1.0), jnp.float32(2.0))

    return jax.grad(run)(jnp.float32(1.0))


def soft(h):
    return prox.lasso(h["gain"] * h["shift"])


KINKED = ng.ProximalGradient(lambda w, h, b: 0.0 * (w["w"] ** 2).sum(), lambda h: prox.lasso(0.5), 1.0)
E, D, U = ng.InvalidInput, ng.DisconnectedHyperparameter, ng.UnsupportedSpec
GRAM = np.asarray(2 * X.T @ X / 5)

MODES = [
    ("F01", "stop_gradient", lambda: call(cut(jax.lax.stop_gradient)), D, "hparams['gain']", "limit: at least 1"),
    ("F01", "number", lambda: call(cut(float)), D, "hypergradient", "limit 0"),
    ("F01", "numpy", lambda: call(cut(lambda x: np.asarray(x).astype("float32"))), D, "hypergradient", "limit 0"),
    ("F01", "constant", lambda: call(cut(lambda x: 1.3)), D, "hparams['gain']", "0 differentiable paths"),
    ("F02", "no transformation", lambda: call(optimizer=lambda h: 0.1), ng.UnsupportedOptimizer, "float", "limit"),
    (
        "F02",
        "outer rule",
        lambda: ng.RealTime(
            ng.BilevelProblem(ng.WeightUpdate(loss, sgd), outer),
            hparams={"a": ng.Real(0.1)},
            every=1,
            decay=1.0,
            outer_optimizer=3,
        ),
        ng.UnsupportedOptimizer,
        "RealTime",
        "limit",
    ),
    (
        "F03",
        "integer",
        lambda: call(hparams={**H, "gain": jnp.int32(1)}),
        ng.NonDifferentiableHyperparameter,
        "hparams['gain']",
        "int32",
    ),
    ("F03", "bool", lambda: call(hparams={**H, "gain": True}), ng.NonDifferentiableHyperparameter, "gain", "limit"),
    ("F04", "round", lambda: call(cut(jnp.round)), D, "hparams['gain']", "limit: at least 1"),
    ("F04", "floor", lambda: preflight(cut(jnp.floor)), D, "hparams['gain']", "limit: at least 1"),
    ("F04", "sign", lambda: preflight(cut(jnp.sign)), D, "hparams['gain']", "limit: at least 1"),
    ("F04", "integer cast", lambda: preflight(cut(lambda x: x.astype("int32").astype("float32"))), D, "gain", "limit"),
    ("F04", "threshold", lambda: preflight(cut(lambda x: jnp.where(x > 0, 1.0, 2.0))), D, "gain", "limit"),
    (
        "F04",
        "bucket",
        lambda: preflight(cut(lambda x: jnp.searchsorted(jnp.arange(3.0), x).astype("float32"))),
        D,
        "hparams['gain']",
        "limit",
    ),
    ("F05", "clamp", lambda: preflight(cut(lambda x: jnp.clip(x, -1.0, 1.0)), strict=True), D, "gain", "step of 0.5"),
    ("F05", "dead unit", lambda: preflight(cut(lambda x: jax.nn.relu(-x)), strict=True), D, "gain", "step of 5"),
    ("F06", "no effect", lambda: preflight(cut(lambda x: 0.0 * x), strict=True), D, "gain", "up to 5"),
    ("F07", "closure", closed_over, E, "'a'", "limit: 0"),
    (
        "F08",
        "initial point",
        lambda: jax.grad(rooted())(jnp.float32(1.0), jnp.float32(2.0)),
        E,
        "init_params",
        "limit 0",
    ),
    ("F10", "no terms", lambda: ng.Neumann(num_terms=0, step_size=0.1), E, "num_terms", "0"),
    (
        "F14",
        "norm at zero",
        lambda: call(lambda w, h, b: jnp.linalg.norm(0.0 * w["w"]) * h["gain"] * h["shift"]),
        ng.NonFinite,
        "Implicit",
        "limit: finite",
    ),
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
    ("F35", "vector", lambda: call(lambda w, h, b: w["w"]), ng.NonScalarLoss, "inner loss", "limit: shape ()"),
    (
        "F35",
        "integer",
        lambda: call(outer_loss=lambda w, h, b: (w["w"] > 0).sum()),
        ng.NonScalarLoss,
        "outer_loss",
        "int32",
    ),
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
    ("F46", "while_loop", lambda: call(cut(loop)), ng.DoubleBackwardUnsupported, "while_loop", "limit 2"),
    ("F46", "host callback", lambda: call(cut(host)), ng.DoubleBackwardUnsupported, "host callback", "limit 2"),
    ("F50", "state", lambda: reversible(opt_state=optax.EmptyState()), E, "opt_state", "limit: ReversibleState"),
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
    _, _, run, kind, name, number = mode
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore", ng.Recompilation)
        with pytest.raises(kind) as caught:
            run()
    message = str(caught.value)
    assert any(part in message for part in name.split("|")), message
    assert number in message, message
    assert re.search(r"Remedy: \S+", message), message


def test_a_derivative_that_does_not_converge_is_never_silent():
    response = ng.best_response(
        lambda h, b: W, inner=ng.Minimize(loss), method=ng.Implicit(solver=ng.CG(rtol=1e-6, max_steps=1))
    )
    for slope in (jax.grad, lambda f: jax.jit(jax.grad(f))):
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"NotConverged: .*Remedy: raise max_steps"):
            jax.block_until_ready(slope(lambda h: outer(response(h, X), h, None))(H))


def test_shapes_that_spread_are_warned_of():
    def spread(w, h, b):
        return loss(w, h, b) + ((times(b, w["w"])[:, None] - b[:, 0]) ** 2).mean()

    said = r"\(5, 1\) and \(5,\) are combined to \(5, 5\), limit: equal"
    with jax.numpy_rank_promotion("allow"), pytest.warns(ng.SuspectBroadcast, match=said):
        preflight(spread)


def repeated(function):
    for _ in range(4):
        function()


def test_the_same_code_compiled_again_and_again_is_warned_of():
    def made():
        return lambda w, h, b: loss(w, h, b) + 0.0 * w["w"].sum()

    with pytest.warns(ng.Recompilation, match=r"compiled 4 times .* limit 3"):
        repeated(lambda: call(made()))


def test_a_hypergradient_out_of_all_proportion_is_warned_of():
    tuner = tuned(lambda w, h, b: b * (w["w"] ** 2).sum())
    state = tuner.init(W)
    for _ in range(6):
        state, _ = tuner.step({**tuner.init(W), "step": state["step"]}, jnp.float32(0.1), None)
    with pytest.warns(ng.ExplodingHypergradient, match="limit"):
        tuner.step({**tuner.init(W), "step": state["step"]}, jnp.float32(1e4), None)
