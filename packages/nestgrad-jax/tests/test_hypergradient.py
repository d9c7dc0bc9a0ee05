import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng

N, M = 4, 3
EXACT = {"float64": 1e-11, "float32": 2e-5}
_RNG = np.random.default_rng(0)
_ROOT = _RNG.normal(size=(N, N))
H = _ROOT @ _ROOT.T / N + 0.5 * np.eye(N)
C = _RNG.normal(size=(N, M))
c = _RNG.normal(size=N)
Q = np.diag([1.0, 2.0, 0.5, 3.0])
RATES = np.array([0.4, 0.1, 0.9, 0.2])
SYMMETRIC_INDEFINITE = np.diag([2.0, -1.0, 1.0, 3.0])
HIGHEST = jax.lax.Precision.HIGHEST


def times(matrix, vector):
    return jnp.matmul(matrix, vector, precision=HIGHEST)


def quadratic_loss(params, hparams, batch):
    """½ w'Hw - (c + Cλ)'w, whose residual is Hw - c - Cλ."""
    return (
        0.5 * params["w"] @ times(batch["H"], params["w"])
        - (batch["c"] + times(batch["C"], hparams["a"])) @ params["w"]
    )


def quadratic_outer(params, hparams, batch):
    """½ (w - t)'Q(w - t) + ½ ρ |λ|², with ρ = 0.3."""
    off = params["w"] - batch["t"]
    return 0.5 * off @ times(batch["Q"], off) + 0.15 * (hparams["a"] ** 2).sum()


def per_weight_sgd(hparams):
    """Each weight with a rate of its own: J = diag(rates) H is not symmetric."""
    rates = jnp.asarray(RATES, hparams["a"].dtype)
    return optax.stateless(lambda updates, params: jax.tree.map(lambda g: -rates * g, updates))


def mixing_sgd(hparams):
    """Updates that mix the weights: J is no diagonal times a symmetric matrix."""
    mix = jnp.asarray(C @ C.T + np.triu(np.ones((N, N))), hparams["a"].dtype)
    return optax.stateless(lambda updates, params: jax.tree.map(lambda g: -times(mix, g), updates))


def sgd(hparams):
    return optax.chain(optax.add_decayed_weights(hparams["wd"]), optax.sgd(hparams["lr"], momentum=hparams["m"]))


def logistic_loss(params, hparams, batch):
    return jnp.log1p(jnp.exp(-times(batch, params["w"]))).mean()


QUADRATIC = ng.BilevelProblem(inner=ng.Minimize(quadratic_loss), outer_loss=quadratic_outer)
MIXED = ng.BilevelProblem(inner=ng.WeightUpdate(quadratic_loss, mixing_sgd), outer_loss=quadratic_outer)
SCALED = ng.BilevelProblem(inner=ng.WeightUpdate(quadratic_loss, per_weight_sgd), outer_loss=quadratic_outer)


def point(dtype, matrix=H):
    """(params, hparams, batches) as arrays, and the numbers as float64."""
    w, t, lam = np.linspace(0.3, -0.8, N), np.linspace(1.0, 0.0, N), np.array([0.2, -0.5, 1.0])
    cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, dtype))
    inner, outer = {"H": matrix, "C": C, "c": c}, {"Q": Q, "t": t}
    return cast({"w": w}), cast({"a": lam}), cast(inner), cast(outer), (w, lam, Q @ (w - t))


def solved(solver, dtype, problem=QUADRATIC, matrix=H, throw=True, **kwargs):
    params, hparams, inner, outer, _ = point(dtype, matrix)
    method = ng.Implicit(solver=solver, **kwargs)
    return ng.hypergradient(problem, params, hparams, method=method, inner_batch=inner, outer_batch=outer, throw=throw)


def close(found, expected, dtype):
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=EXACT[dtype], atol=EXACT[dtype] * np.linalg.norm(expected))


def expected_total(p, lam):
    """direct - B'p with B = -C."""
    return 0.3 * lam + C.T @ p


def neumann_sum(operator, rhs, terms, step):
    return step * sum(np.linalg.matrix_power(np.eye(N) - step * operator, j) @ rhs for j in range(terms))


