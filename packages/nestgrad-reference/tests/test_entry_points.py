"""The entry points besides hypergradient, the methods on small problems, the preflight, and what all of them refuse."""

import warnings

import autograd.numpy as anp
import numpy as np
import pytest

import nestgrad_reference as ng

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=12)
VALID = (RNG.normal(size=(6, 3)), RNG.normal(size=6))
PARAMS, HPARAMS = {"w": RNG.normal(size=3)}, {"decay": np.asarray(0.3)}
DENSE = ng.Implicit(solver=ng.Dense())


def squares(params, hparams, batch):
    return 0.5 * anp.mean((batch[0] @ params["w"] - batch[1]) ** 2)


def ridge(params, hparams, batch):
    return squares(params, hparams, batch) + 0.5 * hparams["decay"] * anp.sum(params["w"] ** 2)


MINIMIZE = ng.Minimize(ridge)
UPDATE = ng.WeightUpdate(ridge, lambda h: ng.optim.sgd(0.2, 0.5))
STATEFUL = ng.WeightUpdate(ridge, lambda h: ng.optim.sgd(0.2, 0.5), carry="weights_and_state")
ROOT = ng.Root(lambda p, h, b: {"w": b[0].T @ (b[0] @ p["w"] - b[1]) / 12 + h["decay"] * p["w"]})
FIXED = ng.FixedPoint(
    lambda p, h, b: {"w": p["w"] - 0.2 * (b[0].T @ (b[0] @ p["w"] - b[1]) / 12 + h["decay"] * p["w"])}
)
PROX = ng.ProximalGradient(squares, lambda h: ng.prox.elastic_net(0.0, h["decay"]), 0.3)
INNERS = [MINIMIZE, UPDATE, STATEFUL, ROOT, FIXED, PROX]


def solution():
    return {"w": np.linalg.solve(X.T @ X / 12 + 0.3 * np.eye(3), X.T @ Y / 12)}


def exact():
    """dL_out(w*) / d decay."""
    w = solution()["w"]
    slope = VALID[0].T @ (VALID[0] @ w - VALID[1]) / 6
    return -slope @ np.linalg.solve(X.T @ X / 12 + 0.3 * np.eye(3), w)


def call(inner, method, params=PARAMS, hparams=HPARAMS, *, outer=squares, **rest):
    problem = ng.BilevelProblem(inner, outer)
    return ng.hypergradient(
        problem, params, hparams, method=method, inner_batch=(X, Y), **{"outer_batch": VALID, **rest}
    )


def refused(kind, *words):
    return pytest.raises(kind, match=".*".join([*words, "limit", "Remedy"]))


@pytest.mark.parametrize("inner", INNERS)
def test_every_inner_problem_has_the_one_hypergradient_at_its_solution(inner):
    np.testing.assert_allclose(call(inner, DENSE, solution()).total["decay"], exact(), rtol=1e-11)


@pytest.mark.parametrize("inner", [UPDATE, FIXED, PROX])
def test_long_unrolls_tend_to_it(inner):
    found = call(inner, ng.Unrolled(num_steps=400), solution())
    np.testing.assert_allclose(found.total["decay"], exact(), rtol=1e-6)


@pytest.mark.parametrize("inner", INNERS)
def test_hypergradients_share_one_linearisation(inner):
    batches = [VALID, (X, Y)]
    problem = ng.BilevelProblem(inner, squares)
    found = ng.hypergradients(problem, PARAMS, HPARAMS, method=DENSE, inner_batch=(X, Y), outer_batches=iter(batches))
    for one, batch in zip(found, batches, strict=True):
        np.testing.assert_array_equal(one.total["decay"], call(inner, DENSE, outer_batch=batch).total["decay"])


