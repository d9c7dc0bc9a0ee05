"""A window of training steps: what the state keeps of it, and the hypergradient along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nestgrad import BilevelProblem, Unrolled
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._second_order import second_order
from nestgrad_torch._steps import Draws, draw_again
from nestgrad_torch._tree import Params, untouched


def entered(point: Params, state: Any, batch: Any, position: int) -> dict[str, Any]:
    """The window as the step on this batch enters it; {} before the window's first step.

    Beside the entries of OnePassState a window holds the buffers that entered it and, for each step, the states of the
    random number generators, so that the steps can be taken again with the draws of the first time.
    """
    if position < 0:
        return {}
    window = state["window"] if position else {"params": state["params"], "opt_state": state["opt_state"]}
    window = window if position else {**window, "buffers": state["buffers"], "batches": (), "draws": ()}
    drawn = Draws(point).as_tree()
    return {**window, "batches": (*window["batches"], batch), "draws": (*window["draws"], drawn)}


def along(
    method: Unrolled, problem: BilevelProblem, point: Params, window: dict[str, Any], values: Any, outer_batch: Any
) -> Findings:
    """The hypergradient in natural values through the window's steps; generators and buffers stay as they are."""
    start = point.holding(window["params"], window["buffers"])
    call = _Again(
        problem=problem,
        point=start,
        hparams=values,
        inner_batches=window["batches"],
        outer_batch=outer_batch,
        opt_state=window["opt_state"],
        draws=window["draws"],
    )
    with untouched(start), second_order(start.module):
        return METHODS(method, call)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again(Call):
    """A call whose every step draws what it drew the first time."""

    draws: tuple[dict[str, Any], ...]

    def batch(self, step: int) -> Any:
        """The inner batch of one step, which is about to be taken."""
        draw_again(self.draws[step])
        return self.inner_batches[step]