def test_dense_on_a_quadratic_equals_its_closed_form(dtype):
    _, lam, v = point(dtype)[-1]
    found = solved(ng.Dense(), dtype)
    close(found.total["a"], expected_total(np.linalg.solve(H, v), lam), dtype)
    close(found.direct["a"], 0.3 * lam, dtype)
    np.testing.assert_allclose(found.total["a"], found.direct["a"] + found.indirect["a"], rtol=1e-6)
    assert found.status is ng.Status.CONVERGED
    assert found.outer_loss.dtype == dtype


@pytest.mark.usefixtures("x64")
def test_scalar_problem_with_a_known_hypergradient():
    problem = ng.BilevelProblem(
        inner=ng.Minimize(lambda w, lam, batch: 0.5 * (w - 2.0) ** 2 + 0.5 * lam * w**2),
        outer_loss=lambda w, lam, batch: 0.5 * (w - 1.0) ** 2,
    )
    found = ng.hypergradient(problem, jnp.float64(2 / 1.4), 0.4, method=ng.Implicit(solver=ng.Dense(), inner_tol=1e-12))
    assert float(found.total) == pytest.approx(-0.43731778425655993, abs=1e-15)


@pytest.mark.usefixtures("x64")
def test_ridge_with_one_penalty_a_weight_equals_its_closed_form():
    def inner(w, lam, batch):
        features, targets = batch
        return 0.5 * ((times(features, w) - targets) ** 2).mean() + 0.5 * (jnp.exp(lam) * w**2).sum()

    def outer(w, lam, batch):
        return 0.5 * w @ times(batch, w)

    x, y, lam = _RNG.normal(size=(9, N)), _RNG.normal(size=9), np.linspace(-1.0, 0.5, N)
    hessian = x.T @ x / 9 + np.diag(np.exp(lam))
    w = np.linalg.solve(hessian, x.T @ y / 9)
    problem = ng.BilevelProblem(inner=ng.Minimize(inner), outer_loss=outer)
    arguments = [jnp.asarray(z) for z in (w, lam)]
    found = ng.hypergradient(
        problem,
        *arguments,
        method=ng.Implicit(solver=ng.CG(rtol=1e-13, max_steps=20)),
        inner_batch=(jnp.asarray(x), jnp.asarray(y)),
        outer_batch=jnp.asarray(Q),
    )
    close(found.total, -np.exp(lam) * w * np.linalg.solve(hessian, Q @ w), "float64")


@pytest.mark.parametrize("terms", [1, 2, 5])
@pytest.mark.usefixtures("x64")
def test_neumann_is_the_sum_of_exactly_its_terms(terms):
    _, lam, v = point("float64")[-1]
    found = solved(ng.Neumann(num_terms=terms, step_size=0.2), "float64")
    close(found.total["a"], expected_total(neumann_sum(H, v, terms, 0.2), lam), "float64")
    assert (int(found.stats.steps), int(found.stats.products)) == (terms, terms - 1)
    assert found.status is ng.Status.TRUNCATED


def test_neumann_of_many_terms_loops_to_the_same_sum():
    _, lam, v = point("float32")[-1]
    found = solved(ng.Neumann(num_terms=90, step_size=0.2), "float32")
    close(found.total["a"], expected_total(neumann_sum(H, v, 90, 0.2), lam), "float32")
    assert int(found.stats.products) == 89


@pytest.mark.usefixtures("x64")
def test_neumann_on_a_weight_update_takes_the_transpose():
    _, lam, v = point("float64")[-1]
    found = solved(ng.Neumann(num_terms=4, step_size=1.0), "float64", problem=SCALED)
    p = neumann_sum((np.diag(RATES) @ H).T, v, 4, 1.0)
    close(found.total["a"], 0.3 * lam + C.T @ (RATES * p), "float64")


def test_identity_equals_one_neumann_term():
    one = solved(ng.Identity(scale=0.3), "float32")
    other = solved(ng.Neumann(num_terms=1, step_size=0.3), "float32")
    np.testing.assert_array_equal(one.total["a"], other.total["a"])


def test_cg_is_exact_after_as_many_steps_as_weights(dtype):
    _, lam, v = point(dtype)[-1]
    found = solved(ng.CG(rtol=1e-10 if dtype == "float64" else 1e-5, max_steps=N), dtype)
    assert found.status is ng.Status.CONVERGED
    close(found.total["a"], expected_total(np.linalg.solve(H, v), lam), dtype)
    assert int(found.stats.products) == int(found.stats.steps) + 1