@pytest.mark.parametrize("inner", INNERS)
def test_the_response_jacobian_has_forward_modes_columns(inner):
    hparams = {"decay": np.asarray(0.3)}
    found = ng.best_response_jacobian(inner, PARAMS, hparams, method=DENSE, inner_batch=(X, Y))
    assert found["w"]["decay"].shape == (3,)
    forward = ng.hypergradient_jvp(
        ng.BilevelProblem(inner, squares),
        PARAMS,
        hparams,
        {"decay": np.asarray(2.0)},
        method=DENSE,
        inner_batch=(X, Y),
        outer_batch=VALID,
    )
    np.testing.assert_allclose(forward.response["w"], 2.0 * found["w"]["decay"], rtol=1e-12)
    reverse = call(inner, DENSE, hparams=hparams)
    np.testing.assert_allclose(forward.total, 2.0 * reverse.total["decay"], rtol=1e-10)
    np.testing.assert_allclose(forward.total, forward.direct + forward.indirect, rtol=1e-14)


@pytest.mark.parametrize("inner", [MINIMIZE, ROOT, FIXED, PROX])
@pytest.mark.parametrize("solver", [ng.Dense(), ng.GMRES(rtol=1e-13, max_steps=9)])
def test_one_newton_step_solves_a_linear_problem(inner, solver):
    before = PARAMS["w"].copy()
    moved, size = ng.newton_step(inner, PARAMS, HPARAMS, solver=solver, inner_batch=(X, Y))
    np.testing.assert_allclose(moved["w"], solution()["w"], rtol=1e-10)
    np.testing.assert_array_equal(PARAMS["w"], before)
    assert size > 1e-3
    _, left = ng.newton_step(inner, moved, HPARAMS, solver=solver, inner_batch=(X, Y))
    assert left < 1e-14


def test_newton_keeps_the_kind_of_the_params():
    single = {"w": PARAMS["w"].astype(np.float32)}
    quadratic = ng.Minimize(lambda p, h, b: 0.5 * h["decay"] * anp.sum((p["w"] - 1.0) ** 2))
    moved, _ = ng.newton_step(quadratic, single, {"decay": np.asarray(0.3, np.float32)}, solver=ng.Dense())
    assert moved["w"].dtype == np.float32


METHODS = [
    (MINIMIZE, ng.DARTS(step_size=0.2)),
    (MINIMIZE, ng.Penalty(multiplier=5.0, num_steps=3, step_size=0.02)),
    (MINIMIZE, ng.BOME(num_steps=3, step_size=0.1)),
    (UPDATE, ng.SAMA()),
    (UPDATE, ng.Unrolled(num_steps=3)),
    (FIXED, ng.Unrolled(num_steps=3, mode="forward")),
    (PROX, ng.Unrolled(num_steps=3, lookback=1)),
    (UPDATE, ng.PES(num_steps=4, truncation=2, sigma=0.1, num_pairs=2)),
    (PROX, ng.PES(num_steps=2, truncation=2, sigma=0.1, num_pairs=1)),
]


@pytest.mark.parametrize(("inner", "method"), METHODS)
def test_methods_name_a_nan_and_change_nothing(inner, method):
    key = {"key": 3} if isinstance(method, ng.PES) else {}
    held = [PARAMS["w"].copy(), HPARAMS["decay"].copy(), X.copy(), VALID[0].copy()]
    found = call(inner, method, **key)
    assert found.status is ng.Status.TRUNCATED
    np.testing.assert_array_equal(found.total["decay"], found.direct["decay"] + found.indirect["decay"])
    broken = lambda p, h, b: squares(p, h, b) * np.nan  # noqa: E731
    with refused(ng.NonFinite, type(method).__name__):
        call(inner, method, outer=broken, **key)
    assert call(inner, method, outer=broken, throw=False, **key).status is ng.Status.NONFINITE
    for before, after in zip(held, [PARAMS["w"], HPARAMS["decay"], X, VALID[0]], strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(("inner", "method"), METHODS)
def test_methods_refuse_a_hyperparameter_that_nothing_uses(inner, method):
    spare = {**HPARAMS, "spare": np.asarray(1.0)}
    if isinstance(method, ng.PES):  # takes no derivative, so nothing can be cut off from one: it measures 0
        assert call(inner, method, hparams=spare, key=0).direct["spare"] == 0.0
        return
    with refused(ng.DisconnectedHyperparameter, "'spare'"):
        call(inner, method, hparams=spare)


@pytest.mark.parametrize("method", [ng.DARTS(step_size=0.2), ng.SAMA()])
def test_a_zero_slope_has_no_indirect_part(method):
    inner = UPDATE if isinstance(method, ng.SAMA) else MINIMIZE
    found = call(inner, method, outer=lambda p, h, b: 2.0 * h["decay"] + 0.0 * anp.sum(p["w"]))
    assert found.indirect["decay"] == 0.0
    assert found.total["decay"] == 2.0


def test_reversible_unrolling_wants_its_optimizer():
    with refused(ng.UnsupportedOptimizer, "SGD"):
        call(UPDATE, ng.Unrolled(num_steps=2, mode="reversible"))


def test_the_modes_give_one_number():
    inner = ng.WeightUpdate(ridge, lambda h: ng.optim.reversible_sgd(0.2, 0.9))
    totals = [
        call(inner, ng.Unrolled(num_steps=5, mode=mode)).total["decay"] for mode in ("reverse", "forward", "reversible")
    ]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-13)


