"""Unrolled by blocks of steps on the host, and programs with convolutions, which are written out on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax._rules import _blocks, _linearizations

_RNG = np.random.default_rng(3)
X = jnp.asarray(_RNG.normal(size=(12, 4)), jnp.float32)
Y = jnp.asarray(_RNG.normal(size=12), jnp.float32)
W = {"w": jnp.asarray(_RNG.normal(size=4), jnp.float32), "b": jnp.zeros(1, jnp.float32)}
H = {"lr": jnp.float32(0.05), "m": jnp.float32(0.7)}
IMAGES = jnp.asarray(_RNG.normal(size=(3, 6, 6, 2)), jnp.float32)
KERNELS = {"k": jnp.asarray(0.3 * _RNG.normal(size=(3, 3, 2, 2)), jnp.float32)}


def loss(params, hparams, batch):
    features, targets = batch
    return ((jnp.tanh(jnp.matmul(features, params["w"], precision="highest") + params["b"]) - targets) ** 2).mean()


def convolved(params, hparams, batch):
    moved = jax.lax.conv_general_dilated(batch, params["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return (jnp.tanh(moved) ** 2).mean() + jnp.exp(hparams["lr"]) * (params["k"] ** 2).sum()


def sgd(hparams):
    return optax.chain(
        optax.trace(hparams["m"]),
        optax.stateless(lambda updates, params: jax.tree.map(lambda g: -hparams["lr"] * g, updates)),
    )


PROBLEM = ng.BilevelProblem(ng.WeightUpdate(loss, sgd), loss)


def unrolled(**options):
    batches = [(X[i : i + 6], Y[i : i + 6]) for i in range(7)]
    method = ng.Unrolled(num_steps=7, **options)
    return ng.hypergradient(PROBLEM, W, H, method=method, inner_batches=batches, outer_batch=(X, Y))


@pytest.fixture
def small_budget(monkeypatch):
    """Every step a program of its own."""
    monkeypatch.setattr(_linearizations, "BUDGET", 1)
    _blocks._block_of.cache_clear()
    yield
    _blocks._block_of.cache_clear()


@pytest.mark.parametrize("options", [{}, {"lookback": 3}], ids=["all", "lookback"])
def test_blocks_give_what_one_program_gives(monkeypatch, options):
    whole = unrolled(**options)
    for size in (1, 3):
        monkeypatch.setattr(_blocks, "block_size", lambda *_, size=size: size)
        _blocks._block_of.cache_clear()
        found = unrolled(**options)
        for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(left, right, rtol=2e-5, atol=1e-7)
    _blocks._block_of.cache_clear()


@pytest.mark.usefixtures("small_budget")
@pytest.mark.parametrize("every", [1, 2, 3, 7, "sqrt"])
def test_states_taken_again_on_the_host_change_no_bit(every):
    found, plain = unrolled(checkpoint_every=every), unrolled()
    jax.tree.map(np.testing.assert_array_equal, (found.total, found.adjoint), (plain.total, plain.adjoint))


@pytest.mark.usefixtures("small_budget")
def test_blocks_on_the_host_are_compiled_once():
    unrolled()
    before = _blocks._keep_compiled._cache_size(), _blocks._pull_compiled._cache_size()
    unrolled()
    assert (_blocks._keep_compiled._cache_size(), _blocks._pull_compiled._cache_size()) == before


@pytest.mark.usefixtures("small_budget")
def test_inside_a_trace_there_is_one_program():
    plain = unrolled()
    traced = jax.jit(
        lambda lr: (
            ng.hypergradient(
                PROBLEM,
                W,
                {**H, "lr": lr},
                method=ng.Unrolled(num_steps=7),
                outer_batch=(X, Y),
                inner_batches=[(X[i : i + 6], Y[i : i + 6]) for i in range(7)],
            ).total
        )
    )(H["lr"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), traced, plain.total)


METHODS = {
    "series": ng.Implicit(solver=ng.Neumann(num_terms=4, step_size=0.1)),
    "cg": ng.Implicit(solver=ng.CG(rtol=0.0, max_steps=3)),
    "minres": ng.Implicit(solver=ng.MINRES(rtol=1e-4, max_steps=20)),
    "unrolled": ng.Unrolled(num_steps=3),
    "forward": ng.Unrolled(num_steps=3, mode="forward"),
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="loops are slow for convolutions on a CPU alone")
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_convolution_is_in_no_loop_and_no_condition(method):
    single = isinstance(method, ng.Unrolled)
    rule = ng.WeightUpdate(convolved, lambda h: optax.sgd(0.1)) if single else ng.Minimize(convolved)
    problem = ng.BilevelProblem(rule, convolved)

    def run(params, lr):
        return ng.hypergradient(
            problem, params, {"lr": lr}, method=method, inner_batch=IMAGES, outer_batch=IMAGES
        ).total

    assert not nested_convolutions(jax.make_jaxpr(run)(KERNELS, H["lr"]).jaxpr, inside=False)


def nested_convolutions(jaxpr, *, inside):
    count = 0
    for equation in jaxpr.eqns:
        count += inside and equation.primitive.name == "conv_general_dilated"
        deeper = inside or equation.primitive.name in {"while", "cond"}
        deeper |= equation.primitive.name == "scan" and equation.params["unroll"] < equation.params["length"]
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    count += nested_convolutions(inner, inside=deeper)
    return count