def test_cg_without_a_tolerance_is_its_krylov_iterate(dtype):
    _, lam, v = point(dtype)[-1]
    krylov = np.stack([v, H @ v], axis=1)
    found = solved(ng.CG(rtol=0.0, max_steps=2), dtype)
    close(found.total["a"], expected_total(krylov @ np.linalg.solve(krylov.T @ H @ krylov, krylov.T @ v), lam), dtype)
    assert found.status is ng.Status.TRUNCATED


def test_cg_absolute_tolerance_is_in_the_units_of_the_outer_gradient():
    size = np.linalg.norm(point("float32")[-1][-1])
    for factor, status in ((1.1, ng.Status.CONVERGED), (0.01, ng.Status.MAX_STEPS_REACHED)):
        found = solved(ng.CG(rtol=0.0, atol=factor * size, max_steps=1), "float32", throw=False)
        assert found.status is status
        assert int(found.stats.steps) == (0 if factor > 1 else 1)


def test_a_zero_outer_gradient_leaves_the_direct_term():
    params, hparams, inner, outer, _ = point("float32")
    for solver in (ng.CG(rtol=1e-6, max_steps=5), ng.Dense(), ng.Neumann(num_terms=3, step_size=0.1)):
        found = ng.hypergradient(
            QUADRATIC,
            params,
            hparams,
            method=ng.Implicit(solver=solver),
            inner_batch=inner,
            outer_batch={**outer, "t": params["w"]},
        )
        np.testing.assert_array_equal(found.total["a"], found.direct["a"])
        assert found.status.ok


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_tiny_and_huge_outer_gradients_scale_the_result(factor):
    params, hparams, inner, outer, (_, _, v) = point("float32")
    found = ng.hypergradient(
        QUADRATIC,
        params,
        {"a": jnp.zeros_like(hparams["a"])},
        method=ng.Implicit(solver=ng.CG(rtol=1e-5, max_steps=2 * N)),
        inner_batch=inner,
        outer_batch={**outer, "Q": outer["Q"] * jnp.float32(factor)},
    )
    np.testing.assert_allclose(np.float64(found.total["a"]) / factor, C.T @ np.linalg.solve(H, v), rtol=1e-4)


@pytest.mark.parametrize(
    ("matrix", "solver", "status", "error"),
    [
        (H, ng.Neumann(num_terms=9, step_size=5.0), ng.Status.DIVERGED, ng.NeumannDivergence),
        (H, ng.Neumann(num_terms=200, step_size=50.0), ng.Status.DIVERGED, ng.NeumannDivergence),
        (H, ng.CG(rtol=1e-12, max_steps=1), ng.Status.MAX_STEPS_REACHED, ng.NotConverged),
        (SYMMETRIC_INDEFINITE, ng.CG(rtol=1e-6, max_steps=9), ng.Status.INDEFINITE, ng.IndefiniteCurvature),
        (np.diag([1.0, 0.0, 0.0, 0.0]), ng.CG(rtol=1e-6, max_steps=9), ng.Status.SINGULAR, ng.SingularJacobian),
        (np.diag([1.0, 1.0, 1.0, 0.0]), ng.Dense(), ng.Status.SINGULAR, ng.SingularJacobian),
        (np.full((N, N), np.nan), ng.Dense(), ng.Status.NONFINITE, ng.NonFinite),
        (np.full((N, N), np.nan), ng.CG(rtol=1e-6, max_steps=9), ng.Status.NONFINITE, ng.NonFinite),
        (np.full((N, N), np.nan), ng.Neumann(num_terms=3, step_size=0.1), ng.Status.NONFINITE, ng.NonFinite),
    ],
)
def test_a_failed_solve_raises_the_error_of_its_status(matrix, solver, status, error):
    assert solved(solver, "float32", matrix=matrix, throw=False).status is status
    with pytest.raises(error, match="Remedy") as caught:
        solved(solver, "float32", matrix=matrix)
    assert caught.value.status is status


def test_cg_refuses_a_jacobian_that_is_not_symmetric(dtype):
    found = solved(ng.CG(rtol=1e-6, max_steps=9), dtype, problem=MIXED, throw=False)
    assert found.status is ng.Status.NOT_SYMMETRIC
    assert np.isnan(found.indirect["a"]).all()
    assert int(found.stats.products) == 3
    with pytest.raises(ng.NotSymmetric, match="symmetry defect"):
        solved(ng.CG(rtol=1e-6, max_steps=9), dtype, problem=MIXED)


