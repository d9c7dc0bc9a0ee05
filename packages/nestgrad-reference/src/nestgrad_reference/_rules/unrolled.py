"""Unrolled: products of the dense step derivatives A_t and B_t, from either end."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import HyperGradient, Unrolled, UnsupportedOptimizer, WeightUpdate
from nestgrad_reference._carry import carried
from nestgrad_reference._checks import functional_optimizer
from nestgrad_reference._derivatives import outer_gradients
from nestgrad_reference._rules._common import METHODS, Call, Outcome, finish
from nestgrad_reference._trajectory import advance, derivatives, distance
from nestgrad_reference._tree import Vector, concatenate
from nestgrad_reference.optim import ReversibleSGD


@METHODS.register(Unrolled)
def unrolled(spec: Unrolled, call: Call) -> HyperGradient:
    """Every mode is the same sum; all states are kept, so that nothing is ever taken again or undone."""
    if spec.mode == "reversible":
        _require_reversible(call)
    call.require_connected()
    inner, batches = call.problem.inner, call.batches(spec.num_steps)
    whole = isinstance(inner, WeightUpdate)
    states = [carried(inner, call.params, call.hparams, call.opt_state, whole=whole)]
    for batch in batches:
        states.append(advance(inner, states[-1], call.hparams, batch))
    last = states[-1]
    loss, slope, direct = outer_gradients(call.problem.outer_loss, last.params, call.hparams, call.outer_batch)
    seed = np.append(slope, np.zeros(last.vector.size - slope.size))
    window = range(spec.num_steps - spec.window, spec.num_steps)
    steps = [derivatives(inner, states[t], call.hparams, batches[t]) for t in window]
    indirect, adjoint = (_forward if spec.mode == "forward" else _reverse)(steps, seed)
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=indirect,
        w=np.asarray(concatenate(last.params)),
        slope=slope,
        adjoint=adjoint[: slope.size] if spec.mode == "reverse" and adjoint is not None else None,
        optimality=distance(states[-2], last),
        steps=spec.num_steps,
        products=spec.window,
    )
    return finish(spec, call, found, params=last.params, opt_state=last.opt_state)


def _reverse(steps: list[tuple[np.ndarray, np.ndarray]], seed: Vector) -> tuple[Vector, Vector | None]:
    """(Σ_t B_tᵀ a_{t+1}, a at the first step of the window)."""
    adjoint, total = seed, np.zeros(steps[0][1].shape[1])
    for A, B in reversed(steps):
        total, adjoint = total + B.T @ adjoint, A.T @ adjoint
    return total, adjoint


def _forward(steps: list[tuple[np.ndarray, np.ndarray]], seed: Vector) -> tuple[Vector, Vector | None]:
    """(Zᵀ a_T, None) with Z ← A_t Z + B_t."""
    sensitivities = np.zeros_like(steps[0][1])
    for A, B in steps:
        sensitivities = A @ sensitivities + B
    return sensitivities.T @ seed, None


def _require_reversible(call: Call) -> None:
    inner: Any = call.problem.inner
    rule = functional_optimizer(inner, call.hparams)
    if not isinstance(rule, ReversibleSGD):
        raise UnsupportedOptimizer(
            f"Unrolled(mode='reversible'): optimizer {type(rule).__name__}, limit: ReversibleSGD. "
            "Remedy: use nestgrad_reference.optim.reversible_sgd, or mode='reverse'."
        )
