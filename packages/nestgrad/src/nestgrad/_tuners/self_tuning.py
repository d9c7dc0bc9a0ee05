"""Self-tuning: a gated response trained on perturbed hyperparameters, whose perturbation's size is tuned besides.

The inner problem is a Minimize. State: φ, the weights of a GatedResponse; λ̂, the unconstrained leaves, in one vector in
the order of their sorted paths; ς, as many numbers, the scale of the perturbation of each entry being softplus(ς).
A draw is λ' = λ̂ + softplus(ς) ⊙ ε, ε standard normal. Losses get natural values; c is what the gates are fed:

    objective       c       step on φ by the inner batch
    "sampled"       λ'      mean of L_in(w_φ(λ'), λ') in all of φ                    (MacKay et al. 2019)
    "centred"       λ' - λ̂  L_in(w_φ(0), λ̂) in bias, mean of L_in(w_φ(λ' - λ̂), λ') in weight and gates
    "linearised"    λ' - λ̂  as centred, but each draw's prediction is f(0) + ∂f/∂c (λ' - λ̂), where f(c) is the
                            prediction with weights w_φ(c) and hyperparameters λ'    (Bae and Grosse 2020)

all derivatives taken at the φ that entered the step, one step of the optimizer. "linearised" needs an inner loss that
is a PredictionLoss. Centring takes away the bias of the base point; see `HyperTraining`, where the best response is λ².

After `warmup_steps` steps, every `every`-th also moves λ̂ and ς, with the φ just reached and draws of its own, by

    mean of L_out(w_φ(c), natural(λ')) - entropy · Σ_i ln(softplus(ς_i) √(2πe))          on the outer batch,

in λ̂ and ς, where centred c is λ' - stop(λ̂): its value is the perturbation, its derivative in λ̂ is 1. direct is the part
through natural(λ'), indirect that through c, outer_loss the mean without the entropy. With entropy = None ς stays. The
outer optimizer takes one step on (leaves, ς), and leaves beyond their clip range are set to its end. An outer loss that
rises by ½ a σ² has, with the entropy, its least value at σ = √(entropy / a).

samples: so many draws, each for the whole batch, when a number: params are then the tree w_φ(c), hparams as they are.
"examples": a draw for each row of a batch (the first axis of all its arrays): params are then gated, a view of φ and of
all c from which the layers of the backend's `gated` module compute, and each hparams leaf has one more, first axis, of
the rows; the loss must be a mean over rows. Leaves in `shared` have one draw for all rows of a batch.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from nestgrad import tree
from nestgrad._errors import InvalidInput, UnsupportedSpec
from nestgrad._methods.responses import GatedResponse
from nestgrad._problem import BilevelProblem, Minimize, PredictionLoss
from nestgrad._tuners.guard import Guard
from nestgrad._tuners.hyper_training import HyperTrainingState
from nestgrad._tuners.one_pass import check_every, check_guard, check_spaces

Objective = Literal["sampled", "centred", "linearised"]

ENTROPY_OF_UNIT_NORMAL = 0.5 * math.log(2.0 * math.pi * math.e)
"""ln √(2πe), in nats."""


class SelfTuningState(HyperTrainingState):
    """As HyperTrainingState; scales: ς, one number for each hyperparameter entry."""

    scales: Any


def softplus_inverse(scale: float) -> float:
    """ς with softplus(ς) = scale > 0."""
    return scale + math.log(-math.expm1(-scale))


def moves_outer(step: int, every: int, warmup_steps: int) -> bool:
    """Whether the step after so many moves λ̂ and ς."""
    past = step + 1 - warmup_steps
    return past > 0 and past % every == 0


def shared_columns(hparams: Any, shared: tuple[str, ...]) -> list[bool]:
    """For each leaf, in the order of sorted paths, whether its draw is one for all rows."""
    return [
        any(path == name or path.startswith(f"{name}/") for name in shared)
        for path in sorted(tree.named_leaves(hparams))
    ]


def check_self_tuning(
    problem: BilevelProblem,
    hparams: Any,
    *,
    response: Any,
    objective: Any,
    samples: Any,
    scale: Any,
    entropy: Any,
    every: int,
    warmup_steps: Any,
    shared: tuple[str, ...],
    guard: Guard | None = None,
) -> Minimize:
    """The inner problem, once it is checked that the tuner can be built; else InvalidInput, UnsupportedSpec."""
    if not isinstance(problem.inner, Minimize):
        raise UnsupportedSpec(
            f"SelfTuning: inner problem {type(problem.inner).__name__}, limit: Minimize, as a response answers a loss "
            "and no optimizer. Remedy: pass Minimize(loss)."
        )
    if not isinstance(response, GatedResponse):
        raise InvalidInput(
            f"SelfTuning.response: got {response!r}, limit: GatedResponse. "
            "Remedy: pass GatedResponse(), or take HyperTraining for the others."
        )
    if objective not in get_args(Objective):
        raise InvalidInput(
            f'SelfTuning.objective: got {objective!r}, limit: {", ".join(get_args(Objective))}. Remedy: pass "sampled".'
        )
    if objective == "linearised" and not isinstance(problem.inner.loss, PredictionLoss):
        raise InvalidInput(
            'SelfTuning.objective: "linearised" with a plain loss, limit: a PredictionLoss, whose prediction is '
            "what is made linear. Remedy: pass Minimize(PredictionLoss(predict=..., loss=...))."
        )
    if samples != "examples" and not _is_count(samples, 1):
        raise InvalidInput(
            f'SelfTuning.samples: got {samples!r}, limit: an int of at least 1, or "examples". Remedy: pass samples=1.'
        )
    _require_number("scale", scale, above=True)
    if entropy is not None:
        _require_number("entropy", entropy, above=False)
    check_every("SelfTuning", every)
    if not _is_count(warmup_steps, 0):
        raise InvalidInput(
            f"SelfTuning.warmup_steps: got {warmup_steps!r}, limit: an int of at least 0. Remedy: pass warmup_steps=0."
        )
    check_spaces("SelfTuning", hparams)
    paths = tree.named_leaves(hparams)
    for path in shared:
        if path not in paths:
            raise InvalidInput(
                f"SelfTuning.shared: got {path!r}, limit: a tuple of {', '.join(sorted(paths))}. Remedy: name one."
            )
    check_guard("SelfTuning", guard)
    return problem.inner


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _require_number(name: str, value: Any, *, above: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (above and value == 0):
        limit = "a finite number above 0" if above else "None, or a finite number of at least 0"
        raise InvalidInput(f"SelfTuning.{name}: got {value!r}, limit: {limit}. Remedy: pass a plain Python float.")