@pytest.mark.parametrize("kind", [ng.CG, ng.MINRES])
def test_one_rate_a_weight_is_repaired_exactly(kind, dtype):
    found = solved(kind(rtol=1e-10 if dtype == "float64" else 1e-5, max_steps=2 * N), dtype, problem=SCALED)
    _, lam, v = point(dtype)[-1]
    np.testing.assert_allclose(
        found.total["a"], expected_total(np.linalg.solve(H, v), lam), rtol=1e-9 if dtype == "float64" else 1e-4
    )


def test_params_far_from_the_minimum_are_reported_when_asked_for():
    assert solved(ng.Dense(), "float32", inner_tol=1e3).status is ng.Status.CONVERGED
    with pytest.raises(ng.InnerNotConverged, match=r"inner_tol=0\.001"):
        solved(ng.Dense(), "float32", inner_tol=1e-3)


def test_dense_refuses_more_weights_than_its_limit():
    with pytest.raises(ng.InvalidInput, match=r"4 weights, limit max_params=3"):
        solved(ng.Dense(max_params=3), "float32")


def call(inner=quadratic_loss, outer=quadratic_outer, solver=None, optimizer=None, **changed):
    params, hparams, inner_batch, outer_batch, _ = point("float32")
    given = {"params": params, "hparams": hparams, "inner_batch": inner_batch, "outer_batch": outer_batch} | changed
    level = ng.Minimize(inner) if optimizer is None else ng.WeightUpdate(inner, optimizer)
    problem = ng.BilevelProblem(inner=level, outer_loss=outer)
    return ng.hypergradient(problem, method=ng.Implicit(solver=solver or ng.Identity()), **given)


def test_wrong_input_is_refused_by_name():
    half, vector = jnp.zeros(M, jnp.float16), jnp.zeros(M)
    with pytest.raises(ng.InvalidInput, match=r"params\['w'\]: got int32"):
        call(params={"w": jnp.zeros(N, jnp.int32)})
    with pytest.raises(ng.InvalidInput, match="params: 0 leaves"):
        call(params={})
    with pytest.raises(ng.InvalidInput, match="hparams: 0 leaves"):
        call(hparams={})
    with pytest.raises(ng.InvalidInput, match=r"inner_batch\['name'\]: got str"):
        call(inner_batch={"name": "train"})
    for value in (3, True, jnp.zeros(M, jnp.int32), np.array([True]), 1j):
        with pytest.raises(ng.NonDifferentiableHyperparameter, match=r"hparams\['b/0'\]"):
            call(hparams={"a": vector, "b": (value,)})
    with pytest.raises(ng.DtypeMismatch, match=r"hparams\['a'\] is float16, limit: float32 as params\['w'\]"):
        call(hparams={"a": half})
    with pytest.raises(ng.DtypeMismatch, match=r"outer_batch is float16"):
        call(outer_batch=half)
    with pytest.raises(ng.DtypeMismatch, match=r"params\['b'\] is float16"):
        call(params={"a": vector, "b": half})
    with pytest.raises(ng.UnsupportedSpec, match=r"limit: .*Implicit"):
        ng.hypergradient(QUADRATIC, vector, vector, method=ng.Identity())
    with pytest.raises(ng.InvalidInput, match="problem is not hashable"):
        call(inner=_Unhashable())
    with pytest.raises(ng.InvalidInput, match="inner problem: got int"):
        ng.hypergradient(
            ng.BilevelProblem(inner=3, outer_loss=quadratic_outer),
            vector,
            vector,
            method=ng.Implicit(solver=ng.Dense()),
        )


class _Unhashable:
    __hash__ = None

    def __call__(self, params, hparams, batch):
        return quadratic_loss(params, hparams, batch)


def test_float64_that_jit_would_cut_is_refused_and_names_the_switch():
    for changed in ({"params": {"w": np.zeros(N)}}, {"hparams": {"a": np.zeros(M)}}, {"outer_batch": [np.zeros(2)]}):
        with pytest.raises(ng.DtypeMismatch, match="is float64, limit: float32 while jax_enable_x64 is off"):
            call(**changed)


