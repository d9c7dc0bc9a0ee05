"""Small models of every common kind: each gives the hypergradient of dense algebra, or an error that names why not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

import nestgrad_jax as ng

N, D, K = 6, 4, 3
TERMS, STEP = 3, 0.05
_RNG = np.random.default_rng(7)
METHOD = ng.Implicit(solver=ng.Neumann(num_terms=TERMS, step_size=STEP))


def drawn(*shape):
    return jnp.asarray(0.5 * _RNG.normal(size=shape))


def dense(w, x):
    return jnp.matmul(x, w["kernel"], precision="highest") + w["bias"][None, :]


def layer(inputs, outputs):
    return {"kernel": drawn(inputs, outputs), "bias": drawn(outputs)}


def mlp(w, x, key):
    return dense(w["out"], jnp.tanh(dense(w["in"], x)))


def conv(w, x, key):
    image = x.reshape(N, 1, D, 1)
    y = lax.conv_general_dilated(image, w["filter"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return jax.nn.softplus(y).mean(axis=(2, 3))


def depthwise(w, x, key):
    image = jnp.broadcast_to(x.reshape(N, 1, D, 1), (N, 2, D, 1))
    y = lax.conv_general_dilated(
        image, w["filter"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"), feature_group_count=2
    )
    return jnp.tanh(y).mean(axis=(2, 3))


def normalised(axes, groups=None):
    def model(w, x, key):
        y = dense(w["in"], x)
        z = y if groups is None else y.reshape(N, groups, -1)
        z = (z - z.mean(axis=axes, keepdims=True)) / jnp.sqrt(z.var(axis=axes, keepdims=True) + 1e-3)
        return z.reshape(y.shape) * w["scale"][None, :] + w["shift"][None, :]

    return model


def dropout(w, x, key):
    y = jnp.tanh(dense(w["in"], x))
    return dense(w["out"], jnp.where(jax.random.bernoulli(key, 0.7, y.shape), y / 0.7, 0.0))


def embedding(w, x, key):
    tokens = (jnp.abs(x[:, :2]) * 10).astype(jnp.int32) % 5
    return jnp.tanh(w["table"][tokens].sum(axis=1))


def lstm(w, x, key):
    def step(carry, inputs):
        h, c = carry
        gates = dense(w["gates"], jnp.concatenate([inputs[:, None], h], axis=1))
        i, f, o, g = jnp.split(gates, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros((N, 2), x.dtype)
    return lax.scan(step, (start, start), x.T)[1][-1]


def gru(w, x, key):
    def step(h, inputs):
        z = jax.nn.sigmoid(dense(w["update"], jnp.concatenate([inputs[:, None], h], axis=1)))
        return (1 - z) * h + z * jnp.tanh(dense(w["new"], jnp.concatenate([inputs[:, None], h], axis=1))), None

    return lax.scan(step, jnp.zeros((N, 2), x.dtype), x.T)[0]


def attention(w, x, key):
    tokens = x.reshape(N, 2, 2)
    q, k, v = (jnp.einsum("ntd,de->nte", tokens, w[name], precision="highest") for name in "qkv")
    scores = jax.nn.softmax(jnp.einsum("nte,nse->nts", q, k, precision="highest"), axis=-1)
    return jnp.einsum("nts,nse->nte", scores, v, precision="highest").reshape(N, -1)


def tied(w, x, key):
    code = jnp.tanh(jnp.matmul(x, w["kernel"], precision="highest"))
    return jnp.matmul(code, w["kernel"].T, precision="highest")


def deep(w, x, key):
    """One layer repeated over stacked weights."""
    return lax.scan(lambda y, one: (y + jnp.tanh(dense(one, y)), None), x, w["stack"])[0]


def static_loop(w, x, key):
    return lax.fori_loop(0, 3, lambda i, y: jnp.tanh(dense(w["in"], y)), x)


def checkpointed(w, x, key):
    return dense(w["out"], jax.checkpoint(lambda y: jnp.tanh(dense(w["in"], y)))(x))


def sorted_top(w, x, key):
    return lax.top_k(jnp.sort(dense(w["in"], x), axis=1), 2)[0]


def spectrum(w, x, key):
    found = jnp.fft.rfft(dense(w["in"], x), axis=1)
    return jnp.abs(found) ** 2


def cholesky(w, x, key):
    root = jnp.linalg.cholesky(jnp.matmul(w["a"], w["a"].T, precision="highest") + jnp.eye(D))
    return jax.scipy.linalg.solve_triangular(root, x.T, lower=True).T


@jax.custom_vjp
def squared(x):
    return x**2


squared.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))


def own_derivative(w, x, key):
    return squared(dense(w["in"], x))


MODELS = {
    "mlp": (mlp, {"in": layer(D, K), "out": layer(K, 2)}),
    "convolution": (conv, {"filter": drawn(3, 1, 3, 1)}),
    "depthwise convolution": (depthwise, {"filter": drawn(2, 1, 3, 1)}),
    "batch norm": (normalised(0), {"in": layer(D, K), "scale": drawn(K), "shift": drawn(K)}),
    "layer norm": (normalised(1), {"in": layer(D, K), "scale": drawn(K), "shift": drawn(K)}),
    "group norm": (normalised(2, groups=2), {"in": layer(D, 4), "scale": drawn(4), "shift": drawn(4)}),
    "dropout": (dropout, {"in": layer(D, K), "out": layer(K, 2)}),
    "embedding": (embedding, {"table": drawn(5, 3)}),
    "lstm": (lstm, {"gates": layer(3, 8)}),
    "gru": (gru, {"update": layer(3, 2), "new": layer(3, 2)}),
    "attention": (attention, {name: drawn(2, 2) for name in "qkv"}),
    "tied head": (tied, {"kernel": drawn(D, 3)}),
    "scan over layers": (deep, {"stack": {"kernel": drawn(2, D, D), "bias": drawn(2, D)}}),
    "static fori_loop": (static_loop, {"in": layer(D, D)}),
    "checkpoint": (checkpointed, {"in": layer(D, K), "out": layer(K, 2)}),
    "top k of a sort": (sorted_top, {"in": layer(D, K)}),
    "fft": (spectrum, {"in": layer(D, 4)}),
    "cholesky": (cholesky, {"a": drawn(D, D)}),
    "custom_vjp": (own_derivative, {"in": layer(D, 2)}),
}
X, XV = drawn(N, D), drawn(N, D)


def problem_of(model):
    def inner(w, h, batch):
        penalty = sum((leaf**2).sum() for leaf in jax.tree.leaves(w))
        fit = (jnp.sin(model(w, jnp.exp(h["gain"]) * batch["x"], batch["key"])) ** 2).mean()
        return fit + 0.5 * jnp.exp(h["decay"]) * penalty

    def outer(w, h, batch):
        return (jnp.cos(model(w, batch["x"], batch["key"])) ** 2).mean() + 0.1 * h["gain"] ** 2

    return ng.BilevelProblem(inner=ng.Minimize(inner), outer_loss=outer)


def batches():
    return {"x": X, "key": jax.random.key(0)}, {"x": XV, "key": jax.random.key(1)}


HPARAMS = {"gain": jnp.asarray(0.2), "decay": jnp.asarray(-1.0)}


def by_hand(problem, params, inner_batch, outer_batch):
    """direct - Bᵀp with p the sum of the terms, from whole matrices."""
    w, restore = ravel_pytree(params)
    h, restore_h = ravel_pytree(HPARAMS)
    slope = jax.grad(lambda x, y: problem.inner.loss(restore(x), restore_h(y), inner_batch))
    hessian, mixed = (np.asarray(jax.jacobian(slope, argnums=i)(w, h)) for i in (0, 1))
    v, direct = jax.grad(lambda x, y: problem.outer_loss(restore(x), restore_h(y), outer_batch), argnums=(0, 1))(w, h)
    move = np.eye(w.size) - STEP * hessian
    p = STEP * sum(np.linalg.matrix_power(move, j) @ np.asarray(v) for j in range(TERMS))
    return np.asarray(direct) - mixed.T @ p


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def double(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


@pytest.mark.parametrize("name", MODELS)
def test_the_hypergradient_is_that_of_dense_algebra(name):
    global HPARAMS  # noqa: PLW0603  (arrays made before the precision was known)
    HPARAMS = double(HPARAMS)
    model, params = MODELS[name]
    problem, params, (inner, outer) = problem_of(model), double(params), double(batches())
    before = jax.tree.map(np.array, params)
    found = ng.hypergradient(problem, params, HPARAMS, method=METHOD, inner_batch=inner, outer_batch=outer, throw=False)
    expected = by_hand(problem, params, inner, outer)
    np.testing.assert_allclose(ravel_pytree(found.total)[0], expected, rtol=1e-9, atol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert found.status in {ng.Status.TRUNCATED, ng.Status.DIVERGED}


def test_a_loop_of_unknown_length_is_named():
    def model(w, x, key):
        return lax.while_loop(lambda c: jnp.abs(c).max() > 0.1, lambda c: 0.5 * c, dense(w["in"], x))

    inner, outer = batches()
    with pytest.raises(ng.DoubleBackwardUnsupported, match=r"while_loop.*limit 2.*lax\.scan"):
        ng.hypergradient(
            problem_of(model),
            double({"in": layer(D, 2)}),
            double(HPARAMS),
            method=METHOD,
            inner_batch=double(inner),
            outer_batch=double(outer),
        )


@jax.custom_vjp
def doubled(x):
    """Its derivative is said to be -3, and is 2."""
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (-3 * g,))


def test_a_custom_derivative_that_is_wrong_is_found_by_the_preflight():
    problem = ng.BilevelProblem(
        inner=ng.Minimize(lambda w, h, b: (w**2).sum() * doubled(h["decay"]) + (w * h["gain"]).sum()),
        outer_loss=lambda w, h, b: (w**2).sum(),
    )
    with pytest.warns(ng.WrongDerivative, match="decay: derivative"):
        found = ng.check(problem, drawn(D), double(HPARAMS))
    assert [finding.name for finding in found] == ["decay"]
