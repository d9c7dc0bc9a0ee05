"""One-pass tuning in torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

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
    check_block,
    check_one_pass,
    choosing,
    error_for,
    space_paths,
    tree,
    window_position,
)
from nestgrad_torch._compile.hypergradients import require_traceable
from nestgrad_torch._derivatives import is_carried
from nestgrad_torch._rules._findings import Findings, result
from nestgrad_torch._tree import Params, check_matching
from nestgrad_torch.tuners._common import Tuner, no_events, require_callable, require_steppable, with_gradients
from nestgrad_torch.tuners._one_pass_programs import BlockPrograms, alike
from nestgrad_torch.tuners._one_pass_work import Work
from nestgrad_torch.tuners._outer_step import formula
from nestgrad_torch.tuners._window import along, entered


class OnePass(Tuner):
    """Tune hparams during one training run; nestgrad._tuners.one_pass defines each step (Clarke et al. 2022).

    problem: its inner problem is a WeightUpdate. hparams: a tree of spaces, each holding the initial natural value.
    every: training steps per hyper step. method: Implicit, or Unrolled along the last num_steps steps before the hyper
    step, which are taken once for the run and once more, with the same random draws, for the derivative. With `every`
    or method left out they are found by measuring. outer_optimizer: takes a list of leaf tensors and returns a
    torch.optim optimizer, as functools.partial(torch.optim.Adam, lr=0.05) does; it is called for every hyper step, its
    moments being in the state.

    warm_start: each solve starts from the last hyper step's adjoint. guard: what to do with a hypergradient that is not
    finite or too long, Guard() where method is left out; with one, none raises. throw: raise when a hypergradient is
    NaN or infinite (NonFinite, or the solver's own error); otherwise info.hypergradient.status says so. A series that
    diverges and is finite is not an error here: its few terms are what the method defines; the status records it.

    compile: make programs of the steps, and in `run` one of each block of `every` steps that ends with a hyper step,
    as `hypergradient(compile=True)` does: traced once for these shapes and Python values, the fastest form kept. The
    outer optimizer's step is part of them where it is functools.partial of torch.optim.Adam (lr, betas, eps) or
    torch.optim.SGD (lr), and stays outside otherwise, as it does with a guard. Hypergradients along a window, and those
    of a method that is yet to be chosen, stay eager; the training steps between them do not.

    process_group: a torch.distributed group, each process of which gives its own batches; the run is that of one
    process on the joined batches (see nestgrad_torch.distributed). A DistributedDataParallel or a fully sharded module
    given to `init` brings its own; the state holds whole params in every process.

    The state is all that there is to a run on a tree of tensors. With an nn.Module, the layers, the frozen params and
    the training mode are those of the module last given to `init`: call it before going on from a state on disk.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        every: int | None = None,
        method: Implicit | Unrolled | None = None,
        outer_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        warm_start: bool = False,
        guard: Guard | None = None,
        throw: bool = True,
        compile: bool = False,  # noqa: A002
        process_group: Any = None,
    ) -> None:
        update = check_one_pass(problem, hparams, every, method, warm_start=warm_start, guard=guard)
        super().__init__(update, hparams, process_group)
        self.problem, self.method = problem, method
        self.every = choosing.interval_for(method) if every is None and method is not None else every
        self.guard = choosing.guard_for(method, guard)
        self.outer_optimizer, self.warm_start, self.throw = outer_optimizer, warm_start, throw
        require_callable(type(self).__name__, outer_optimizer)
        self._work = Work(problem, method, self._natural)
        self._programs: BlockPrograms | None = None
        if compile:
            require_traceable(problem.inner, method or choosing.series(1), process_group=process_group)
            # A guard reads the hypergradient before the outer step, which is then no part of a program.
            outer = formula(outer_optimizer) if self.guard is None else None
            self._programs = BlockPrograms(self._work, outer, self._clipped)

    @torch.inference_mode(mode=False)
    def init(self, params: Any) -> OnePassState:
        """The state before the first step. params: a tree of tensors or an nn.Module; its values are copied."""
        state = self._begin(params)
        if self._programs is not None and self._structure is not None and self._structure.group.size > 1:
            method = self.method or choosing.series(1)
            require_traceable(self.problem.inner, method, process_group=self._structure.group)
        require_steppable(type(self).__name__, self.outer_optimizer, state["hparams"])
        state["outer_opt_state"] = [{} for _ in tree.leaves(state["hparams"])]
        if self.warm_start:
            state["adjoint"] = self._no_adjoint(state)
        if self.method is None:
            state["chosen"] = choosing.first_choice(self.every)
        if self.guard is not None:
            state["events"] = no_events()
        if isinstance(self.method, Unrolled):
            state["window"] = {}
        return state  # type: ignore[return-value]

    def step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        return with_gradients(self._step, state, inner_batch, outer_batch)

    def run(self, state: OnePassState, inner_batches: Any, outer_batch: Any) -> tuple[OnePassState, OnePassRun]:
        """`step` for each of a list of inner batches, with one outer batch: the same numbers, errors and warnings."""
        check_block("OnePass", inner_batches)
        return with_gradients(self._run, state, list(inner_batches), outer_batch)

    def _step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        reached, (loss,), tuned = self._advanced(state, [inner_batch], outer_batch)
        settings, idle = self._recall.about(reached["hparams"])
        found, event = (idle, Event.NONE) if tuned is None else tuned
        info = OnePassInfo(inner_loss=loss, tuned=tuned is not None, hypergradient=found, hparams=settings, event=event)
        return reached, info

    def _advanced(self, state: OnePassState, batches: list[Any], outer_batch: Any) -> tuple[OnePassState, Any, _Tuned]:
        """(the state after a step on each of these batches, the losses before them, what a hyper step found and did).

        As many batches as `_in_one` says, or the first.
        """
        point, tuned = self._point(state), self._until_due(state) == len(batches)
        self._check(point, state, batches, outer_batch)
        window = self._entered(point, state, batches[0]) if isinstance(self.method, Unrolled) else None
        at_the_step, findings = tuned and window is None, []
        if self._programs is not None and not (at_the_step and self.method is None):
            after, losses, found = self._programs.run(point, state, batches, outer_batch, tuned=at_the_step)
            findings = [found]
        elif at_the_step:
            audit, methods = self._is_early(state), self._methods(state)
            after, loss, findings = self._work.tune(point, state, batches[0], outer_batch, audit=audit, methods=methods)
            losses = [loss]
        else:
            settings, _ = self._recall.about(state["hparams"])
            after, losses = self._work.train(point, state, settings, batches, audit=not state["step"])
        reached: OnePassState = {**after, "step": state["step"] + len(batches)}  # type: ignore[typeddict-item]
        if window is not None:
            reached["window"] = {} if tuned else window
            findings = [self._along(point, state, window, outer_batch)] if tuned else []
        if tuned:
            return reached, losses, self._ended(state, reached, findings)
        if "chosen" in state:
            reached["chosen"] = choosing.after_step(state["chosen"], len(batches))
        return reached, losses, None

    def _run(self, state: OnePassState, inner_batches: list[Any], outer_batch: Any) -> tuple[OnePassState, OnePassRun]:
        losses: list[Tensor] = []
        found: list[tuple[HyperGradient, Event]] = []
        while inner_batches:
            count = self._in_one(state, inner_batches)
            state, seen, tuned = self._advanced(state, inner_batches[:count], outer_batch)
            inner_batches = inner_batches[count:]
            losses.append(seen if isinstance(seen, Tensor) else torch.stack(seen))
            found += [] if tuned is None else [tuned]
        joined = losses[0] if len(losses) == 1 else torch.cat(losses)
        seen = OnePassRun(
            inner_losses=joined,
            hypergradients=tuple(each for each, _ in found),
            hparams=self._recall.about(state["hparams"])[0],
            events=tuple(event for _, event in found),
        )
        return state, seen

    def _in_one(self, state: OnePassState, batches: list[Any]) -> int:
        """How many of a run's next batches are taken at once: those of a program, or all before a hyper step."""
        left = self._until_due(state)
        if self._programs is not None:
            whole = isinstance(self.method, Implicit) and left == self.every and len(batches) >= left
            return left if whole and alike(batches[:left]) else 1
        return 1 if isinstance(self.method, Unrolled) else max(1, left - 1)

    def _check(self, point: Params, state: OnePassState, batches: list[Any], outer_batch: Any) -> None:
        """Refuse, at a run's first steps, what does not match params."""
        if self._is_early(state):
            for batch in batches:
                check_matching(point, hparams=state["hparams"], inner_batch=batch, outer_batch=outer_batch)

    def _is_early(self, state: OnePassState) -> bool:
        """Whether no hyper step was taken before."""
        return state["step"] < (self.every or choosing.interval(1, near=False))

    def _until_due(self, state: OnePassState) -> int:
        """The training steps up to the next hyper step, at least 1."""
        if self.method is None:
            chosen = state["chosen"]  # type: ignore[typeddict-item]
            return chosen["every"] - chosen["since"]
        return self.every - state["step"] % self.every  # type: ignore[operator]

    def _methods(self, state: OnePassState) -> tuple[Implicit, ...]:
        """By what to find the hypergradient of this hyper step, first; after it, what a probe compares it with."""
        if self.method is not None:
            return (cast("Implicit", self.method),)
        chosen = state["chosen"]  # type: ignore[typeddict-item]
        if chosen["until_probe"]:
            return (choosing.series(chosen["num_terms"]),)
        below, now, far = choosing.probed(chosen)
        return now, below, far

    def _no_adjoint(self, state: Any) -> Any:
        """A zero adjoint, shaped like those of the method."""
        zeros = tree.map(torch.zeros_like, state["params"])
        if self._update.carry == "weights":
            return zeros
        carried = [leaf for leaf in tree.leaves(state["opt_state"]) if is_carried(leaf)]
        return {"params": zeros, "opt_state": [torch.zeros_like(leaf) for leaf in carried]}

    def _entered(self, point: Params, state: Any, inner_batch: Any) -> dict[str, Any]:
        """The window as the next step enters it."""
        method = cast("Unrolled", self.method)
        return entered(point, state, inner_batch, window_position(state["step"], self.every, method.num_steps))  # type: ignore[arg-type]

    def _along(self, point: Params, state: Any, window: dict[str, Any], outer_batch: Any) -> Findings:
        """The hypergradient along the window, in the leaves."""
        values, _ = self._recall.about(state["hparams"])
        method = cast("Unrolled", self.method)
        return self._in_leaves(state["hparams"], along(method, self.problem, point, window, values, outer_batch))

    def _ended(self, state: Any, reached: Any, findings: list[Any]) -> tuple[HyperGradient, Event]:
        """The hypergradient, read and watched; the leaves move by it unless a program has moved them."""
        method, *probes = self._methods(state)
        found, report = result(method, state["hparams"], findings[0], throw=False)
        if self.method is None:
            reached["chosen"] = self._choice(state, found, probes, findings[1:])
        if self.warm_start:
            reached["adjoint"] = found.adjoint if report.finite else state["adjoint"]
            found = dataclasses.replace(found, adjoint=None)
        if self.guard is not None:
            return found, self._guarded(self.guard, self.outer_optimizer, found, state, reached)
        if report.finite:
            self._watch.see(math.fsum(report.sizes), step=reached["step"])
        elif self.throw and not found.status.ok:
            raise error_for(found.status, method, found.stats, where=f"training step {reached['step']}")
        if self._programs is None or self._programs.outer is None or not isinstance(self.method, Implicit):
            reached.update(self._move(self.outer_optimizer, state, tree.leaves(found.total)))
        return found, Event.NONE

    def _choice(
        self, state: Any, now: HyperGradient, probes: list[Implicit], findings: list[Findings]
    ) -> choosing.Chosen:
        """The numbers in force after this hyper step, chosen anew where it was a probe."""
        if not probes:
            return choosing.after_hyper_step(state["chosen"])
        rows = zip(probes, findings, strict=True)
        below, far = (result(method, state["hparams"], found, throw=False) for method, found in rows)
        return choosing.after_probe(
            state["chosen"],
            below=self._cosines(below[0], far[0]),
            now=self._cosines(now, far[0]),
            contraction=float(far[0].stats.contraction),
            finite=far[1].finite,
            free=self.every is None,
        )

    def _cosines(self, one: HyperGradient, other: HyperGradient) -> list[float]:
        """Between the totals, an entry a space."""
        rows: dict[str, tuple[list[float], list[float]]] = {}
        pairs = zip(tree.leaves(one.total), tree.leaves(other.total), strict=True)
        for path, pair in zip(space_paths(self.spaces, one.total), pairs, strict=True):
            for row, leaf in zip(rows.setdefault(path, ([], [])), pair, strict=True):
                row.extend(leaf.reshape(-1).tolist())
        return [choosing.cosine(*row) for row in rows.values()]


_Tuned = tuple[HyperGradient, Event] | None
"""What a hyper step found, and what its guard did."""


def per_parameter(space: Space, params: Any) -> Space:
    """The space with its initial number spread over every entry of params: one hyperparameter a weight.

    params: a tree of tensors or an nn.Module.
    """
    if not isinstance(space.initial, (int, float)):
        raise InvalidInput(
            f"per_parameter: initial value of type {type(space.initial).__name__}, limit: a number. "
            "Remedy: pass Log10(1e-3)."
        )
    point = Params(params)
    return space.starting_at(
        tree.unflatten(point.tree, [torch.full_like(p, float(space.initial)) for p in point.leaves])
    )
