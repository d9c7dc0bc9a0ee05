"""Proximal maps by hand, their kinks, and hypergradients on the active set."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

import nestgrad_reference as ng

Z = {"a": np.array([2.0, -0.3, -1.5, 0.0]), "b": np.asarray(0.9)}


def soft(z, threshold):
    return np.sign(z) * np.maximum(np.abs(z) - threshold, 0.0)


def test_lasso_is_soft_thresholding():
    found = ng.prox.lasso(0.8)(Z, 0.5)
    np.testing.assert_allclose(found["a"], soft(Z["a"], 0.4), atol=1e-16)
    np.testing.assert_allclose(found["b"], 0.5, atol=1e-16)
    np.testing.assert_allclose(ng.prox.lasso(0.8).kink_distance(Z, 0.5), 0.25, rtol=1e-12)


def test_weights_of_zero_penalise_nothing_and_have_no_kink():
    strengths = {"a": np.array([0.0, 1.0, 1.0, 0.0]), "b": np.asarray(0.0)}
    found = ng.prox.lasso(strengths)(Z, 1.0)
    np.testing.assert_array_equal(found["a"], [2.0, 0.0, -0.5, 0.0])
    np.testing.assert_allclose(ng.prox.lasso(strengths).kink_distance(Z, 1.0), 0.5)
    assert ng.prox.lasso({"a": np.zeros(4), "b": np.asarray(0.0)}).kink_distance(Z, 1.0) == np.inf
    slopes = autograd.elementwise_grad(lambda x: ng.prox.lasso(strengths)({**Z, "a": x}, 1.0)["a"])(Z["a"])
    np.testing.assert_array_equal(slopes, [1.0, 0.0, 1.0, 1.0])


def test_elastic_net_shrinks_what_the_lasso_leaves():
    found = ng.prox.elastic_net(0.8, {"a": np.full(4, 2.0), "b": np.asarray(1.0)})(Z, 0.5)
    np.testing.assert_allclose(found["a"], soft(Z["a"], 0.4) / 2.0, atol=1e-16)
    np.testing.assert_allclose(found["b"], 0.5 / 1.5, rtol=1e-15)


def test_group_lasso_takes_groups_along_its_axis():
    z = {"w": np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])}
    found = ng.prox.group_lasso(2.0)(z, 0.5)
    np.testing.assert_allclose(found["w"], [[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(ng.prox.group_lasso(2.0).kink_distance(z, 0.5), 0.5, rtol=1e-12)
    columns = ng.prox.group_lasso(2.0, axis=0)(z, 0.5)
    norms = np.linalg.norm(z["w"], axis=0)
    np.testing.assert_allclose(columns["w"], (1.0 - 1.0 / norms) * z["w"], rtol=1e-14)
    jacobian = autograd.jacobian(lambda x: ng.prox.group_lasso(2.0)({"w": x}, 0.5)["w"])(z["w"])
    assert np.isfinite(jacobian).all()
    row = z["w"][0]
    block = 0.8 * np.eye(2) + np.outer(row, row) / 5.0**3
    np.testing.assert_allclose(jacobian[0, :, 0], block, rtol=1e-13)
    assert not jacobian[1:].any()


def test_box_projects_and_follows_its_sides():
    z = np.array([-2.0, 0.5, 3.0])
    box = ng.prox.box(-1.0, 1.0)
    np.testing.assert_array_equal(box({"w": z}, 9.0)["w"], [-1.0, 0.5, 1.0])
    np.testing.assert_allclose(box.kink_distance({"w": z}, 9.0), 0.25)
    by_high = autograd.jacobian(lambda high: ng.prox.box(-1.0, high)({"w": z}, 1.0)["w"])(1.0)
    np.testing.assert_array_equal(by_high, [0.0, 0.0, 1.0])
    half = ng.prox.box(0.0, np.inf)
    np.testing.assert_array_equal(half({"w": z}, 1.0)["w"], [0.0, 0.5, 3.0])
    np.testing.assert_allclose(half.kink_distance({"w": z}, 1.0), 0.5)


def test_smoothed_abs_is_a_root():
    np.testing.assert_allclose(ng.prox.smoothed_abs(Z["a"], 0.1), np.sqrt(Z["a"] ** 2 + 0.01), rtol=1e-15)


def lasso(rng):
    """Data, the strength, and a solution by many proximal steps."""
    x, y = rng.normal(size=(30, 6)), rng.normal(size=30)
    y = y + x[:, 0] * 2.0 - x[:, 3]
    strength, w = 0.4, np.zeros(6)
    step = 0.9 / np.linalg.norm(x.T @ x / 30, 2)
    for _ in range(20000):
        w = soft(w - step * x.T @ (x @ w - y) / 30, step * strength)
    return x, y, strength, w, step


PROBLEM_OUTER = lambda p, h, b: 0.5 * anp.mean((b[0] @ p["w"] - b[1]) ** 2)  # noqa: E731


def smooth(p, h, b):
    return 0.5 * anp.mean((b[0] @ p["w"] - b[1]) ** 2)


@pytest.mark.parametrize("method", [ng.Implicit(solver=ng.Dense()), ng.Unrolled(num_steps=1500)])
def test_the_lasso_hypergradient_is_that_of_the_active_set(method):
    rng = np.random.default_rng(0)
    x, y, strength, w, step = lasso(rng)
    outer = (rng.normal(size=(10, 6)), rng.normal(size=10))
    problem = ng.BilevelProblem(ng.ProximalGradient(smooth, lambda h: ng.prox.lasso(h["l1"]), step), PROBLEM_OUTER)
    found = ng.hypergradient(
        problem, {"w": w}, {"l1": np.asarray(strength)}, method=method, inner_batch=(x, y), outer_batch=outer
    )
    support = w != 0.0
    assert 0 < support.sum() < 6
    curvature = (x.T @ x / 30)[np.ix_(support, support)]
    slope = (outer[0].T @ (outer[0] @ w - outer[1]) / 10)[support]
    right = -np.sign(w[support]) @ np.linalg.solve(curvature, slope)
    np.testing.assert_allclose(found.total["l1"], right, rtol=1e-9)
    if isinstance(method, ng.Implicit):
        assert found.stats.kink_distance > 1e-3


def test_a_solution_at_a_kink_is_named():
    problem = ng.BilevelProblem(
        ng.ProximalGradient(lambda p, h, b: 0.5 * anp.sum((p["w"] - b) ** 2), lambda h: ng.prox.lasso(h["l1"]), 1.0),
        lambda p, h, b: 0.5 * anp.sum((p["w"] - 2.0) ** 2),
    )
    call = {"method": ng.Implicit(solver=ng.Dense()), "inner_batch": np.array([0.5])}
    at = {"w": np.zeros(1)}
    with pytest.raises(ng.NearKink, match=r"Implicit.*nearest kink at 0.*limit kink_tol.*Remedy"):
        ng.hypergradient(problem, at, {"l1": np.asarray(0.5)}, **call)
    quiet = ng.hypergradient(problem, at, {"l1": np.asarray(0.5)}, throw=False, **call)
    assert quiet.status is ng.Status.NEAR_KINK
    assert np.isfinite(quiet.total["l1"])
    away = ng.hypergradient(problem, at, {"l1": np.asarray(0.6)}, **call)
    assert away.status is ng.Status.CONVERGED
    np.testing.assert_allclose(away.stats.kink_distance, 1.0 / 6.0, rtol=1e-12)


def test_a_map_without_kink_distance_is_not_watched():
    problem = ng.BilevelProblem(
        ng.ProximalGradient(smooth, lambda h: ng.prox.lasso(h["l1"]).__call__, 0.1),
        PROBLEM_OUTER,
    )
    rng = np.random.default_rng(1)
    batch = (rng.normal(size=(5, 2)), rng.normal(size=5))
    call = {"method": ng.Implicit(solver=ng.Dense()), "inner_batch": batch, "outer_batch": batch}
    found = ng.hypergradient(problem, {"w": np.ones(2)}, {"l1": np.asarray(0.1)}, **call)
    assert np.isnan(found.stats.kink_distance)
