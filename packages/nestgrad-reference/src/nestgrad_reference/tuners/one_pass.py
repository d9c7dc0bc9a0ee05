"""One-pass tuning by dense float64 algebra."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import (
    BilevelProblem,
    HyperGradient,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassRun,
    OnePassState,
    Space,
    Watch,
    check_block,
    check_one_pass,
    map_spaces,
    tree,
)
from nestgrad_reference._checks import functional_optimizer
from nestgrad_reference._connected import require_connected
from nestgrad_reference._derivatives import linearize, outer_gradients
from nestgrad_reference._rules.implicit import implicit
from nestgrad_reference._space_ops import slope
from nestgrad_reference._tree import as_params, check_matching, flatten
from nestgrad_reference.tuners._common import (
    hyper_step,
    idle,
    in_leaves,
    initial_leaves,
    loss_and_gradient,
    natural_values,
    require_outer_optimizer,
)


class OnePass:
    """Tune hparams during one training run; nestgrad._tuners.one_pass defines each step (Clarke et al. 2022).

    Arguments as in every backend; outer_optimizer is a functional rule such as nestgrad_reference.optim.adam(0.05).
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        every: int,
        method: Implicit,
        outer_optimizer: Any,
        throw: bool = True,
    ) -> None:
        self._update = check_one_pass(problem, hparams, every, method)
        self.problem, self.spaces, self.every, self.method = problem, hparams, every, method
        self.outer_optimizer, self.throw = outer_optimizer, throw
        self._watch = Watch()
        require_outer_optimizer("OnePass", outer_optimizer)

    def init(self, params: Any) -> OnePassState:
        """The state before the first step."""
        weights = as_params(params)
        initial, leaves = initial_leaves(self.spaces)
        return {
            "params": weights,
            "opt_state": functional_optimizer(self._update, initial).init(weights),
            "hparams": leaves,
            "outer_opt_state": self.outer_optimizer.init(leaves),
            "step": 0,
            "buffers": {},
        }

    def step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        check_matching(state["params"], inner_batch=inner_batch, outer_batch=outer_batch)
        values = self.values(state)
        _, restore = flatten(state["params"])
        value, slopes = loss_and_gradient(self._update, state["params"], values, inner_batch)
        updates, opt_state = functional_optimizer(self._update, values).update(
            restore(slopes), state["opt_state"], state["params"]
        )
        moved = tree.map(np.add, state["params"], updates)
        after: OnePassState = {**state, "params": moved, "opt_state": opt_state, "step": state["step"] + 1}
        tuned = after["step"] % self.every == 0
        if not tuned:
            nothing = idle(state["hparams"])
            return after, OnePassInfo(inner_loss=np.asarray(value), tuned=False, hypergradient=nothing, hparams=values)

        require_connected(
            self.problem,
            state["params"],
            values,
            inner_batch=inner_batch,
            outer_batch=outer_batch,
            opt_state=state["opt_state"],
        )
        point = linearize(self._update, state["params"], values, inner_batch, state["opt_state"])
        outer = outer_gradients(self.problem.outer_loss, moved, values, outer_batch)
        natural = implicit(self.method, point, outer, values, throw=False)
        found = self._in_leaves(natural, values)
        hyper_step(self, found, state, after, failing=self.method, watch=self._watch)
        info = OnePassInfo(inner_loss=np.asarray(value), tuned=True, hypergradient=found, hparams=self.values(after))
        return after, info

    def run(self, state: OnePassState, inner_batches: Any, outer_batch: Any) -> tuple[OnePassState, OnePassRun]:
        """`step` on each of inner_batches in turn, with the one outer batch."""
        check_block("OnePass", inner_batches)
        losses, found = [], []
        for batch in inner_batches:
            state, info = self.step(state, batch, outer_batch)
            losses.append(info.inner_loss)
            found += [info.hypergradient] if info.tuned else []
        return state, OnePassRun(
            inner_losses=np.asarray(losses), hypergradients=tuple(found), hparams=self.values(state)
        )

    def values(self, state: OnePassState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return natural_values(self.spaces, state["hparams"])

    def _in_leaves(self, natural: HyperGradient, values: Any) -> HyperGradient:
        """The chain rule of every space, with slopes by hand."""
        slopes = map_spaces(slope, self.spaces, values)
        return in_leaves(natural, slopes)


def per_parameter(space: Space, params: Any) -> Space:
    """The space with its initial number spread over every entry of params: one hyperparameter a weight."""
    if not isinstance(space.initial, (int, float)):
        raise InvalidInput(
            f"per_parameter: initial value of type {type(space.initial).__name__}, limit: a number. "
            "Remedy: pass Log10(1e-3)."
        )
    return space.starting_at(tree.map(lambda p: np.full_like(p, space.initial), as_params(params)))