def test_a_loss_that_is_no_scalar_is_refused_with_its_level():
    with pytest.raises(ng.NonScalarLoss, match=r"inner loss returned shape \(4,\) of float32"):
        call(inner=lambda p, h, b: p["w"] * h["a"].sum())
    with pytest.raises(ng.NonScalarLoss, match=r"outer_loss returned shape \(\) of int32"):
        call(outer=lambda p, h, b: (p["w"].sum() > 0).astype(jnp.int32))
    with pytest.raises(ng.NonScalarLoss, match="outer_loss returned float"):
        call(outer=lambda p, h, b: 1.0)


def test_an_optimizer_that_is_no_transformation_is_refused():
    with pytest.raises(ng.UnsupportedOptimizer, match="returned float"):
        call(optimizer=lambda h: 0.1)


CUTS = {
    "stop_gradient": jax.lax.stop_gradient,
    "integer cast": lambda x: x.astype(jnp.int32).astype(x.dtype),
    "round": jnp.round,
    "comparison": lambda x: jnp.where(x > 0, 1.0, 2.0),
    "unused": jnp.zeros_like,
    "jitted stop_gradient": jax.jit(jax.lax.stop_gradient),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("optimizer", [None, per_weight_sgd], ids=["minimize", "weight update"])
def test_a_disconnected_hyperparameter_is_named(cut, optimizer):
    def loss(params, hparams, batch):
        scale = jax.jit(lambda h: (h["a"], cut(h["gain"])))(hparams)[1]
        return quadratic_loss(params, hparams, batch) * scale

    hparams = {"a": jnp.ones(M), "gain": jnp.float32(2.0)}
    with pytest.raises(ng.DisconnectedHyperparameter, match=r"hparams\['gain'\]: 0 differentiable paths"):
        call(inner=loss, optimizer=optimizer, hparams=hparams)


def test_a_path_through_either_loss_connects_even_where_its_value_is_zero():
    hparams = {"a": jnp.ones(M), "gain": jnp.float32(2.0)}
    with pytest.warns(ng.ZeroHypergradient, match=r"hparams\['gain'\]: hypergradient exactly 0"):
        direct = call(outer=lambda p, h, b: quadratic_outer(p, h, b) + 0.0 * h["gain"], hparams=hparams)
    with pytest.warns(ng.ZeroHypergradient, match=r"hparams\['gain'\]"):
        indirect = call(
            inner=lambda p, h, b: quadratic_loss(p, h, b) + 0.0 * (h["gain"] * p["w"]).sum(), hparams=hparams
        )
    assert float(direct.total["gain"]) == float(indirect.total["gain"]) == 0.0


def test_any_pytree_passes_with_its_structure_and_empty_places():
    def loss(params, hparams, batch):
        (w, none), tail = params["z"], params["a"][0]
        assert none is None
        return (hparams[0]["r"] * (w**2).sum() + (tail - hparams[1]) ** 2 + (tail**2).sum()).astype("float32")

    params = {"z": (jnp.ones(2, "float32"), None), "a": [jnp.asarray(0.5, "float32")]}
    hparams = ({"r": 0.7, "none": None}, jnp.asarray(2.0, "float32"))
    problem = ng.BilevelProblem(inner=ng.Minimize(loss), outer_loss=loss)
    found = ng.hypergradient(problem, params, hparams, method=ng.Implicit(solver=ng.Dense()))
    assert jax.tree.structure(found.total) == jax.tree.structure(hparams)
    assert {x.dtype for x in jax.tree.leaves(found.total)} == {jnp.dtype("float32")}


def test_a_problem_is_compiled_once_for_its_shapes():
    traces = []

    def loss(params, hparams, batch):
        traces.append(None)
        return quadratic_loss(params, hparams, batch)

    problem = ng.BilevelProblem(inner=ng.Minimize(loss), outer_loss=quadratic_outer)
    params, hparams, inner, outer, _ = point("float32")
    counts = []
    for factor in (1.0, 2.0, 3.0):
        ng.hypergradient(
            problem,
            {"w": params["w"] * factor},
            hparams,
            method=ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=0.1)),
            inner_batch=inner,
            outer_batch=outer,
        )
        counts.append(len(traces))
    assert counts[0] > 0
    assert counts == counts[:1] * 3


def test_nothing_passed_in_changes():
    params, hparams, inner, outer, _ = jax.tree.map(np.array, point("float32"))
    before = jax.tree.map(np.array, (params, hparams, inner, outer))
    method = ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=0.1))
    first, second = (
        ng.hypergradient(QUADRATIC, params, hparams, method=method, inner_batch=inner, outer_batch=outer)
        for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, (params, hparams, inner, outer), before)
    jax.tree.map(np.testing.assert_array_equal, first.total, second.total)


