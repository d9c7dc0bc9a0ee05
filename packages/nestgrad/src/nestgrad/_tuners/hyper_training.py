"""Hyper-training: a response from hyperparameters to weights is trained, and the hyperparameters follow through it.

The inner problem is a Minimize. State: φ, the response's weights, and λ̂, the unconstrained leaves of the
hyperparameters. The response's input is the leaves; the losses get natural values. A step takes

    λ_s ~ p(λ | λ̂), s = 1..S,      φ ← optimizer step on  1/S Σ_s L_in(w_φ(λ_s), λ_s)   on the inner batch,
    λ̂ ← outer optimizer step on  ∂L_out/∂λ + (∂w_φ/∂λ)ᵀ ∂L_out/∂w  at w_φ(λ̂)           on the outer batch,

with the φ that was just reached, and leaves beyond their clip range are set to its end. With response_steps = None each
step does both (Lorraine and Duvenaud 2018, alg. 3: joint, local); with a number, so many steps move φ alone and those
after them λ̂ alone (alg. 2, for which p should not depend on λ̂). Around λ̂ the fit has a bias of second order: where
the best response is λ², its value is off by the variance while its slope is right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from nestgrad._errors import InvalidInput, UnsupportedSpec
from nestgrad._methods.responses import Response
from nestgrad._problem import BilevelProblem, Minimize
from nestgrad._tuners.guard import Guard
from nestgrad._tuners.one_pass import check_guard, check_spaces
from nestgrad._validate import require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Normal:
    """Leaves drawn from a normal distribution of this variance, about `mean`, or about λ̂ where it is None."""

    variance: float
    mean: float | None = None

    def __post_init__(self) -> None:
        require_number(self, "variance", positive=False)
        if self.mean is not None:
            _require_finite(self, "mean")

    def sample(self, leaf: Any, noise: Any) -> Any:
        """One draw of a leaf from standard normal noise of its shape."""
        return (leaf if self.mean is None else self.mean) + math.sqrt(self.variance) * noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Leaves drawn uniformly between two numbers."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require_finite(self, "low")
        _require_finite(self, "high")
        if self.low >= self.high:
            raise InvalidInput(
                f"Uniform: got low={self.low!r}, high={self.high!r}, limit: low below high. Remedy: exchange them."
            )

    def sample(self, leaf: Any, noise: Any) -> Any:
        """One draw of a leaf from noise in [0, 1) of its shape."""
        return self.low + (self.high - self.low) * noise


class HyperTrainingState(TypedDict):
    """A plain tree: all there is to know to go on with a run.

    params: φ, the response's weights. opt_state: of the optimizer that trains them. hparams: λ̂. step: steps taken.
    seed: with the step, what a step's noise is drawn from. events: with a guard, how often it did what.
    """

    params: Any
    opt_state: Any
    hparams: Any
    outer_opt_state: Any
    step: Any
    seed: Any
    buffers: Any
    events: NotRequired[Any]


def moves_response(step: int, response_steps: int | None) -> bool:
    """Whether the step after so many moves φ."""
    return response_steps is None or step < response_steps


def moves_hparams(step: int, response_steps: int | None) -> bool:
    """Whether the step after so many moves λ̂."""
    return response_steps is None or step >= response_steps


def check_hyper_training(
    problem: BilevelProblem,
    hparams: Any,
    *,
    response: Any,
    distribution: Any,
    samples: int,
    response_steps: int | None,
    guard: Guard | None = None,
) -> Minimize:
    """The inner problem, once it is checked that the tuner can be built; else InvalidInput, UnsupportedSpec."""
    if not isinstance(problem.inner, Minimize):
        raise UnsupportedSpec(
            f"HyperTraining: inner problem {type(problem.inner).__name__}, limit: Minimize, as a response answers a "
            "loss and no optimizer. Remedy: pass Minimize(loss)."
        )
    if not isinstance(response, Response):
        raise InvalidInput(
            f"HyperTraining.response: got {response!r}, limit: LinearResponse, FactorisedResponse, MLPResponse or "
            "GatedResponse. Remedy: pass LinearResponse()."
        )
    if not isinstance(distribution, (Normal, Uniform)):
        raise InvalidInput(
            f"HyperTraining.distribution: got {distribution!r}, limit: Normal or Uniform. "
            "Remedy: pass Normal(variance=1e-5)."
        )
    check_spaces("HyperTraining", hparams)
    _require_count("samples", samples)
    if response_steps is not None:
        _require_count("response_steps", response_steps)
    check_guard("HyperTraining", guard)
    return problem.inner


def _require_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(f"HyperTraining.{name}: got {value!r}, limit: an int of at least 1. Remedy: pass {name}=2.")


def _require_finite(spec: Any, name: str) -> None:
    value = getattr(spec, name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise InvalidInput(
            f"{type(spec).__name__}.{name}: got {value!r}, limit: a finite number. Remedy: pass a plain Python float."
        )
