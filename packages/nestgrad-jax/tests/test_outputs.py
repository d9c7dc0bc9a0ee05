"""What programs hand out and store: few arrays, of which those left out are made again with the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import monitoring

import nestgrad_jax as ng
from nestgrad_jax._rules._linearizations import keep, pull, pulled_back
from nestgrad_jax._rules._steps import Steps

_RNG = np.random.default_rng(7)
WIDTH, ROWS = 48, 5


def normal(*shape):
    return jnp.asarray(0.2 * _RNG.normal(size=shape), jnp.float32)


PARAMS = {"first": normal(WIDTH, WIDTH), "last": normal(WIDTH)}
DECAYS = jax.tree.map(lambda leaf: jnp.full_like(leaf, -2.0), PARAMS)
BATCH = normal(ROWS, WIDTH), normal(ROWS)


def error(params, hparams, batch):
    return ((jnp.tanh(batch[0] @ params["first"]) @ params["last"] - batch[1]) ** 2).mean()


def loss(params, hparams, batch):
    penalty = sum((jnp.exp(hparams[name]) * params[name] ** 2).sum() for name in params)
    return error(params, hparams, batch) + penalty


PROBLEM = ng.BilevelProblem(ng.Minimize(loss), error)
METHOD = ng.Implicit(solver=ng.Neumann(num_terms=4, step_size=0.1))


def found():
    return ng.hypergradient(PROBLEM, PARAMS, DECAYS, method=METHOD, inner_batch=BATCH, outer_batch=BATCH)


def test_an_outer_loss_without_hparams_has_a_direct_part_of_zeros():
    result = found()
    for name, leaf in DECAYS.items():
        assert result.direct[name].shape == leaf.shape
        assert result.direct[name].dtype == leaf.dtype
        assert not np.any(result.direct[name])
        np.testing.assert_array_equal(result.indirect[name], result.total[name])


def test_the_trees_of_a_result_are_its_own():
    result = found()
    result.total["first"] = result.direct["first"] = None
    assert result.indirect["first"] is not None
    again = found()
    assert again.direct["first"] is not None
    again.direct["first"].delete()
    assert not np.any(found().direct["first"])


def test_a_result_inside_a_users_jit_is_the_same():
    traced = jax.jit(found_at)(PARAMS)
    outside = found_at(PARAMS)
    assert int(traced.status) == int(outside.status)
    for ours, theirs in zip(jax.tree.leaves(outside), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=2e-5, atol=1e-6)


def found_at(params):
    return ng.hypergradient(PROBLEM, params, DECAYS, method=METHOD, inner_batch=BATCH, outer_batch=BATCH, throw=False)


def test_a_step_stores_nothing_of_its_decays_size():
    steps = Steps(ng.WeightUpdate(loss, lambda h: optax.sgd(0.1)))
    state = steps.start(PARAMS, DECAYS, None)
    kept = jax.eval_shape(lambda *given: keep(steps, *given), state, DECAYS, [BATCH])[2]
    assert kept.arrays
    assert max(leaf.size for leaf in kept.arrays) <= WIDTH * ROWS


def test_what_is_computed_again_pulls_back_as_what_was_stored():
    steps = Steps(ng.WeightUpdate(loss, lambda h: optax.sgd(0.1, momentum=0.9)))
    state = steps.start(PARAMS, DECAYS, None)
    batches = [BATCH, (BATCH[0] + 0.1, BATCH[1])]
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    adjoint = ones, jax.tree.leaves(ones), jax.tree.map(jnp.zeros_like, DECAYS)
    pulls, end = [], state
    for batch in batches:
        end, back = steps.linearized(end, DECAYS, batch)
        pulls.append(back)
    expected = pulled_back(pulls, adjoint)
    ended, _, kept = keep(steps, state, DECAYS, batches)
    jax.tree.map(np.testing.assert_array_equal, ended, end)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, pull(kept, adjoint, state, DECAYS, batches), expected)


def test_a_second_check_compiles_nothing():
    compiled = []

    def listen(event, duration_secs, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    ng.check(PROBLEM, PARAMS, DECAYS, inner_batch=BATCH, outer_batch=BATCH)
    ng.check(PROBLEM, PARAMS, DECAYS, inner_batch=BATCH, outer_batch=BATCH)
    monitoring.register_event_duration_secs_listener(listen)
    try:
        ng.check(PROBLEM, PARAMS, DECAYS, inner_batch=BATCH, outer_batch=BATCH)
        assert not compiled
        jax.jit(lambda x: x + 12.5)(1.0)
        assert compiled
    finally:
        monitoring.unregister_event_duration_listener(listen)
