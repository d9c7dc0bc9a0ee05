"""A loop in jax with flax.nnx and optax."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

x = jax.random.normal(jax.random.key(0), (300, 4))
y = jnp.sin(x.sum(1, keepdims=True))
train, valid = (x[:200], y[:200]), (x[200:], y[200:])
rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(4, 16, rngs=rngs), jnp.tanh, nnx.Linear(16, 1, rngs=rngs))
graph, params, rest = nnx.split(model, nnx.Param, ...)


def loss(params, hparams, batch):
    return jnp.mean((nnx.merge(graph, params, rest)(batch[0]) - batch[1]) ** 2)


lr = 1e-3
optimizer = optax.sgd(lr, momentum=0.9)
state = optimizer.init(params)
before = loss(params, None, valid)
for _ in range(100):
    grads = jax.grad(loss)(params, None, train)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
after = loss(params, None, valid)