def test_strategies_near_the_derivative():
    method = ng.PES(num_steps=3, truncation=3, sigma=1e-4, num_pairs=1)
    found = call(FIXED, method, key=1)
    right = call(FIXED, ng.Unrolled(num_steps=3))
    np.testing.assert_allclose(found.total["decay"], right.total["decay"], rtol=1e-6)
    np.testing.assert_allclose(found.outer_loss, right.outer_loss, rtol=1e-14)
    np.testing.assert_allclose(found.params["w"], right.params["w"], rtol=1e-14)


REFUSED = [
    (MINIMIZE, ng.Unrolled(num_steps=2), {}, ng.UnsupportedSpec, "Unrolled on Minimize"),
    (MINIMIZE, ng.SAMA(), {}, ng.UnsupportedSpec, "SAMA on Minimize"),
    (UPDATE, ng.DARTS(step_size=0.1), {}, ng.UnsupportedSpec, "DARTS on WeightUpdate"),
    (PROX, ng.Implicit(solver=ng.CG(rtol=1e-6, max_steps=3)), {}, ng.UnsupportedSpec, "CG on ProximalGradient"),
    (STATEFUL, ng.Implicit(solver=ng.MINRES(rtol=1e-6, max_steps=3)), {}, ng.UnsupportedSpec, "MINRES"),
    (FIXED, ng.Implicit(solver=ng.Nystrom(rank=1, damping=1.0)), {"key": 0}, ng.UnsupportedSpec, "Nystrom"),
    (FIXED, ng.Unrolled(num_steps=2, mode="reversible"), {}, ng.UnsupportedSpec, "reversible"),
    (MINIMIZE, DENSE, {"key": 0}, ng.InvalidInput, "key"),
    (MINIMIZE, DENSE, {"warm_start": PARAMS}, ng.InvalidInput, "warm_start"),
    (MINIMIZE, ng.Implicit(solver=ng.Nystrom(rank=1, damping=1.0)), {}, ng.InvalidInput, "key"),
    (MINIMIZE, ng.Implicit(solver=ng.Nystrom(rank=4, damping=1.0)), {"key": 0}, ng.InvalidInput, "rank.*4"),
    (
        ROOT,
        ng.Implicit(solver=ng.GMRES(rtol=1e-6, max_steps=3)),
        {"warm_start": {"w": np.ones(2)}},
        ng.InvalidInput,
        "w",
    ),
    (
        ROOT,
        ng.Implicit(solver=ng.GMRES(rtol=1e-6, max_steps=3)),
        {"preconditioner": {"w": np.array([1.0, 0.0, 1.0])}},
        ng.InvalidInput,
        "preconditioner.*0",
    ),
    (
        ROOT,
        ng.Implicit(solver=ng.GMRES(rtol=1e-6, max_steps=3)),
        {"preconditioner": {"w": np.ones(2)}},
        ng.InvalidInput,
        r"preconditioner.*\(2,\)",
    ),
]


