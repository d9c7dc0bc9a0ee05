"""Functional weight updates whose settings may be tensors to differentiate in: the shape of an optax transformation.

A rule has `init(params) -> state` and `update(grads, state, params) -> (updates, state)`, updates being added to
params. It may also have `step(grads, state, params) -> (params, state)`, the same move in torch.optim's own rounding;
`flat_state(state)`, the state with all weights in one vector (or None), so that `update` may take vectors; and
`torch_optimizer(named_params, state)`, a plain torch.optim optimizer that goes on from there.
"""

from nestgrad_torch.optim._adam import Adam as Adam
from nestgrad_torch.optim._adam import adam as adam
from nestgrad_torch.optim._reversible import ReversibleSGD as ReversibleSGD
from nestgrad_torch.optim._reversible import reversible_sgd as reversible_sgd
from nestgrad_torch.optim._sgd import SGD as SGD
from nestgrad_torch.optim._sgd import sgd as sgd
