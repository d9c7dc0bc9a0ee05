"""What the tables of failures call, and what each of their rows must say."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import implicit_diff, prox

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


def sgd(h):
    return optax.sgd(0.1 * h["gain"] * h["shift"])


def tuned(problem_loss, throw=True):
    problem = ng.BilevelProblem(ng.WeightUpdate(problem_loss, lambda h: optax.sgd(h["lr"])), outer)
    method = ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=1.0))
    return ng.OnePass(
        problem, hparams={"lr": ng.Log(0.1)}, every=1, method=method, outer_optimizer=optax.sgd(0.1), throw=throw
    )


def rooted(**options):
    @implicit_diff.custom_root(lambda w, a: w**2 - a, **options)
    def solver(init, a):
        return jnp.sqrt(a)

    return solver


def soft(h):
    return prox.lasso(h["gain"] * h["shift"])


E, D, U = ng.InvalidInput, ng.DisconnectedHyperparameter, ng.UnsupportedSpec


def assert_named(mode):
    """Raises the mode's error, whose message has the name, the number and a remedy."""
    _, _, run, kind, name, number = mode
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore", ng.Recompilation)
        with pytest.raises(kind) as caught:
            run()
    message = str(caught.value)
    assert any(part in message for part in name.split("|")), message
    assert number in message, message
    assert re.search(r"Remedy: \S+", message), message
