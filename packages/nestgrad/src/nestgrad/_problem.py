"""What a user states: an inner problem that params answer to, and an outer loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Loss = Callable[[Any, Any, Any], Any]
"""loss(params, hparams, batch) -> real scalar."""


@dataclass(frozen=True, slots=True)
class Minimize:
    """params minimise an inner loss: the residual is F = ∇_w L_in(w, λ), its Jacobian J the (symmetric) Hessian.

    loss(params, hparams, batch) returns a real scalar, the batch's inner loss.
    """

    loss: Loss


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """params are moved by an optimizer: the residual is F = u(w, λ), the update subtracted from w in one step.

    loss(params, hparams, batch) returns a real scalar. optimizer(hparams) returns a gradient transformation with
    `init(params) -> state` and `update(grads, state, params) -> (updates, state)`; u = -updates, at a fixed optimizer
    state. Regularisation such as weight decay may live in the loss or in the optimizer. J is not symmetric in general.
    (Clarke, Oldewage and Hernández-Lobato 2022, eq. 3.)
    """

    loss: Loss
    optimizer: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class BilevelProblem:
    """Minimise outer_loss(w*(λ), λ) over hparams λ, where params w*(λ) answer to the inner problem.

    outer_loss(params, hparams, batch) returns a real scalar.
    """

    inner: Minimize | WeightUpdate
    outer_loss: Loss
