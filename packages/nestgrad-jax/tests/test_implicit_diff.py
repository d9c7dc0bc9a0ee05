"""custom_root and custom_fixed_point on the examples that their users know; best_response on solvers of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import nestgrad_jax as ng
from nestgrad_jax import implicit_diff, prox

RNG = np.random.default_rng(0)
FEATURES, TARGETS = RNG.normal(size=(20, 5)), RNG.normal(size=20)
pytestmark = pytest.mark.usefixtures("x64")


def times(a, b):
    return jnp.matmul(a, b, precision="highest")


def data():
    return jnp.asarray(FEATURES), jnp.asarray(TARGETS)


def ridge_objective(w, l2, x, y):
    off = times(x, w) - y
    return 0.5 * times(off, off) + 0.5 * l2 * times(w, w)


def ridge_solution(l2, x, y):
    return jnp.linalg.solve(times(x.T, x) + l2 * jnp.eye(5), times(x.T, y))


@implicit_diff.custom_root(jax.grad(ridge_objective))
def ridge(init_params, l2, x, y):
    return ridge_solution(l2, x, y)


@implicit_diff.custom_root(jax.grad(ridge_objective), has_aux=True, solve=ng.CG(rtol=1e-12, max_steps=20))
def descended(init_params, l2, x, y):
    def step(w, _):
        return w - 0.01 * jax.grad(ridge_objective)(w, l2, x, y), None

    return jax.lax.scan(step, init_params, length=4000)[0], {"steps": 4000}


def close(found, expected, atol=1e-8):
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0)


def test_ridge_by_closed_form_has_the_closed_derivatives():
    x, y = data()
    l2, zero = jnp.asarray(10.0), jnp.zeros(5)
    for turn in (jax.jacrev, jax.jacfwd, lambda f, argnums: jax.jit(jax.jacrev(f, argnums=argnums))):
        close(turn(ridge, argnums=1)(zero, l2, x, y), jax.jacobian(ridge_solution)(l2, x, y))
    close(jax.jacobian(ridge, argnums=2)(zero, l2, x, y), jax.jacobian(ridge_solution, argnums=1)(l2, x, y))
    close(jax.jacobian(ridge, argnums=3)(zero, l2, x, y), jax.jacobian(ridge_solution, argnums=2)(l2, x, y))


def test_hessians_and_maps_of_a_solution_are_right():
    x, y = data()

    def through(l2):
        return (ridge(jnp.zeros(5), l2, x, y) ** 2).sum()

    def closed(l2):
        return (ridge_solution(l2, x, y) ** 2).sum()

    many = jnp.asarray([1.0, 10.0])
    close(jax.hessian(through)(many[1]), jax.hessian(closed)(many[1]))
    close(jax.jit(jax.vmap(jax.grad(jax.grad(through))))(many), jax.vmap(jax.grad(jax.grad(closed)))(many))


def test_ridge_by_gradient_descent_with_aux_and_a_solver_spec():
    x, y = data()
    slope, aux = jax.jacobian(descended, argnums=1, has_aux=True)(jnp.zeros(5), jnp.asarray(10.0), x, y)
    close(slope, jax.jacobian(ridge_solution)(jnp.asarray(10.0), x, y))
    assert aux["steps"] == 4000


def test_lasso_by_proximal_gradient_has_the_derivative_of_its_support():
    x, y = data()
    step = 1.0 / np.linalg.norm(FEATURES, 2) ** 2

    def move(w, strength, x, y):
        return prox.lasso(strength)(w - step * times(x.T, times(x, w) - y), step)

    @implicit_diff.custom_fixed_point(move)
    def lasso(init_params, strength, x, y):
        return jax.lax.fori_loop(0, 3000, lambda _, w: move(w, strength, x, y), init_params)

    w = np.asarray(lasso(jnp.zeros(5), jnp.asarray(3.0), x, y))
    kept = w != 0
    assert 0 < kept.sum() < 5
    expected = np.zeros(5)
    gram = FEATURES.T @ FEATURES
    expected[kept] = -np.linalg.solve(gram[np.ix_(kept, kept)], np.sign(w[kept]))
    close(jax.jacobian(lasso, argnums=1)(jnp.zeros(5), jnp.asarray(3.0), x, y), expected)
    close(jax.jacfwd(lasso, argnums=1)(jnp.zeros(5), jnp.asarray(3.0), x, y), expected)


def test_a_root_of_a_least_squares_solver_on_the_host_and_scalars_and_keywords():
    def residual(w, a, b=1.0):
        return b * w**2 - a

    @implicit_diff.custom_root(residual, solve=lambda matvec, b: b / matvec(jnp.ones_like(b)))
    def root(init_params, a, b=1.0):
        return jnp.sqrt(a / b)

    one, a, b = jnp.asarray(1.0), jnp.asarray(8.0), jnp.asarray(2.0)
    close(jax.grad(root, argnums=1)(one, a, b=b), 1 / (2 * np.sqrt(16.0)))
    close(jax.grad(lambda z: root(one, a, b=z))(b), -0.5)
    assert root(one, a, b=2.0).shape == ()

    def solve(hparams, batch):
        return scipy.optimize.root(lambda w: w**3 + w - hparams, np.zeros(3), tol=1e-14).x

    response = ng.best_response(
        solve,
        inner=ng.Root(lambda w, h, batch: w**3 + w - h),
        method=ng.Implicit(solver=ng.GMRES(rtol=1e-12, max_steps=9)),
        result_like=np.zeros(3),
    )
    h = jnp.asarray([0.1, -2.0, 3.0])
    w = solve(np.asarray(h), None)
    for slope in (jax.jacrev(response), jax.jit(jax.jacfwd(response)), jax.jit(jax.jacrev(response))):
        close(slope(h), np.diag(1 / (3 * w**2 + 1)))
    close(jax.vmap(response)(jnp.stack([h, h]))[1], w)
    curvature = -6 * w / (3 * w**2 + 1) ** 3
    close(jax.hessian(lambda x: response(x).sum())(h), np.diag(curvature))


def test_a_response_is_differentiated_in_its_batch_too_and_nests():
    def loss(w, h, batch):
        return 0.5 * ((w - batch) ** 2).sum() + 0.5 * jnp.exp(h) * (w**2).sum()

    response = ng.best_response(
        lambda h, batch: batch / (1 + jnp.exp(h)), inner=ng.Minimize(loss), method=ng.Implicit(solver=ng.Dense())
    )
    batch, h = jnp.asarray([1.0, -2.0]), jnp.asarray(0.3)
    close(jax.jacobian(response, argnums=1)(h, batch), np.eye(2) / (1 + np.exp(0.3)))
    problem = ng.BilevelProblem(
        inner=ng.Minimize(lambda h, c, b: (response(h, b) ** 2).sum() + 0.5 * c * h**2),
        outer_loss=lambda h, c, b: h**2,
    )
    found = ng.hypergradient(problem, h, jnp.asarray(0.7), method=ng.Implicit(solver=ng.Dense()), inner_batch=batch)
    level = jax.grad(lambda x: ((batch / (1 + jnp.exp(x))) ** 2).sum() + 0.35 * x**2)
    close(found.total, -h / jax.grad(level)(h) * 2 * h)
