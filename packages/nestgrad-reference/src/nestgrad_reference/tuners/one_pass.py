"""One-pass tuning by dense float64 algebra."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from nestgrad import (
    BilevelProblem,
    Event,
    Guard,
    HyperGradient,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassRun,
    OnePassState,
    Space,
    Unrolled,
    Watch,
    check_block,
    check_one_pass,
    choosing,
    map_spaces,
    space_paths,
    tree,
    window_position,
)
from nestgrad_reference._carry import carried
from nestgrad_reference._checks import functional_optimizer
from nestgrad_reference._connected import require_connected
from nestgrad_reference._derivatives import linearize, outer_gradients
from nestgrad_reference._rules._common import METHODS, Call
from nestgrad_reference._rules.implicit import implicit
from nestgrad_reference._space_ops import slope
from nestgrad_reference._tree import as_params, check_matching
from nestgrad_reference.tuners._common import (
    hyper_step,
    idle,
    in_leaves,
    initial_leaves,
    is_finite,
    natural_values,
    no_events,
    require_outer_optimizer,
    weight_step,
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
        every: int | None = None,
        method: Implicit | Unrolled | None = None,
        outer_optimizer: Any,
        warm_start: bool = False,
        guard: Guard | None = None,
        throw: bool = True,
    ) -> None:
        self._update = check_one_pass(problem, hparams, every, method, warm_start=warm_start, guard=guard)
        self.problem, self.spaces, self.method = problem, hparams, method
        self.every = choosing.interval_for(method) if every is None and method is not None else every
        self.guard = choosing.guard_for(method, guard)
        self.outer_optimizer, self.warm_start, self.throw = outer_optimizer, warm_start, throw
        self._watch = Watch()
        require_outer_optimizer("OnePass", outer_optimizer)

    def init(self, params: Any) -> OnePassState:
        """The state before the first step."""
        weights = as_params(params)
        initial, leaves = initial_leaves(self.spaces)
        state: OnePassState = {
            "params": weights,
            "opt_state": functional_optimizer(self._update, initial).init(weights),
            "hparams": leaves,
            "outer_opt_state": self.outer_optimizer.init(leaves),
            "step": 0,
            "buffers": {},
        }
        if self.warm_start:
            entering = carried(self._update, weights, initial, state["opt_state"])
            state["adjoint"] = entering.as_tree(np.zeros_like(entering.vector))
        if self.method is None:
            state["chosen"] = choosing.first_choice(self.every)
        if self.guard is not None:
            state["events"] = no_events()
        if isinstance(self.method, Unrolled):
            state["window"] = {}
        return state

    def step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        check_matching(state["params"], inner_batch=inner_batch, outer_batch=outer_batch)
        values = self.values(state)
        loss, params, opt_state = weight_step(self._update, state["params"], state["opt_state"], values, inner_batch)
        after: OnePassState = {**state, "params": params, "opt_state": opt_state, "step": state["step"] + 1}
        if isinstance(self.method, Unrolled):
            after["window"] = self._window(state, inner_batch)
        tuned, found, event = self._is_due(state), idle(state["hparams"]), Event.NONE
        if tuned:
            found = self._found(state, after, values, inner_batch, outer_batch)
            event = hyper_step(self, found, state, after, failing=self.method, watch=self._watch)
        elif chosen := state.get("chosen"):
            after["chosen"] = choosing.after_step(chosen)
        hparams = self.values(after) if tuned else values
        return after, OnePassInfo(
            inner_loss=np.asarray(loss), tuned=tuned, hypergradient=found, hparams=hparams, event=event
        )

    def run(self, state: OnePassState, inner_batches: Any, outer_batch: Any) -> tuple[OnePassState, OnePassRun]:
        """`step` on each of inner_batches in turn, with the one outer batch."""
        check_block("OnePass", inner_batches)
        infos = []
        for batch in inner_batches:
            state, info = self.step(state, batch, outer_batch)
            infos.append(info)
        losses = np.asarray([info.inner_loss for info in infos])
        return state, OnePassRun.of(infos, inner_losses=losses, hparams=self.values(state))

    def values(self, state: OnePassState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return natural_values(self.spaces, state["hparams"])

    def _is_due(self, state: OnePassState) -> bool:
        """Whether a hyper step goes with the next training step."""
        if chosen := state.get("chosen"):
            return chosen["since"] + 1 == chosen["every"]
        return (state["step"] + 1) % cast("int", self.every) == 0

    def _found(
        self, state: OnePassState, after: OnePassState, values: Any, inner_batch: Any, outer_batch: Any
    ) -> HyperGradient:
        """The hypergradient in the leaves; what goes with it besides is written into `after`."""
        if isinstance(self.method, Unrolled):
            return self._in_leaves(self._along_the_window(after, values, outer_batch), values)
        point, outer = self._at_the_step(state, after, values, inner_batch, outer_batch)
        if self.method is None:
            return self._by_choice(state, after, values, point, outer)
        found = implicit(self.method, point, outer, values, throw=False, warm_start=state.get("adjoint"))
        if self.warm_start and is_finite(found):
            after["adjoint"] = found.adjoint
        return self._in_leaves(found, values)

    def _by_choice(
        self, state: OnePassState, after: OnePassState, values: Any, point: Any, outer: Any
    ) -> HyperGradient:
        """By the series in force; at a probe the numbers are chosen anew."""

        def found(method: Implicit) -> HyperGradient:
            return self._in_leaves(implicit(method, point, outer, values, throw=False), values)

        chosen: Any = state.get("chosen")
        now = found(choosing.series(chosen["num_terms"]))
        if chosen["until_probe"]:
            after["chosen"] = choosing.after_hyper_step(chosen)
            return now
        below, far = (found(method) for method in choosing.probed(chosen)[::2])
        after["chosen"] = choosing.after_probe(
            chosen,
            below=self._cosines(below, far),
            now=self._cosines(now, far),
            contraction=float(far.stats.contraction),
            finite=is_finite(far),
            free=self.every is None,
        )
        return now

    def _cosines(self, one: HyperGradient, other: HyperGradient) -> list[float]:
        """Between the totals, an entry a space."""
        rows: dict[str, tuple[list[float], list[float]]] = {}
        leaves = zip(tree.leaves(one.total), *tree.matched(one.total, other.total), strict=True)
        for path, pair in zip(space_paths(self.spaces, one.total), leaves, strict=True):
            for row, leaf in zip(rows.setdefault(path, ([], [])), pair, strict=True):
                row.extend(np.ravel(leaf).tolist())
        return [choosing.cosine(*row) for row in rows.values()]

    def _at_the_step(
        self, state: OnePassState, after: OnePassState, values: Any, inner_batch: Any, outer_batch: Any
    ) -> tuple[Any, Any]:
        """(u linearised at the weights before the step, the outer gradients at those after it)."""
        entering = {"inner_batch": inner_batch, "opt_state": state["opt_state"]}
        require_connected(self.problem, state["params"], values, outer_batch=outer_batch, **entering)
        point = linearize(self._update, state["params"], values, inner_batch, state["opt_state"])
        return point, outer_gradients(self.problem.outer_loss, after["params"], values, outer_batch)

    def _window(self, state: OnePassState, inner_batch: Any) -> Any:
        """The window with this step's batch; {} before the window's first step."""
        position = window_position(state["step"], cast("int", self.every), cast("Unrolled", self.method).num_steps)
        if position < 0:
            return {}
        if position == 0:
            return {"params": state["params"], "opt_state": state["opt_state"], "batches": (inner_batch,)}
        window = state.get("window", {})
        return {**window, "batches": (*window["batches"], inner_batch)}

    def _along_the_window(self, after: OnePassState, values: Any, outer_batch: Any) -> HyperGradient:
        """In natural values, through the window's steps, which end at the weights after this step."""
        window, after["window"] = after.get("window", {}), {}
        call = Call(
            problem=self.problem,
            params=window["params"],
            hparams=values,
            inner_batches=window["batches"],
            outer_batch=outer_batch,
            opt_state=window["opt_state"],
            throw=False,
        )
        return METHODS(self.method, call)

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