@pytest.mark.parametrize(("inner", "method", "extra", "kind", "words"), REFUSED)
def test_what_does_not_go_together_is_refused(inner, method, extra, kind, words):
    with refused(kind, words):
        call(inner, method, **extra)


WRONG = [
    (ng.Root(lambda p, h, b: {"w": h["decay"] * p["w"][:2]}), r"residual\['w'\].*\(2,\)"),
    (ng.FixedPoint(lambda p, h, b: {"v": h["decay"] * p["w"]}), "map.*paths"),
    (ng.ProximalGradient(squares, lambda h: lambda p, s: {"w": anp.sum(p["w"]) * h["decay"]}, 0.1), r"prox\['w'\]"),
]


@pytest.mark.parametrize(("inner", "words"), WRONG)
def test_maps_of_another_form_are_refused(inner, words):
    with refused(ng.InvalidInput, words):
        call(inner, DENSE)


def test_a_state_that_changes_its_shape_is_refused():
    with refused(ng.InvalidInput, r"opt_state\['trace/w'\]"):
        call(STATEFUL, DENSE, opt_state={"trace": {"w": 0.0}})


def test_inner_batches_are_one_a_step():
    problem = ng.BilevelProblem(UPDATE, squares)
    with refused(ng.InvalidInput, "inner_batches.*1"):
        ng.hypergradient(
            problem,
            PARAMS,
            HPARAMS,
            method=ng.Unrolled(num_steps=2),
            inner_batches=[(X, Y)],
            outer_batch=VALID,
        )


@pytest.mark.parametrize("name", ["hypergradients", "hypergradient_jvp", "best_response_jacobian"])
def test_forward_mode_is_for_implicit_methods(name):
    problem, method = ng.BilevelProblem(UPDATE, squares), ng.Unrolled(num_steps=2)
    calls = {
        "hypergradients": lambda: ng.hypergradients(problem, PARAMS, HPARAMS, method=method, outer_batches=[VALID]),
        "hypergradient_jvp": lambda: ng.hypergradient_jvp(problem, PARAMS, HPARAMS, HPARAMS, method=method),
        "best_response_jacobian": lambda: ng.best_response_jacobian(UPDATE, PARAMS, HPARAMS, method=method),
    }
    with refused(ng.UnsupportedSpec, name, "Unrolled"):
        calls[name]()


def test_newton_on_an_update_is_refused():
    with refused(ng.UnsupportedSpec, "newton_step on WeightUpdate"):
        ng.newton_step(UPDATE, PARAMS, HPARAMS, solver=ng.Dense())


def test_a_direction_of_another_shape_is_refused():
    with refused(ng.InvalidInput, r"direction\['decay'\].*\(2,\)"):
        ng.hypergradient_jvp(ng.BilevelProblem(MINIMIZE, squares), PARAMS, HPARAMS, {"decay": np.ones(2)}, method=DENSE)


def test_a_singular_response_is_named_with_its_column():
    flat = ng.Root(lambda p, h, b: {"w": 0.0 * p["w"] + h["decay"]})
    with refused(ng.SingularJacobian, "column 0"):
        ng.best_response_jacobian(flat, PARAMS, HPARAMS, method=DENSE)
    found = ng.best_response_jacobian(flat, PARAMS, HPARAMS, method=DENSE, throw=False)
    assert np.isnan(found["w"]["decay"]).all()


def test_best_response_is_not_offered():
    assert not hasattr(ng, "best_response")


# Verification and preflight.


def verify(inner, method, params, **rest):
    problem = ng.BilevelProblem(inner, squares)
    batch = {} if "inner_batches" in rest else {"inner_batch": (X, Y)}
    return ng.verify(problem, params, HPARAMS, method=method, outer_batch=VALID, **batch, **rest)


@pytest.mark.parametrize("inner", [MINIMIZE, ROOT, FIXED, PROX, UPDATE, STATEFUL])
def test_a_right_number_is_verified(inner):
    found = verify(inner, DENSE, solution())
    assert found.trusted, str(found)
    assert found.relative_error < 1e-9


