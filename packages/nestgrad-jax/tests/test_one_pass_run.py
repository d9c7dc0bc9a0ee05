"""OnePass.run: the numbers of its steps, few compilations, and its refusals."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng

_RNG = np.random.default_rng(5)
BATCHES = [
    (jnp.asarray(_RNG.normal(size=(6, 3)), jnp.float32), jnp.asarray(_RNG.normal(size=6), jnp.float32))
    for _ in range(40)
]
START = {"w": jnp.asarray([0.5, -1.0, 2.0], jnp.float32)}


def loss(params, hparams, batch):
    features, targets = batch
    return ((jnp.matmul(features, params["w"], precision="highest") - targets) ** 2).mean()


def sgd(hparams):
    step = optax.stateless(lambda updates, params: jax.tree.map(lambda g: -hparams["lr"] * g, updates))
    return optax.chain(optax.trace(hparams["m"]), step)


def tuner(problem_loss=loss, every=5):
    return ng.OnePass(
        ng.BilevelProblem(ng.WeightUpdate(problem_loss, sgd), loss),
        hparams={"lr": ng.Log10(0.02), "m": ng.Logit(0.5)},
        every=every,
        method=ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=1.0)),
        outer_optimizer=optax.sgd(0.05),
    )


SHARED = tuner()


def one_by_one(state, batches):
    infos = []
    for batch in batches:
        state, info = SHARED.step(state, batch, BATCHES[0])
        infos.append(info)
    return state, infos


@pytest.mark.parametrize(("begun", "length"), [(0, 5), (3, 9), (4, 1), (1, 3), (0, 40)])
def test_a_block_is_its_steps(begun, length):
    state, _ = one_by_one(SHARED.init(START), BATCHES[:begun])
    ended, infos = one_by_one(state, BATCHES[:length])
    arrived, told = SHARED.run(state, BATCHES[:length], BATCHES[0])
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(near, arrived, ended)
    near(told.inner_losses, np.stack([info.inner_loss for info in infos]))
    jax.tree.map(near, told.hparams, SHARED.values(ended))
    tuned = [info.hypergradient for info in infos if info.tuned]
    assert [found.status for found in told.hypergradients] == [found.status for found in tuned]
    jax.tree.map(near, [found.total for found in told.hypergradients], [found.total for found in tuned])
    assert int(arrived["step"]) == begun + length


def test_blocks_of_one_length_are_one_program():
    ours = tuner()
    state = ours.init(START)
    for i in range(0, 40, 5):
        state, _ = ours.run(state, BATCHES[i : i + 5], BATCHES[0])
    assert ours._programs.block_jitted._cache_size() == 1


def test_batches_of_unequal_shapes_and_the_same_batch_again():
    cut = [BATCHES[0], jax.tree.map(lambda x: x[:4], BATCHES[1]), BATCHES[0], BATCHES[0]]
    for batches in (cut, [BATCHES[2]] * 4):
        state = SHARED.init(START)
        ended, _ = one_by_one(state, batches)
        arrived, _ = SHARED.run(state, batches, BATCHES[0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), arrived, ended)


def test_a_traced_count_is_refused_with_the_way_out():
    def run(state):
        return SHARED.run(state, BATCHES[:2], BATCHES[0])[0]

    with pytest.raises(ng.InvalidInput, match=r"state\['step'\] is traced.*Remedy: jax.lax.scan over step"):
        jax.jit(run)(SHARED.init(START))


def test_a_failed_hyper_step_of_a_block_is_named_and_no_batches_are_refused():
    bad = [*BATCHES[:2], jax.tree.map(lambda x: jnp.nan * x, BATCHES[2]), *BATCHES[3:5]]
    with pytest.raises(ng.NonFinite, match="training step 5"):
        SHARED.run(SHARED.init(START), bad, BATCHES[0])
    with pytest.raises(ng.InvalidInput, match=r"inner_batches: got 0 batches"):
        SHARED.run(SHARED.init(START), [], BATCHES[0])


def test_an_exploding_hypergradient_of_a_block_is_warned_of():
    ours = tuner(lambda w, h, b: b * (w["w"] ** 2).sum(), every=1)
    small, large = [jnp.float32(0.01)] * 7, [jnp.float32(1e4)]
    with warnings.catch_warnings(), pytest.warns(ng.ExplodingHypergradient, match="training step 8"):
        ours.run(ours.init(START), small + large, BATCHES[0])
