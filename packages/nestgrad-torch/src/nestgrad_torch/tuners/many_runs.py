"""Many independent runs at once in torch."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from nestgrad import (
    BilevelProblem,
    Event,
    HyperGradient,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassRun,
    Stats,
    Status,
    Unrolled,
    UnsupportedSpec,
    check_block,
    check_many_runs,
    initial_values,
    map_spaces,
    require_initial,
    require_leading_axis,
    tree,
    window_position,
)
from nestgrad_torch._space_ops import OPS
from nestgrad_torch._tree import Params, as_hparams, check_matching
from nestgrad_torch.tuners._common import extremes, with_gradients
from nestgrad_torch.tuners._many_runs_outer import OuterSteps, judged
from nestgrad_torch.tuners._many_runs_work import ManyRunsWork, norms, window_report
from nestgrad_torch.tuners._one_pass_programs import BlockPrograms, alike
from nestgrad_torch.tuners._over_runs import together
from nestgrad_torch.tuners._recall import Recall
from nestgrad_torch.tuners._window import along, entered
from nestgrad_torch.tuners.baselines import RandomMultiplier
from nestgrad_torch.tuners.full_horizon import FullHorizon


class ManyRuns:
    """`runs` independent runs of a tuner on a leading axis; nestgrad._tuners.many_runs defines it.

    params are a tree of tensors with the leading axis (for modules, that of torch.func.stack_module_state, the loss
    calling torch.func.functional_call). The losses and the optimizer are taken by torch.func.vmap, so they have to be
    free of choices by a tensor's value; random draws differ from run to run. A tuner with compile=True makes programs
    of the steps, and in `run` one of each block that ends with a hyper step. An outer optimizer other than the plain
    forms of torch.optim.Adam and SGD takes its step for one run after the other, and its state is a list of the runs'.
    Without those, a hyper step reads nothing on the host.
    """

    def __init__(self, tuner: Any, *, runs: int, shared_batches: bool = True) -> None:
        check_many_runs(tuner, runs)
        self.tuner, self.runs, self.shared_batches = copy.copy(tuner), runs, shared_batches
        self._every: int | None = getattr(tuner, "every", None)
        self._method: Any = getattr(tuner, "method", None)
        self._guard = getattr(tuner, "guard", None)
        if isinstance(self._method, Unrolled) and self._method.mode == "reversible":
            raise UnsupportedSpec(
                "ManyRuns: Unrolled(mode='reversible'), limit: 'reverse' or 'forward', as its fixed point is of one "
                "run. Remedy: mode='reverse', or a run after the other."
            )
        if self.tuner._process_group is not None:  # noqa: SLF001
            raise UnsupportedSpec(
                "ManyRuns: a tuner with a process_group, limit: 1 process. Remedy: leave process_group out, and give "
                "each process runs of its own."
            )
        self.tuner._recall = self._recall = Recall(self.tuner._natural)  # noqa: SLF001
        update = self.tuner._update  # noqa: SLF001
        problem = getattr(tuner, "problem", None) or BilevelProblem(update, update.loss)  # baselines take no outer loss
        self._work = ManyRunsWork(problem, self._method, self.tuner._natural, shared_batches)  # noqa: SLF001
        self._outer = None if self._method is None else OuterSteps(self.tuner, runs)
        self._programs: BlockPrograms | None = None
        if getattr(tuner, "_programs", None) is not None and self._outer is not None:
            step = self._outer.formula if self._guard is None else None
            self._programs = BlockPrograms(self._work, step, self.tuner._clipped)  # type: ignore[arg-type]  # noqa: SLF001
        self._structure: Params | None = None
        self._nothing: tuple[Any, HyperGradient, Tensor] | None = None

    def init(self, params: Any, hparams: Any = None, **options: Any) -> Any:
        """The state before the first step. hparams: natural values with the leading axis; the spaces' own when None.

        options: those of the tuner's `init`; a key seeds the draws of all runs.
        """
        with torch.inference_mode(mode=False), torch.no_grad():
            return self._begun_with(params, hparams, **options)

    def step(self, state: Any, inner_batch: Any, outer_batch: Any = None) -> tuple[Any, OnePassInfo]:
        """The tuner's step in every run; the state passed in is not changed."""
        return with_gradients(self._step, state, inner_batch, outer_batch)

    def run(self, state: Any, inner_batches: Any, outer_batch: Any = None) -> tuple[Any, OnePassRun]:
        """`step` on each of inner_batches in turn, with the one outer batch."""
        check_block("ManyRuns", inner_batches)
        return with_gradients(self._run, state, list(inner_batches), outer_batch)

    def values(self, state: Any) -> Any:
        """The hyperparameters' natural values with a leading axis of runs."""
        return self._recall.about(state["hparams"])[0]

    def _begun_with(self, params: Any, hparams: Any, **options: Any) -> Any:
        if isinstance(params, nn.Module):
            raise InvalidInput(
                f"ManyRuns.init: params: got {type(params).__name__}, limit: a tree of tensors with a leading axis. "
                "Remedy: torch.func.stack_module_state(modules)[0], and functional_call in the loss."
            )
        point = Params(params)
        for name, leaf in tree.named_leaves(point.tree).items():
            require_leading_axis(f"params[{name!r}]", tuple(leaf.shape), self.runs)
        self._structure = point
        leaves, like = self._leaves(point, hparams), point.leaves[0]
        weights = tree.unflatten(point.tree, [p.detach().clone() for p in point.leaves])
        state: dict[str, Any] = {"params": weights, "hparams": leaves, "step": 0, "buffers": {}}
        state["opt_state"] = self._work.fresh_opt_state(weights, self.tuner._natural(leaves))  # noqa: SLF001
        if self._outer is not None:
            state["outer_opt_state"] = self._outer.start(leaves)
        if self._guard is not None:
            zeros = torch.zeros(self.runs, dtype=torch.int64, device=like.device)
            state["events"] = {"clipped": zeros, "skipped": zeros.clone()}
        if isinstance(self._method, Unrolled):
            state["window"] = {}
        if isinstance(self.tuner, FullHorizon):
            state["initial"] = weights
        if isinstance(self.tuner, RandomMultiplier):
            state["multipliers"] = self.tuner.factors(options.pop("key"), (self.runs,), like)
        if options:
            raise InvalidInput(
                f"ManyRuns.init: got {', '.join(options)}, limit: the options of {type(self.tuner).__name__}.init. "
                "Remedy: leave them out."
            )
        return state

    def _leaves(self, point: Params, hparams: Any) -> Any:
        """The unconstrained leaves at the start, with the leading axis."""
        spaces, like = self.tuner.spaces, point.leaves[0]
        values = as_hparams(initial_values(spaces), like)
        if hparams is None:
            values = tree.map(lambda x: x.detach().expand(self.runs, *x.shape).clone(), values)
        else:
            given = as_hparams(hparams, like)
            for name, leaf in tree.named_leaves(given).items():
                require_leading_axis(f"hparams[{name!r}]", tuple(leaf.shape), self.runs)
            values = tree.unflatten(values, tree.matched(values, given)[0])
        check_matching(point, hparams=values)
        require_initial(spaces, values, extremes)
        return map_spaces(lambda space, value: space.unconstrained(value, OPS).detach(), spaces, values)

    def _step(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        reached, losses, told = self._advanced(state, inner_batch, outer_batch)
        idle, none = self._idle(reached["hparams"])
        found, event = (idle, none) if told is None or told[0] is None else told
        tuned = told is not None
        values = self.values(reached)
        return reached, OnePassInfo(inner_loss=losses, tuned=tuned, hypergradient=found, hparams=values, event=event)

    def _run(self, state: Any, inner_batches: list[Any], outer_batch: Any) -> tuple[Any, OnePassRun]:
        losses: list[Tensor] = []
        told: list[Any] = []
        in_blocks = self._programs is not None and isinstance(self._method, Implicit)
        while inner_batches:
            count = 1 if self._every is None else self._every - state["step"] % self._every
            block, inner_batches = inner_batches[:count], inner_batches[count:]
            if in_blocks and len(block) == self._every and alike(block):
                state, seen, found = self._in_program(state, block, outer_batch, tuned=True)
                losses.append(seen)
                told.append(found)
                continue
            for batch in block:
                state, seen, found = self._advanced(state, batch, outer_batch)
                losses.append(seen[None])
                told += [] if found is None else [found]
        idle = self._idle(state["hparams"])
        told = [idle if found is None else (found, event) for found, event in told]
        return state, OnePassRun(
            inner_losses=torch.cat(losses),
            hypergradients=tuple(found for found, _ in told),
            hparams=self.values(state),
            events=tuple(event for _, event in told),
        )

    def _advanced(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, Tensor, Any]:
        """(the state after one step, the losses before it, the hypergradients and events of a hyper step or None)."""
        if isinstance(self.tuner, FullHorizon):
            state = self.tuner.begun(state, lambda at: self._work.fresh_opt_state(at["params"], self.values(at)))
        tuned = self._every is not None and (state["step"] + 1) % self._every == 0
        point, window = self._point(state), None
        self._check(point, state, inner_batch, outer_batch)
        if isinstance(self._method, Unrolled):
            position = window_position(state["step"], self._every, self._method.num_steps)  # type: ignore[arg-type]
            window = entered(point, state, inner_batch, position)
        at_the_step = tuned and isinstance(self._method, Implicit)
        if self._programs is not None:
            after, losses, told = self._in_program(state, [inner_batch], outer_batch, tuned=at_the_step)
            losses = losses[0]
        elif at_the_step:
            audit = state["step"] < self._every  # type: ignore[operator]
            after, losses, (findings,) = self._work.tune(point, state, inner_batch, outer_batch, audit=audit)
            after["step"] = state["step"] + 1
            told = self._moved(state, after, findings)
        else:
            settings, audit = self.values(state), not state["step"]
            after, (losses,) = self._work.train(point, state, settings, [inner_batch], audit=audit)
            after["step"], told = state["step"] + 1, None
        if window is not None:
            after["window"] = {} if tuned else window
            told = self._along(point, state, after, window, outer_batch) if tuned else None
        if tuned and isinstance(self.tuner, RandomMultiplier):
            after["hparams"], told = self.tuner.multiplied(state), (None, None)
        return after, losses, told

    def _in_program(self, state: Any, block: list[Any], outer_batch: Any, *, tuned: bool) -> tuple[Any, Tensor, Any]:
        assert self._programs is not None  # noqa: S101
        point = self._point(state)
        self._check(point, state, block, outer_batch)
        after, losses, findings = self._programs.run(point, state, block, outer_batch, tuned=tuned)
        after["step"] = state["step"] + len(block)
        return after, losses, self._moved(state, after, findings) if findings is not None else None

    def _moved(self, state: Any, after: Any, findings: Any) -> tuple[HyperGradient, Tensor]:
        """The hypergradients and what the guard did; the outer step is written into `after`."""
        statuses, stats = findings.report(findings.figures)
        return self._followed(state, after, findings, statuses, stats)

    def _followed(self, state: Any, after: Any, found: Any, statuses: Tensor, stats: Stats) -> Any:
        hparams = state["hparams"]
        hypergradient = HyperGradient(
            total=tree.unflatten(hparams, found.total),
            direct=tree.unflatten(hparams, found.direct),
            indirect=tree.unflatten(hparams, found.indirect),
            outer_loss=found.outer_loss,
            status=statuses,
            stats=stats,
        )
        assert self._outer is not None  # noqa: S101
        if self._guard is None:
            if self._programs is None or self._programs.outer is None or not isinstance(self._method, Implicit):
                after["hparams"], after["outer_opt_state"] = self._outer(state, found.total)
            return hypergradient, self._idle(hparams)[1]
        events, scale = judged(self._guard, found.total, found.outer_loss)
        after["events"] = {name: n + (events == int(Event[name.upper()])) for name, n in state["events"].items()}
        after["hparams"], after["outer_opt_state"] = self._outer(state, found.total, events, scale)
        return hypergradient, events

    def _along(self, point: Params, state: Any, after: Any, window: Any, outer_batch: Any) -> Any:
        """The hypergradients through the window's steps, followed."""
        seen: list[Tensor] = []
        problem = together(self.tuner.problem, shared=self.shared_batches, seen=seen)
        natural = along(self._method, problem, point, window, self.values(state), outer_batch)
        natural = dataclasses.replace(natural, outer_loss=seen[-1])
        moved = [a - b for a, b in zip(tree.leaves(after["params"]), tree.leaves(state["params"]), strict=True)]
        statuses, stats = window_report(self._method, natural, norms(moved))
        findings = self.tuner._in_leaves(state["hparams"], natural)  # noqa: SLF001
        return self._followed(state, after, findings, statuses, stats)

    def _point(self, state: Any) -> Params:
        structure = Params(state["params"]) if self._structure is None else self._structure
        return structure.holding(state["params"], state["buffers"])

    def _check(self, point: Params, state: Any, inner_batch: Any, outer_batch: Any) -> None:
        """Refuse, at a run's first steps, what does not match params or lacks the leading axis."""
        if state["step"] >= (self._every or 1):
            return
        batches = {"inner_batch": inner_batch, "outer_batch": outer_batch}
        check_matching(point, hparams=state["hparams"], **batches)
        if not self.shared_batches:
            for title, batch in batches.items():
                for name, leaf in tree.named_leaves(batch).items():
                    if isinstance(leaf, Tensor):
                        require_leading_axis(f"{title}[{name!r}]", tuple(leaf.shape), self.runs)

    def _idle(self, hparams: Any) -> tuple[HyperGradient, Tensor]:
        """What a step without hyper step reports, and the event NONE, of every run."""
        leaves = tree.leaves(hparams)
        if self._nothing is None or self._nothing[0] != (leaves[0].dtype, leaves[0].device):
            zeros = tree.map(torch.zeros_like, hparams)
            nan = leaves[0].new_full((self.runs,), float("nan"))
            none = torch.zeros(self.runs, dtype=torch.int64, device=nan.device)
            figures = dict.fromkeys(_FIGURES, nan)
            stats = Stats(**figures, steps=none, products=none, eps=torch.finfo(nan.dtype).eps)
            idle = HyperGradient(
                total=zeros, direct=zeros, indirect=zeros, outer_loss=nan, status=none + int(Status.IDLE), stats=stats
            )
            self._nothing = (leaves[0].dtype, leaves[0].device), idle, none + int(Event.NONE)
        return self._nothing[1:]


_FIGURES = tuple(name for name in Stats.__dataclass_fields__ if name not in {"steps", "products", "eps"})
