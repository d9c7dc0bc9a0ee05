"""A loop in jax with equinox and optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

x = jax.random.normal(jax.random.key(0), (300, 4))
y = jnp.sin(x.sum(1, keepdims=True))
train, valid = (x[:200], y[:200]), (x[200:], y[200:])
model = eqx.nn.MLP(4, 1, 16, depth=1, activation=jnp.tanh, key=jax.random.key(1))
params, rest = eqx.partition(model, eqx.is_inexact_array)


def loss(params, hparams, batch):
    return jnp.mean((jax.vmap(eqx.combine(params, rest))(batch[0]) - batch[1]) ** 2)


lr = 1e-3
optimizer = optax.sgd(lr, momentum=0.9)
state = optimizer.init(params)
before = loss(params, None, valid)
for _ in range(100):
    grads = jax.grad(loss)(params, None, train)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
after = loss(params, None, valid)
