"""Real-time forward mode in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import (
    BilevelProblem,
    Event,
    Guard,
    HyperGradient,
    OnePassInfo,
    RealTimeState,
    Stats,
    Status,
    check_guard,
    check_real_time,
    tree,
)
from nestgrad_torch._derivatives import scalar_loss
from nestgrad_torch._rules.implicit import require_connected
from nestgrad_torch._rules.unrolled import units
from nestgrad_torch._second_order import second_order
from nestgrad_torch._steps import Moment, Pieces, Steps, traced
from nestgrad_torch._tree import Params, check_matching, flat, split
from nestgrad_torch.tuners._common import (
    Tuner,
    no_events,
    require_alone,
    require_callable,
    require_steppable,
    with_gradients,
)


class RealTime(Tuner):
    """Tune hparams by sensitivities carried along the run (Franceschi et al. 2017, Donini et al. 2020).

    nestgrad._tuners.real_time defines each step. outer_optimizer: a function of a list of leaf tensors that returns a
    torch.optim optimizer. guard: what to do with a hypergradient that is not finite or too long; with one, none raises.
    throw: raise when a hypergradient is NaN or infinite.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        every: int,
        decay: float,
        outer_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        guard: Guard | None = None,
        throw: bool = True,
    ) -> None:
        check_guard("RealTime", guard)
        super().__init__(check_real_time(problem, hparams, every, decay), hparams)
        self.problem, self.every, self.decay = problem, every, decay
        self.outer_optimizer, self.guard, self.throw = outer_optimizer, guard, throw
        require_callable("RealTime", outer_optimizer)

    def __repr__(self) -> str:
        return f"RealTime(every={self.every}, decay={self.decay})"

    @torch.inference_mode(mode=False)
    def init(self, params: Any) -> RealTimeState:
        """The state before the first step. params: a tree of tensors or an nn.Module; its values are copied."""
        require_alone("RealTime", params)
        state = self._begin(params)
        require_steppable("RealTime", self.outer_optimizer, state["hparams"])
        leaves = tree.leaves(state["hparams"])
        size = self._moment(self._point(state), state).vector().numel()
        return {  # type: ignore[return-value]
            **state,
            "outer_opt_state": [{} for _ in leaves],
            "sensitivities": leaves[0].new_zeros(sum(leaf.numel() for leaf in leaves), size),
            **({} if self.guard is None else {"events": no_events()}),
        }

    def step(self, state: RealTimeState, inner_batch: Any, outer_batch: Any) -> tuple[RealTimeState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        return with_gradients(self._step, state, inner_batch, outer_batch)

    def _step(self, state: RealTimeState, inner_batch: Any, outer_batch: Any) -> tuple[RealTimeState, OnePassInfo]:
        point, count = self._point(state), state["step"] + 1
        if count <= self.every:
            check_matching(point, hparams=state["hparams"], inner_batch=inner_batch, outer_batch=outer_batch)
        settings, found = self._recall.about(state["hparams"])
        leaves = [value.detach().requires_grad_() for value in tree.leaves(settings)]
        values = tree.unflatten(settings, leaves)
        before, losses = self._moment(point, state), []
        steps = Steps(self._noting(losses), point)
        with second_order(point.module):
            reached, pieces = traced(steps, before, values, leaves, inner_batch)
            rows = self._carried(state["sensitivities"], before, pieces, leaves)
        after: RealTimeState = {
            **state,
            "params": tree.map(torch.clone, point.plain(reached.weights)),
            "opt_state": reached.opt_state,
            "buffers": reached.buffers,
            "sensitivities": rows,
            "step": count,
        }
        tuned, event = count % self.every == 0, Event.NONE
        if tuned:
            moved = vector_norm(reached.weights - before.weights)
            found = self._hypergradient(after, point, leaves, pieces, outer_batch, moved)
            event = self._followed(found, state, after)
            settings = self.values(after)
        return after, OnePassInfo(inner_loss=losses[0], tuned=tuned, hypergradient=found, hparams=settings, event=event)

    def _moment(self, point: Params, state: Any) -> Moment:
        weights = flat([leaf.detach() for leaf in point.leaves])
        return Moment(weights, state["opt_state"], dict(state["buffers"]))

    def _noting(self, losses: list[Tensor]) -> Any:
        """The weight update, whose loss leaves its values in the list."""
        update = self._update

        def loss(params: Any, values: Any, batch: Any) -> Any:
            value = update.loss(params, values, batch)
            losses.append(value.detach() if isinstance(value, Tensor) else value)
            return value

        return type(update)(loss, update.optimizer, update.carry)

    def _carried(self, rows: Tensor, before: Moment, pieces: Pieces, leaves: list[Tensor]) -> Tensor:
        """Z ← μ A Z + B, row by row."""
        parts, carried = before.parts(), []
        for row, unit in zip(rows, units(leaves), strict=True):
            carried.append(flat(pieces.push(split(self.decay * row, parts), unit)))
        return torch.stack(carried).detach()

    def _hypergradient(
        self, after: Any, point: Params, leaves: list[Tensor], pieces: Pieces, batch: Any, moved: Tensor
    ) -> HyperGradient:
        """∂L_out/∂λ + Zᵀ ∂L_out/∂s in the leaves."""
        arrived = point.holding(after["params"], after["buffers"])
        weights, hparams = arrived.vector(), after["hparams"]
        values = tree.unflatten(hparams, leaves)
        loss = scalar_loss(self.problem.outer_loss, "outer_loss", arrived.shape(weights), values, batch)
        pulled: tuple[Tensor | None, ...] = (None,) * (1 + len(leaves))
        if loss.requires_grad:
            pulled = torch.autograd.grad(loss, [weights, *leaves], allow_unused=True)
        require_connected(hparams, [a is not None or b for a, b in zip(pulled[1:], pieces.connected(), strict=True)])
        slope = torch.zeros_like(weights) if pulled[0] is None else pulled[0]
        direct = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, pulled[1:], strict=True)]
        natural = split(after["sensitivities"][:, : slope.numel()] @ slope, leaves)
        direct, indirect = self._chain(hparams, [direct, list(natural)])
        vectors = (slope, flat(indirect), flat(direct), weights.detach())
        sizes = [loss.detach(), moved, *(vector_norm(vector) for vector in vectors)]
        numbers = torch.stack(sizes).tolist()
        total = [a + b for a, b in zip(direct, indirect, strict=True)]
        return HyperGradient(
            total=tree.unflatten(hparams, total),
            direct=tree.unflatten(hparams, direct),
            indirect=tree.unflatten(hparams, indirect),
            outer_loss=loss.detach(),
            status=Status.TRUNCATED if all(map(math.isfinite, numbers)) else Status.NONFINITE,
            stats=Stats(
                rhs_norm=numbers[2],
                indirect_norm=numbers[3],
                params_norm=numbers[5],
                inner_optimality=numbers[1],
                steps=after["step"],
                eps=torch.finfo(slope.dtype).eps,
            ),
        )
