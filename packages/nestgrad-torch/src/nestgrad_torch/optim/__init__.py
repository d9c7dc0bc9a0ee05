"""Functional weight updates whose settings may be tensors to differentiate in: the shape of an optax transformation.

A rule has `init(params) -> state` and `update(grads, state, params) -> (updates, state)`, updates being added to
params. Each setting is a number, a 0-d tensor or a tree shaped like params; a learning rate may also be a schedule, a
function of the number of steps taken, which puts the rule's state under {"count", "rule"}.

A rule may also have `step(grads, state, params) -> (params, state)`, the same move in torch.optim's own rounding;
`flat_state(state)`, the state with all weights in one vector (or None), so that `update` may take vectors; and
`torch_optimizer(named_params, state)`, a plain torch.optim optimizer that goes on from there.
"""

from nestgrad_torch.optim._adagrad import Adagrad as Adagrad
from nestgrad_torch.optim._adagrad import adagrad as adagrad
from nestgrad_torch.optim._adam import Adam as Adam
from nestgrad_torch.optim._adam import adam as adam
from nestgrad_torch.optim._adam import adamw as adamw
from nestgrad_torch.optim._clipped import Clipped as Clipped
from nestgrad_torch.optim._clipped import clipped as clipped
from nestgrad_torch.optim._complex import ComplexAdamRule as ComplexAdamRule
from nestgrad_torch.optim._complex import ComplexMomentumRule as ComplexMomentumRule
from nestgrad_torch.optim._complex import complex_adam as complex_adam
from nestgrad_torch.optim._complex import complex_momentum as complex_momentum
from nestgrad_torch.optim._complex_drop_ins import ComplexAdam as ComplexAdam
from nestgrad_torch.optim._complex_drop_ins import ComplexMomentum as ComplexMomentum
from nestgrad_torch.optim._linked import AggregatedMomentumRule as AggregatedMomentumRule
from nestgrad_torch.optim._linked import OptimisticRule as OptimisticRule
from nestgrad_torch.optim._linked import RecurrentlyLinkedMomentumRule as RecurrentlyLinkedMomentumRule
from nestgrad_torch.optim._linked import aggregated_momentum as aggregated_momentum
from nestgrad_torch.optim._linked import optimistic as optimistic
from nestgrad_torch.optim._linked import recurrently_linked_momentum as recurrently_linked_momentum
from nestgrad_torch.optim._linked_drop_ins import AggregatedMomentum as AggregatedMomentum
from nestgrad_torch.optim._linked_drop_ins import Optimistic as Optimistic
from nestgrad_torch.optim._linked_drop_ins import RecurrentlyLinkedMomentum as RecurrentlyLinkedMomentum
from nestgrad_torch.optim._lion import Lion as Lion
from nestgrad_torch.optim._lion import lion as lion
from nestgrad_torch.optim._reversible import ReversibleSGD as ReversibleSGD
from nestgrad_torch.optim._reversible import reversible_sgd as reversible_sgd
from nestgrad_torch.optim._rmsprop import RMSprop as RMSprop
from nestgrad_torch.optim._rmsprop import rmsprop as rmsprop
from nestgrad_torch.optim._schedules import Scheduled as Scheduled
from nestgrad_torch.optim._schedules import cosine as cosine
from nestgrad_torch.optim._schedules import piecewise_constant as piecewise_constant
from nestgrad_torch.optim._sgd import SGD as SGD
from nestgrad_torch.optim._sgd import sgd as sgd
