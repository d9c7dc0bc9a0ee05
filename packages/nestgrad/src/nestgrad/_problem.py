"""What a user states: an inner problem that params answer to, and an outer loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from nestgrad._errors import InvalidInput
from nestgrad._validate import require_choice, require_number

Loss = Callable[[Any, Any, Any], Any]
"""loss(params, hparams, batch) -> real scalar."""

Map = Callable[[Any, Any, Any], Any]
"""map(params, hparams, batch) -> tree shaped like params."""

Carry = Literal["weights", "weights_and_state"]


@dataclass(frozen=True, slots=True)
class Minimize:
    """params minimise an inner loss: the residual is F = ∇_w L_in(w, λ), its Jacobian J the (symmetric) Hessian.

    loss(params, hparams, batch) returns a real scalar, the batch's inner loss.
    """

    loss: Loss


@dataclass(frozen=True, slots=True)
class PredictionLoss:
    """An inner loss by way of a prediction: loss(predict(params, hparams, batch), hparams, batch).

    predict returns an array or a tree of them, which is what the "linearised" objective of SelfTuning makes linear in
    the response; whatever of the params the loss needs besides, as the norm of a penalty, is one of its arrays.
    """

    predict: Callable[[Any, Any, Any], Any]
    loss: Callable[[Any, Any, Any], Any]

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        """The scalar loss."""
        return self.loss(self.predict(params, hparams, batch), hparams, batch)


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """params are moved by an optimizer: the residual is F = u(w, λ), the update subtracted from w in one step.

    loss(params, hparams, batch) returns a real scalar. optimizer(hparams) returns a gradient transformation with
    `init(params) -> state` and `update(grads, state, params) -> (updates, state)`; u = -updates. Regularisation such as
    weight decay may live in the loss or in the optimizer. J is not symmetric in general.
    (Clarke, Oldewage and Hernández-Lobato 2022, eq. 3.)

    carry="weights": u is taken at a fixed optimizer state, as in that paper. carry="weights_and_state": what is
    differentiated is s = (w, every floating leaf of the optimizer state), F = s - Φ(s, λ) with Φ one whole step; the
    outer loss's gradient in the state is zero. So a momentum buffer's memory of the hyperparameters is not lost.
    """

    loss: Loss
    optimizer: Callable[[Any], Any]
    carry: Carry = "weights"

    def __post_init__(self) -> None:
        require_choice(self, "carry", ("weights", "weights_and_state"))


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """params are a fixed point: the residual is F = w - map(w, λ), J = I - ∂map/∂w, not symmetric in general.

    map(params, hparams, batch) returns a tree shaped like params.
    """

    map: Map


@dataclass(frozen=True, slots=True)
class Root:
    """params are a root: the residual is F = residual(w, λ) as it stands, any J.

    residual(params, hparams, batch) returns a tree shaped like params.
    """

    residual: Map


@dataclass(frozen=True, slots=True)
class ProximalGradient:
    """params minimise loss + penalty: F = w - prox(w - γ ∇loss(w, λ), γ), γ = step_size. J is not symmetric.

    loss(params, hparams, batch) is the smooth part. prox(hparams) returns a proximal map, called as
    prox(hparams)(params, step_size) -> params: those of the backend's `prox` module, or any function of the same form.
    F is differentiated on the active set, where the map is smooth; at a solution γ does not change the hypergradient.
    (Bertrand et al. 2020; Blondel et al. 2022, sec. 2.)

    Where a coordinate lies within kink_tol of the edge of its active set, relative to the threshold there, the
    derivative is one-sided and the status is NEAR_KINK; maps without a `kink_distance` method are not watched.
    """

    loss: Loss
    prox: Callable[[Any], Any]
    step_size: float
    kink_tol: float = 1e-6

    def __post_init__(self) -> None:
        require_number(self, "step_size", positive=True)
        require_number(self, "kink_tol", positive=False)


Inner = Minimize | WeightUpdate | FixedPoint | Root | ProximalGradient
INNERS: tuple[type, ...] = (Minimize, WeightUpdate, FixedPoint, Root, ProximalGradient)


@dataclass(frozen=True, slots=True)
class BilevelProblem:
    """Minimise outer_loss(w*(λ), λ) over hparams λ, where params w*(λ) answer to the inner problem.

    outer_loss(params, hparams, batch) returns a real scalar.
    """

    inner: Inner
    outer_loss: Loss


def require_inner(inner: Any) -> None:
    """Raise InvalidInput unless this is one of the inner problems."""
    if not isinstance(inner, INNERS):
        there = ", ".join(kind.__name__ for kind in INNERS)
        raise InvalidInput(
            f"inner problem: got {type(inner).__name__}, limit: {there}. Remedy: wrap the loss, as in Minimize(loss)."
        )
