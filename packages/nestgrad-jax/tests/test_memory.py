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
from nestgrad_jax._rules._common import Call
from nestgrad_jax._tree import tree_norm

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


def decayed(params, hparams, batch):
    """One log decay a weight."""
    squares = jax.tree.map(lambda h, w: (jnp.exp(h) * w**2).sum(), hparams["wd"], params)
    return loss(params, {"wd": 0.0}, batch) + sum(jax.tree.leaves(squares))


def weighed(params, hparams, batch):
    """A factor an entry of the inputs, which every product takes."""
    return loss(params, {"wd": 0.1}, (batch[0] * hparams["factors"], batch[1]))


MANY = {"wd": jax.tree.map(lambda w: jnp.full_like(w, -3.0), PARAMS)}
WIDE = (normal(512, SIZES[0]), normal(512, SIZES[-1]))
SERIES = ng.Implicit(solver=ng.Neumann(num_terms=6, step_size=0.1))


def plainly(params, hparams, batch):
    return loss(params, {"wd": 0.0}, batch)


def bytes_of(compiled):
    found = compiled.memory_analysis()
    return found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes


def test_a_million_decays_need_two_and_a_half_training_steps_of_memory():
    def shapes(tree):
        return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=_is_shape)

    def step(params, hparams, batch):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(decayed)(params, hparams, batch))

    params = [((784, 1000), (1000,)), ((1000, 250), (250,)), ((250, 10), (10,))]
    params, batch = shapes(params), shapes(((256, 784), (256, 10)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) > 10**6
    unit = bytes_of(jax.jit(step).lower(params, {"wd": params}, batch).compile())
    problem = ng.BilevelProblem(ng.Minimize(decayed), plainly)
    given = Call(params=params, hparams={"wd": params}, inner_batch=batch, outer_batch=batch)
    assert bytes_of(_backend._compiled.lower(problem, SERIES, given).compile()) <= 2.5 * unit


def _is_shape(entry):
    return isinstance(entry, tuple) and all(isinstance(size, int) for size in entry)


@pytest.mark.parametrize(
    ("inner", "hparams", "batch"),
    [(decayed, MANY, BATCH), (weighed, {"factors": jnp.ones_like(WIDE[0])}, WIDE)],
    ids=["decays", "inputs"],
)
def test_a_series_of_many_weights_is_that_of_one_vector(inner, hparams, batch):
    problem = ng.BilevelProblem(ng.Minimize(inner), plainly)
    found = ng.hypergradient(problem, PARAMS, hparams, method=SERIES, inner_batch=batch, outer_batch=BATCH)
    v = jax.grad(plainly)(PARAMS, hparams, BATCH)

    def slope(h):
        return jax.grad(inner)(PARAMS, h, batch)

    def product(x):
        return jax.jvp(lambda w: jax.grad(inner)(w, hparams, batch), (PARAMS,), (x,))[1]

    term = total = v
    for _ in range(5):
        term = jax.tree.map(lambda a, b: a - 0.1 * b, term, product(term))
        total = jax.tree.map(jnp.add, total, term)
    adjoint = jax.tree.map(lambda x: 0.1 * x, total)
    expected = jax.vjp(slope, hparams)[1](jax.tree.map(jnp.negative, adjoint))[0]
    for one, other in ((found.adjoint, adjoint), (found.total, expected)):
        size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(other))
        jax.tree.map(lambda a, b, s=size: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * s), one, other)
    for name, tree in (("adjoint_norm", adjoint), ("indirect_norm", expected), ("inner_optimality", slope(hparams))):
        length = np.sqrt(sum(float((np.asarray(leaf, np.float64) ** 2).sum()) for leaf in jax.tree.leaves(tree)))
        np.testing.assert_allclose(getattr(found.stats, name), length, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_norms_of_many_entries_neither_under_nor_overflow(size):
    tree = {"a": jnp.full((200, 100), 3.0 * size, jnp.float32), "b": jnp.full(20_000, 4.0 * size, jnp.float32)}
    np.testing.assert_allclose(tree_norm(tree), 5.0 * size * np.sqrt(2e4), rtol=1e-5)
    assert np.isnan(tree_norm({**tree, "c": jnp.full(1, jnp.nan, jnp.float32)}))
