"""One-pass tuning in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestgrad import (
    BilevelProblem,
    HyperGradient,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassRun,
    OnePassState,
    Space,
    check_block,
    check_one_pass,
    error_for,
    tree,
)
from nestgrad_torch._compile.hypergradients import require_traceable
from nestgrad_torch._rules._findings import Findings, result
from nestgrad_torch._tree import Params, check_matching
from nestgrad_torch.tuners._common import Tuner, require_callable, require_steppable, with_gradients
from nestgrad_torch.tuners._one_pass_programs import BlockPrograms, alike
from nestgrad_torch.tuners._one_pass_work import Work
from nestgrad_torch.tuners._outer_step import formula


class OnePass(Tuner):
    """Tune hparams during one training run; nestgrad._tuners.one_pass defines each step (Clarke et al. 2022).

    problem: its inner problem is a WeightUpdate. hparams: a tree of spaces, each holding the initial natural value.
    every: training steps per hyper step. method: Implicit, with Neumann, Identity or Dense. outer_optimizer: takes a
    list of leaf tensors and returns a torch.optim optimizer, as functools.partial(torch.optim.Adam, lr=0.05) does; it
    is called for every hyper step, its moments being in the state.

    throw: raise when a hypergradient is NaN or infinite (NonFinite, or the solver's own error); otherwise
    info.hypergradient.status says so. A series that diverges and is finite is not an error here: its few terms are what
    the method defines; the status records it.

    compile: make programs of the steps, and in `run` one of each block of `every` steps that ends with a hyper step,
    as `hypergradient(compile=True)` does: traced once for these shapes and Python values, the fastest form kept. The
    outer optimizer's step is part of them where it is functools.partial of torch.optim.Adam (lr, betas, eps) or
    torch.optim.SGD (lr), and stays outside otherwise.

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
        every: int,
        method: Implicit,
        outer_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        throw: bool = True,
        compile: bool = False,  # noqa: A002
        process_group: Any = None,
    ) -> None:
        super().__init__(check_one_pass(problem, hparams, every, method), hparams, process_group)
        self.problem, self.every, self.method = problem, every, method
        self.outer_optimizer, self.throw = outer_optimizer, throw
        require_callable("OnePass", outer_optimizer)
        self._work = Work(problem, method, self._natural)
        self._programs: BlockPrograms | None = None
        if compile:
            require_traceable(problem.inner, method, process_group=process_group)
            self._programs = BlockPrograms(self._work, formula(outer_optimizer), self._clipped)

    @torch.inference_mode(mode=False)
    def init(self, params: Any) -> OnePassState:
        """The state before the first step. params: a tree of tensors or an nn.Module; its values are copied."""
        state = self._begin(params)
        if self._programs is not None and self._structure is not None and self._structure.group.size > 1:
            require_traceable(self.problem.inner, self.method, process_group=self._structure.group)
        require_steppable("OnePass", self.outer_optimizer, state["hparams"])
        return {**state, "outer_opt_state": [{} for _ in tree.leaves(state["hparams"])]}  # type: ignore[return-value]

    def step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        return with_gradients(self._step, state, inner_batch, outer_batch)

    def run(self, state: OnePassState, inner_batches: Any, outer_batch: Any) -> tuple[OnePassState, OnePassRun]:
        """`step` for each of a list of inner batches, with one outer batch: the same numbers, errors and warnings."""
        check_block("OnePass", inner_batches)
        return with_gradients(self._run, state, list(inner_batches), outer_batch)

    def _step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        reached, loss, found = self._advanced(state, inner_batch, outer_batch)
        settings, idle = self._recall.about(reached["hparams"])
        info = OnePassInfo(
            inner_loss=loss,
            tuned=found is not None,
            hypergradient=idle if found is None else found,
            hparams=settings,
        )
        return reached, info

    def _advanced(
        self, state: OnePassState, inner_batch: Any, outer_batch: Any
    ) -> tuple[OnePassState, Tensor, HyperGradient | None]:
        """(the state after one step, the loss before it, what a hyper step found)."""
        point, tuned = self._point(state), (state["step"] + 1) % self.every == 0
        self._check(point, state, inner_batch, outer_batch)
        findings = None
        if self._programs is not None:
            after, losses, findings = self._programs.run(point, state, [inner_batch], outer_batch, tuned=tuned)
            loss = losses[0]
        elif tuned:
            audit = state["step"] < self.every
            after, loss, findings = self._work.tune(point, state, inner_batch, outer_batch, audit=audit)
        else:
            settings, _ = self._recall.about(state["hparams"])
            after, loss = self._work.train(point, state, settings, inner_batch, audit=not state["step"])
        reached: OnePassState = {**after, "step": state["step"] + 1}  # type: ignore[typeddict-item]
        return reached, loss, None if findings is None else self._ended(state, reached, findings)

    def _run(self, state: OnePassState, inner_batches: list[Any], outer_batch: Any) -> tuple[OnePassState, OnePassRun]:
        losses: list[Tensor] = []
        found: list[HyperGradient] = []
        while inner_batches:
            count = self.every - state["step"] % self.every
            block, inner_batches = inner_batches[:count], inner_batches[count:]
            if self._programs is not None and len(block) == self.every and alike(block):
                state, seen, tuned = self._block(state, block, outer_batch)
                losses.append(seen)
                found.append(tuned)
                continue
            for batch in block:
                state, loss, tuned = self._advanced(state, batch, outer_batch)
                losses.append(loss.reshape(1))
                found += [] if tuned is None else [tuned]
        joined = losses[0] if len(losses) == 1 else torch.cat(losses)
        hparams = self._recall.about(state["hparams"])[0]
        return state, OnePassRun(inner_losses=joined, hypergradients=tuple(found), hparams=hparams)

    def _block(
        self, state: OnePassState, block: list[Any], outer_batch: Any
    ) -> tuple[OnePassState, Tensor, HyperGradient]:
        """`every` training steps, the last a hyper step, as one program."""
        assert self._programs is not None  # noqa: S101
        point = self._point(state)
        self._check(point, state, block, outer_batch)
        after, losses, findings = self._programs.run(point, state, block, outer_batch, tuned=True)
        reached: OnePassState = {**after, "step": state["step"] + len(block)}  # type: ignore[typeddict-item]
        assert findings is not None  # noqa: S101
        return reached, losses, self._ended(state, reached, findings)

    def _check(self, point: Params, state: OnePassState, inner_batch: Any, outer_batch: Any) -> None:
        """Refuse, at a run's first steps, what does not match params."""
        if state["step"] < self.every:
            check_matching(point, hparams=state["hparams"], inner_batch=inner_batch, outer_batch=outer_batch)

    def _ended(self, state: OnePassState, reached: OnePassState, findings: Findings) -> HyperGradient:
        """The hypergradient, read and watched; the leaves move by it unless a program has moved them."""
        found, report = result(self.method, state["hparams"], findings, throw=False)
        if report.finite:
            self._watch.see(math.fsum(report.sizes), step=reached["step"])
        elif self.throw and not found.status.ok:
            raise error_for(found.status, self.method, found.stats, where=f"training step {reached['step']}")
        if self._programs is None or self._programs.outer is None:
            moved = self._move(self.outer_optimizer, state, tree.leaves(found.total))
            reached["hparams"], reached["outer_opt_state"] = moved
        return found


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
