"""A loop in jax with equinox and optax that tunes its learning rate."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import nestgrad_jax as ng

x = jax.random.normal(jax.random.key(0), (300, 4))
y = jnp.sin(x.sum(1, keepdims=True))
train, valid = (x[:200], y[:200]), (x[200:], y[200:])
model = eqx.nn.MLP(4, 1, 16, depth=1, activation=jnp.tanh, key=jax.random.key(1))
params, rest = eqx.partition(model, eqx.is_inexact_array)


def loss(params, hparams, batch):
    return jnp.mean((jax.vmap(eqx.combine(params, rest))(batch[0]) - batch[1]) ** 2)


problem = ng.BilevelProblem(ng.WeightUpdate(loss, lambda h: optax.sgd(h["lr"], momentum=0.9)), outer_loss=loss)
method = ng.Implicit(solver=ng.Neumann(num_terms=5, step_size=1.0))
tuner = ng.OnePass(problem, hparams={"lr": ng.Log10(1e-3)}, every=10, method=method, outer_optimizer=optax.adam(0.05))
state = tuner.init(params)
before = loss(params, None, valid)
for _ in range(100):
    state, info = tuner.step(state, train, valid)
after, lr = loss(state["params"], None, valid), tuner.values(state)["lr"]