@pytest.mark.parametrize("solver", [ng.CG(rtol=1e-5, max_steps=9), ng.Neumann(num_terms=3, step_size=0.1), ng.Dense()])
def test_under_jit_vmap_and_scan_it_gives_the_numbers_of_the_plain_call(solver):
    params, hparams, inner, outer, _ = point("float32")
    many = jnp.stack([hparams["a"], 2.0 * hparams["a"]])

    def total(a):
        found = ng.hypergradient(
            QUADRATIC, params, {"a": a}, method=ng.Implicit(solver=solver), inner_batch=inner, outer_batch=outer
        )
        return found.total["a"], found.status

    plain = [total(a) for a in many]
    runs = {
        "jit": [jax.jit(total)(a) for a in many],
        "vmap": list(zip(*jax.vmap(total)(many), strict=True)),
        "scan": list(zip(*jax.lax.scan(lambda carry, a: (carry, total(a)), None, many)[1], strict=True)),
    }
    for name, found in runs.items():
        for (left, status), (right, expected) in zip(found, plain, strict=True):
            np.testing.assert_allclose(left, right, rtol=2e-5, err_msg=name)
            assert status.dtype == jnp.int32
            assert int(status) == expected


def test_under_jit_a_failure_is_a_status_and_no_error():
    @jax.jit
    def run(a):
        params, _, inner, outer, _ = point("float32", SYMMETRIC_INDEFINITE)
        return ng.hypergradient(
            QUADRATIC,
            params,
            {"a": a},
            method=ng.Implicit(solver=ng.CG(rtol=1e-6, max_steps=5)),
            inner_batch=inner,
            outer_batch=outer,
        )

    found = run(jnp.ones(M))
    assert isinstance(found.stats, ng.Stats)
    assert int(found.status) == ng.Status.INDEFINITE


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "solver", [ng.Dense(), ng.CG(rtol=1e-4, max_steps=9), ng.Neumann(num_terms=4, step_size=0.1), ng.Identity()]
)
def test_float32_stays_float32_where_float64_exists(solver):
    found = solved(solver, "float32")
    kinds = {x.dtype for x in jax.tree.leaves((found.total, found.outer_loss, found.stats))}
    assert kinds <= {jnp.dtype("float32"), jnp.dtype("int32")}
    params, hparams, inner, outer, _ = point("float32")
    method = ng.Implicit(solver=solver)

    def run(p, h):
        return ng.hypergradient(QUADRATIC, p, h, method=method, inner_batch=inner, outer_batch=outer)

    assert "f64" not in str(jax.make_jaxpr(run)(params, hparams))


@pytest.mark.usefixtures("x64")
def test_the_given_optimizer_state_is_held_constant():
    cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, "float64"))
    features = _RNG.normal(size=(6, N))
    w, trace, v = np.linspace(-1.0, 2.0, N), np.linspace(0.5, 0.1, N), np.ones(N)
    params, hparams = cast({"w": w}), cast({"lr": 0.3, "m": 0.6, "wd": 0.1})
    problem = ng.BilevelProblem(inner=ng.WeightUpdate(logistic_loss, sgd), outer_loss=lambda p, h, b: p["w"].sum())
    _, (state, scale) = sgd(hparams).init(params)
    state = (optax.EmptyState(), (state._replace(trace=cast({"w": trace})), scale))
    found = ng.hypergradient(
        problem, params, hparams, method=ng.Implicit(solver=ng.Identity()), inner_batch=cast(features), opt_state=state
    )
    slope = -features.T @ (1.0 / (1.0 + np.exp(features @ w))) / 6
    close(found.total["lr"], -v @ (0.6 * trace + slope + 0.1 * w), "float64")
    close(found.total["m"], -v @ (0.3 * trace), "float64")
    close(found.total["wd"], -v @ (0.3 * w), "float64")
    fresh = ng.hypergradient(
        problem, params, hparams, method=ng.Implicit(solver=ng.Identity()), inner_batch=cast(features)
    )
    assert float(fresh.total["m"]) == 0.0


def test_the_backend_is_found_by_name_and_supports_every_spec():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ng.get_backend("jax") is ng
    assert all(ng.supports(spec) for spec in ng.SPECS.values())
    assert not ng.supports(int)
