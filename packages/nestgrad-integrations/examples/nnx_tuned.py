"""A loop in jax with flax.nnx and optax that tunes its learning rate."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import nestgrad_jax as ng

x = jax.random.normal(jax.random.key(0), (300, 4))
y = jnp.sin(x.sum(1, keepdims=True))
train, valid = (x[:200], y[:200]), (x[200:], y[200:])
rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(4, 16, rngs=rngs), jnp.tanh, nnx.Linear(16, 1, rngs=rngs))
graph, params, rest = nnx.split(model, nnx.Param, ...)


def loss(params, hparams, batch):
    return jnp.mean((nnx.merge(graph, params, rest)(batch[0]) - batch[1]) ** 2)


problem = ng.BilevelProblem(ng.WeightUpdate(loss, lambda h: optax.sgd(h["lr"], momentum=0.9)), outer_loss=loss)
method = ng.Implicit(solver=ng.Neumann(num_terms=5, step_size=1.0))
tuner = ng.OnePass(problem, hparams={"lr": ng.Log10(1e-3)}, every=10, method=method, outer_optimizer=optax.adam(0.05))
state = tuner.init(params)
before = loss(params, None, valid)
for _ in range(100):
    state, info = tuner.step(state, train, valid)
after, lr = loss(state["params"], None, valid), tuner.values(state)["lr"]
