"""Weight updates in optax's form whose derivatives are finite where gradients are exactly zero.

A rule has `init(params) -> state` and `update(grads, state, params) -> (updates, state)`, updates being added to
params. Each setting is a number, a 0-d array, or a tree like params of 0-d arrays or of the params' shapes; any may be
traced. A learning rate may also be a schedule, optax's own included: a function of the count of steps taken, which puts
the rule's state under {"count", "rule"}.
"""

from nestgrad_jax.optim._adagrad import adagrad as adagrad
from nestgrad_jax.optim._adam import adam as adam
from nestgrad_jax.optim._adam import adamw as adamw
from nestgrad_jax.optim._clipped import clipped as clipped
from nestgrad_jax.optim._complex_momentum import complex_adam as complex_adam
from nestgrad_jax.optim._complex_momentum import complex_momentum as complex_momentum
from nestgrad_jax.optim._linked_momentum import aggregated_momentum as aggregated_momentum
from nestgrad_jax.optim._linked_momentum import recurrently_linked_momentum as recurrently_linked_momentum
from nestgrad_jax.optim._lion import lion as lion
from nestgrad_jax.optim._optimistic import optimistic as optimistic
from nestgrad_jax.optim._reversible import ReversibleSGD as ReversibleSGD
from nestgrad_jax.optim._reversible import ReversibleState as ReversibleState
from nestgrad_jax.optim._reversible import reversible_sgd as reversible_sgd
from nestgrad_jax.optim._rmsprop import rmsprop as rmsprop
from nestgrad_jax.optim._schedules import cosine as cosine
from nestgrad_jax.optim._schedules import piecewise_constant as piecewise_constant
from nestgrad_jax.optim._sgd import sgd as sgd