def test_large_problems_are_verified_by_differences():
    found = verify(MINIMIZE, DENSE, solution(), max_params=2)
    assert found.reference == "central differences"
    assert found.trusted, str(found)
    assert not verify(MINIMIZE, ng.Implicit(solver=ng.Identity()), solution(), max_params=2).trusted


def test_weights_far_from_the_solution_are_not_trusted():
    found = verify(MINIMIZE, DENSE, {"w": solution()["w"] + 3.0})
    assert not found.trusted
    assert "train params further" in str(found)


def test_unrolled_numbers_are_verified_by_differences():
    batches = [(X, Y + t) for t in range(3)]
    assert verify(UPDATE, ng.Unrolled(num_steps=3), PARAMS, inner_batches=batches).trusted
    assert not verify(UPDATE, ng.Unrolled(num_steps=3, lookback=1), PARAMS, inner_batches=batches).trusted


def preflight(inner, hparams=HPARAMS, *, outer=squares, **rest):
    problem = ng.BilevelProblem(inner, outer)
    return ng.check(problem, PARAMS, hparams, inner_batch=(X, Y), outer_batch=VALID, **rest)


@pytest.mark.parametrize("inner", INNERS)
def test_healthy_problems_pass_the_preflight(inner):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preflight(inner) == ()


def test_an_empty_momentum_passes_the_preflight():
    inner = ng.WeightUpdate(ridge, lambda h: ng.optim.sgd(h["lr"], h["momentum"]))
    hparams = {**HPARAMS, "lr": np.asarray(0.1), "momentum": np.asarray(0.9)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preflight(inner, hparams) == ()


def cut(how):
    def inner(params, hparams, batch):
        return squares(params, hparams, batch) + 0.5 * how(hparams["decay"]) * anp.sum(params["w"] ** 2)

    return ng.Minimize(inner)


ZERO = {
    "round": lambda x: anp.round(2.0 * x) + 0.0 * x,
    "floor": lambda x: anp.floor(x) + 0.0 * x,
    "sign": lambda x: anp.sign(x - 0.4) + 0.0 * x,
    "threshold": lambda x: anp.where(x > 1.0, 1.0, 0.0) + 0.0 * x,
    "clamp": lambda x: anp.maximum(x, 0.5),
    "relu": lambda x: anp.maximum(x - 0.5, 0.0),
}


@pytest.mark.parametrize("how", list(ZERO))
def test_flat_hyperparameters_are_named(how):
    with pytest.warns(ng.ZeroHypergradient, match=r"decay.*limit.*Remedy"):
        (found,) = preflight(cut(ZERO[how]))
    assert found.kind is ng.ZeroHypergradient
    assert "step of" in found.message
    with refused(ng.DisconnectedHyperparameter, "decay"):
        preflight(cut(ZERO[how]), strict=True)


def number(x):
    """The number inside autograd's boxes."""
    while hasattr(x, "_value"):
        x = x._value
    return float(x)


@pytest.mark.parametrize("how", [number, lambda x: 0.3])
def test_cut_hyperparameters_are_refused(how):
    with refused(ng.DisconnectedHyperparameter, "'decay'"):
        preflight(cut(how))


def test_a_half_cut_path_is_named():
    with pytest.warns(ng.WrongDerivative, match=r"decay.*limit.*Remedy"):
        (found,) = preflight(cut(lambda x: 0.1 * x + 0.9 * number(x)))
    assert found.name == "decay"


def test_no_effect_may_be_allowed():
    idle = {**HPARAMS, "idle": np.asarray(1.0)}
    call = {"outer": lambda p, h, b: squares(p, h, b) + 0.0 * h["idle"]}
    with pytest.warns(ng.ZeroHypergradient, match=r"idle.*no relative step"):
        preflight(MINIMIZE, idle, **call)
    assert preflight(MINIMIZE, idle, allow_no_effect=("idle",), **call) == ()
