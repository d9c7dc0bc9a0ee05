"""Nothing grows and nothing is compiled again over a thousand outer steps."""

import gc
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim

WARM, STEPS = 100, 1_000
W = jnp.asarray([0.5, -1.0, 2.0], jnp.float32)
H = {"a": jnp.float32(0.3)}
B = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)


def loss(w, h, b):
    return 0.5 * (jnp.matmul(b, w) ** 2).mean() + 0.5 * jnp.exp(h["a"]) * (w**2).sum() - w.sum()


def outer(w, h, b):
    return ((w - 1.0) ** 2).sum()


MINIMIZE = ng.BilevelProblem(ng.Minimize(loss), outer)
UPDATE = ng.BilevelProblem(ng.WeightUpdate(loss, lambda h: optax.sgd(0.1, 0.5)), outer)
CASES = {
    "dense": (MINIMIZE, ng.Implicit(solver=ng.Dense()), {}),
    "cg": (MINIMIZE, ng.Implicit(solver=ng.CG(rtol=1e-4, max_steps=9)), {}),
    "gmres": (MINIMIZE, ng.Implicit(solver=ng.GMRES(rtol=1e-4, max_steps=9)), {}),
    "neumann": (UPDATE, ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=1.0)), {}),
    "nystrom": (MINIMIZE, ng.Implicit(solver=ng.Nystrom(rank=2, damping=0.1)), {"key": 0}),
    "unrolled": (UPDATE, ng.Unrolled(num_steps=3), {}),
    "forward": (UPDATE, ng.Unrolled(num_steps=3, mode="forward"), {}),
    "darts": (MINIMIZE, ng.DARTS(step_size=0.1), {}),
    "sama": (UPDATE, ng.SAMA(), {}),
    "penalty": (MINIMIZE, ng.Penalty(multiplier=5.0, num_steps=2, step_size=0.01), {}),
    "bome": (MINIMIZE, ng.BOME(num_steps=2, step_size=0.1), {}),
    "pes": (UPDATE, ng.PES(num_steps=2, truncation=1, sigma=0.1, num_pairs=2), {"key": 0}),
}


def measured(step):
    """(growth of peak resident memory, of live arrays, compilations) between the warm-up and the end."""
    compiled = []
    for _ in range(WARM):
        step()
    gc.collect()
    live, resident = len(jax.live_arrays()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        for _ in range(STEPS):
            step()
    finally:
        jax.monitoring.clear_event_listeners()
    gc.collect()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / resident - 1.0
    return grown, len(jax.live_arrays()) - live, [name for name in compiled if "compile" in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_method_neither_grows_nor_compiles_again(name):
    problem, method, extra = CASES[name]

    def step():
        found = ng.hypergradient(problem, W, H, method=method, inner_batch=B, outer_batch=B, **extra)
        assert np.isfinite(found.total["a"])

    assert measured(step)[1:] == (0, [])
    assert measured(step)[0] < 0.01


@pytest.mark.slow
def test_a_reversible_run_neither_grows_nor_compiles_again():
    with jax.enable_x64(True):
        problem = ng.BilevelProblem(ng.WeightUpdate(loss, lambda h: optim.reversible_sgd(0.1, 0.5)), outer)

        def step():
            ng.hypergradient(
                problem, W, H, method=ng.Unrolled(num_steps=2, mode="reversible"), inner_batch=B, outer_batch=B
            )

        grown, live, compiled = measured(step)
    assert (live, compiled) == (0, [])
    assert grown < 0.01


@pytest.mark.slow
def test_response_and_tuners_neither_grow_nor_compile_again():
    respond = ng.best_response(lambda h, b: W, inner=ng.Minimize(loss), method=ng.Implicit(solver=ng.Dense()))
    slope = jax.jit(jax.grad(lambda h: outer(respond(h, B), h, B)))
    descent = ng.HypergradientDescent(
        ng.WeightUpdate(loss, lambda h: optax.sgd(h["a"])), hparams={"a": ng.Log(0.01)}, step_size=1e-5
    )
    real = ng.RealTime(UPDATE, hparams={"a": ng.Real(0.1)}, every=2, decay=0.9, outer_optimizer=optax.sgd(1e-4))
    states = [descent.init(W), real.init(W)]

    def step():
        slope(H)
        states[0] = descent.step(states[0], B)[0]
        states[1] = real.step(states[1], B, B)[0]

    grown, live, compiled = measured(step)
    assert (live, compiled) == (0, [])
    assert grown < 0.01
