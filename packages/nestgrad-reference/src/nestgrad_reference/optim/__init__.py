"""Functional optimizers in NumPy that autograd differentiates: the shape of an optax transformation.

A rule has `init(params) -> state` and `update(grads, state, params) -> (updates, state)`, updates being added to
params. Each setting is a scalar or a tree shaped like params; a learning rate may also be a schedule, a function of the
number of steps taken, which puts the rule's state under {"count", "rule"}.
"""

from nestgrad_reference.optim._adagrad import Adagrad as Adagrad
from nestgrad_reference.optim._adagrad import adagrad as adagrad
from nestgrad_reference.optim._adam import Adam as Adam
from nestgrad_reference.optim._adam import adam as adam
from nestgrad_reference.optim._adam import adamw as adamw
from nestgrad_reference.optim._clipped import Clipped as Clipped
from nestgrad_reference.optim._clipped import clipped as clipped
from nestgrad_reference.optim._complex import ComplexAdam as ComplexAdam
from nestgrad_reference.optim._complex import ComplexMomentum as ComplexMomentum
from nestgrad_reference.optim._complex import complex_adam as complex_adam
from nestgrad_reference.optim._complex import complex_momentum as complex_momentum
from nestgrad_reference.optim._linked import AggregatedMomentum as AggregatedMomentum
from nestgrad_reference.optim._linked import RecurrentlyLinkedMomentum as RecurrentlyLinkedMomentum
from nestgrad_reference.optim._linked import aggregated_momentum as aggregated_momentum
from nestgrad_reference.optim._linked import recurrently_linked_momentum as recurrently_linked_momentum
from nestgrad_reference.optim._lion import Lion as Lion
from nestgrad_reference.optim._lion import lion as lion
from nestgrad_reference.optim._optimistic import Optimistic as Optimistic
from nestgrad_reference.optim._optimistic import optimistic as optimistic
from nestgrad_reference.optim._reversible import ReversibleSGD as ReversibleSGD
from nestgrad_reference.optim._reversible import reversible_sgd as reversible_sgd
from nestgrad_reference.optim._rmsprop import RMSprop as RMSprop
from nestgrad_reference.optim._rmsprop import rmsprop as rmsprop
from nestgrad_reference.optim._schedules import Scheduled as Scheduled
from nestgrad_reference.optim._schedules import cosine as cosine
from nestgrad_reference.optim._schedules import piecewise_constant as piecewise_constant
from nestgrad_reference.optim._sgd import SGD as SGD
from nestgrad_reference.optim._sgd import sgd as sgd
