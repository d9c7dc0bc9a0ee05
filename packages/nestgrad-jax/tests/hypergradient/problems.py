"""Quadratic problems whose hypergradients are known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

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


def call(inner=quadratic_loss, outer=quadratic_outer, solver=None, optimizer=None, **changed):
    params, hparams, inner_batch, outer_batch, _ = point("float32")
    given = {"params": params, "hparams": hparams, "inner_batch": inner_batch, "outer_batch": outer_batch} | changed
    level = ng.Minimize(inner) if optimizer is None else ng.WeightUpdate(inner, optimizer)
    problem = ng.BilevelProblem(inner=level, outer_loss=outer)
    return ng.hypergradient(problem, method=ng.Implicit(solver=solver or ng.Identity()), **given)
