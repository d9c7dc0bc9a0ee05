"""Bytes that a compiled hypergradient needs beside its arguments and results, as XLA itself counts them."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import _backend
from nestgrad_jax._calls import as_call
from nestgrad_jax._rules import _blocks, _linearizations

KEEP, PULL = _blocks._keep, _blocks._pull
_RNG = np.random.default_rng(0)
SIZES = (64, 128, 128, 8)


def normal(*shape):
    return jnp.asarray(0.1 * _RNG.normal(size=shape), jnp.float32)


PARAMS = [(normal(a, b), normal(b)) for a, b in zip(SIZES, SIZES[1:], strict=False)]
BATCH = normal(32, SIZES[0]), normal(32, SIZES[-1])


def loss(params, hparams, batch):
    x, targets = batch
    for matrix, bias in params:
        x = jnp.tanh(jnp.matmul(x, matrix, precision="highest") + bias[None])
    return ((x - targets) ** 2).mean() + hparams["wd"] * sum((leaf**2).sum() for leaf in jax.tree.leaves(params))


PROBLEM = ng.BilevelProblem(ng.Minimize(loss), loss)
UPDATE = ng.BilevelProblem(ng.WeightUpdate(loss, lambda h: optax.sgd(0.1)), loss)


def scratch(problem, method):
    given = as_call(PARAMS, {"wd": jnp.float32(0.1)}, inner_batch=BATCH, outer_batch=BATCH)
    return _backend._compiled.lower(problem, method, given).compile().memory_analysis().temp_size_in_bytes


def step_scratch():
    def step(params):
        grads = jax.grad(loss)(params, {"wd": jnp.float32(0.1)}, BATCH)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    return jax.jit(step, donate_argnums=0).lower(PARAMS).compile().memory_analysis().temp_size_in_bytes


SOLVERS = {
    "series": lambda count: ng.Neumann(num_terms=count, step_size=0.1),
    "cg": lambda count: ng.CG(rtol=0.0, max_steps=count),
    "minres": lambda count: ng.MINRES(rtol=1e-6, max_steps=count),
    "bicgstab": lambda count: ng.BiCGSTAB(rtol=1e-6, max_steps=count),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_memory_does_not_grow_with_terms_or_steps(solver):
    few, many = (scratch(PROBLEM, ng.Implicit(solver=solver(count))) for count in (5, 50))
    assert many <= 1.02 * few


def test_a_series_needs_a_few_training_steps_of_memory():
    assert scratch(PROBLEM, ng.Implicit(solver=ng.Neumann(num_terms=50, step_size=0.1))) <= 8 * step_scratch()


def test_states_taken_again_need_less_memory_than_linearisations_stored(monkeypatch):
    monkeypatch.setattr(_linearizations, "BUDGET", 1)
    _blocks._block_of.cache_clear()
    most = {}
    for every in (None, 1):
        held = watched(monkeypatch)
        ng.hypergradient(
            UPDATE,
            PARAMS,
            {"wd": jnp.float32(0.1)},
            method=ng.Unrolled(num_steps=16, checkpoint_every=every),
            inner_batch=BATCH,
            outer_batch=BATCH,
        )
        most[every] = max(held)
    _blocks._block_of.cache_clear()
    assert most[1] == 1
    assert most[None] == 16


def watched(monkeypatch):
    """How many linearisations are alive whenever one is pulled through."""
    alive, seen, keep, pull = [], [], KEEP, PULL

    def kept(*arguments):
        found = keep(*arguments)
        alive.append(weakref.ref(found[2]))
        return found

    def pulled(*arguments):
        seen.append(sum(reference() is not None for reference in alive))
        return pull(*arguments)

    monkeypatch.setattr(_blocks, "_keep", kept)
    monkeypatch.setattr(_blocks, "_pull", pulled)
    return seen
