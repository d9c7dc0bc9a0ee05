"""A window of training steps: what the state keeps of it, and the hypergradient along it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nestgrad import BilevelProblem, HyperGradient, Unrolled, window_position
from nestgrad_jax._backend import solved
from nestgrad_jax._calls import as_call, settled
from nestgrad_jax._rules._common import METHODS, Call


def entered(state: Any, inner_batch: Any, step: int, every: int, num_steps: int) -> Any:
    """The window with the batch of the step after `step` training steps; {} before the window's first step."""
    position = window_position(step, every, num_steps)
    if position < 0:
        return {}
    if position == 0:
        return {"params": state["params"], "opt_state": state["opt_state"], "batches": (inner_batch,)}
    return {**state["window"], "batches": (*state["window"]["batches"], inner_batch)}


def along(method: Unrolled, problem: BilevelProblem, window: Any, hparams: Any, outer_batch: Any) -> HyperGradient:
    """The hypergradient through the window's steps, by the programs of a single call."""
    return _report_of(solved(problem, method, as_call(**_arguments(window, hparams, outer_batch))).found)


def along_traced(
    method: Unrolled, problem: BilevelProblem, window: Any, hparams: Any, outer_batch: Any
) -> HyperGradient:
    """`along` inside a trace, with an int32 status."""
    return _report_of(METHODS(method, problem, settled(Call(**_arguments(window, hparams, outer_batch)))))


def _arguments(window: Any, hparams: Any, outer_batch: Any) -> dict[str, Any]:
    """Those of a call that begins where the window does."""
    return {
        "params": window["params"],
        "hparams": hparams,
        "inner_batches": list(window["batches"]),
        "outer_batch": outer_batch,
        "opt_state": window["opt_state"],
    }


def _report_of(found: HyperGradient) -> HyperGradient:
    """The hypergradient without what goes with a call, but not with a step."""
    return replace(found, adjoint=None, params=None, opt_state=None)
