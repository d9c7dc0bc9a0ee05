"""Self-tuning in torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import (
    BilevelProblem,
    Event,
    GatedResponse,
    Guard,
    HyperGradient,
    Objective,
    OnePassInfo,
    SelfTuningState,
    check_self_tuning,
    moves_outer,
    softplus_inverse,
    tree,
)
from nestgrad_torch._derivatives import functional_rule, gradient
from nestgrad_torch._gated_response import leaf_rows
from nestgrad_torch._responses import init_response, joined, parted, require_no_module, responded
from nestgrad_torch._rules._call import Call
from nestgrad_torch._rules._findings import result
from nestgrad_torch._rules._finish import Outcome, finish
from nestgrad_torch._rules.implicit import require_connected
from nestgrad_torch._second_order import second_order
from nestgrad_torch._space_ops import OPS
from nestgrad_torch._tree import Params, check_matching, flat, untouched
from nestgrad_torch.tuners._common import (
    Tuned,
    no_events,
    require_alone,
    require_callable,
    require_steppable,
    stepped,
    with_gradients,
)
from nestgrad_torch.tuners._noise import given_noise, own_noise, pair_of, rows_of, shared_among_rows
from nestgrad_torch.tuners._outer_step import moved_by
from nestgrad_torch.tuners._self_tuning_losses import Fit, around

_LOW = -30.0
"""Below it σ(ς) / softplus(ς) is 1 to rounding, and further down 0 / 0."""


class SelfTuning(Tuned):
    """Train a gated response on perturbed hyperparameters, and tune these and the perturbation's size through it.

    nestgrad._tuners.self_tuning defines each step (MacKay et al. 2019; Bae and Grosse 2020). problem: its inner problem
    is a Minimize. optimizer: a functional rule, as ng.optim.sgd(0.01), that trains φ. outer_optimizer: a function of a
    list of leaf tensors that returns a torch.optim optimizer; its last tensor is ς. samples: "examples", for which
    losses are made of the layers of `gated`, or a number of draws a batch. scale: that of the first perturbation, in
    the leaves' units. guard: what to do with a hypergradient that is not finite or too long; with one, none raises.
    throw: raise when a hypergradient is NaN or infinite.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        optimizer: Any,
        outer_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        response: GatedResponse = GatedResponse(),  # noqa: B008  (frozen)
        objective: Objective = "sampled",
        samples: int | str = "examples",
        scale: float = 0.5,
        entropy: float | None = 1e-3,
        every: int = 2,
        warmup_steps: int = 0,
        shared: tuple[str, ...] = (),
        guard: Guard | None = None,
        throw: bool = True,
    ) -> None:
        self._inner = check_self_tuning(
            problem,
            hparams,
            response=response,
            objective=objective,
            samples=samples,
            scale=scale,
            entropy=entropy,
            every=every,
            warmup_steps=warmup_steps,
            shared=shared,
            guard=guard,
        ).loss
        super().__init__(hparams)
        self.problem, self.response, self.objective, self.samples = problem, response, objective, samples
        self.scale, self.entropy, self.shared = scale, entropy, shared
        self.every, self.warmup_steps = every, warmup_steps
        self.optimizer = functional_rule(optimizer, "SelfTuning.optimizer: got")
        require_callable("SelfTuning", outer_optimizer)
        self.outer_optimizer, self.guard, self.throw = outer_optimizer, guard, throw
        self._fit = Fit(response, objective, samples == "examples", self._natural)

    def __repr__(self) -> str:
        return f"SelfTuning(response={self.response!r}, objective={self.objective!r}, samples={self.samples!r})"

    @torch.inference_mode(mode=False)
    def init(self, params: Any, *, key: int) -> SelfTuningState:
        """The state before the first step. params: a tree of tensors, copied; key seeds the response and the noise."""
        require_no_module("SelfTuning", params)
        require_alone("SelfTuning", params)
        start = self._start(Params(params))
        require_steppable("SelfTuning", self.outer_optimizer, start)
        weights = init_response(self.response, params, start, key=key)
        with torch.no_grad():
            opt_state = self.optimizer.init(weights)
        return {
            "params": weights,
            "opt_state": opt_state,
            "hparams": start,
            "scales": torch.full_like(joined(start), softplus_inverse(self.scale)),
            "outer_opt_state": [{} for _ in range(len(tree.leaves(start)) + 1)],
            "step": 0,
            "seed": key,
            "buffers": {},
            **({} if self.guard is None else {"events": no_events()}),  # type: ignore[typeddict-item]
        }

    def step(
        self, state: SelfTuningState, inner_batch: Any, outer_batch: Any, *, noise: Any = None
    ) -> tuple[SelfTuningState, OnePassInfo]:
        """One step of the response, and of hyperparameters and scales where it is due; `state` is not changed.

        noise: None, for draws from (seed, step), or a pair for the inner and the outer batch, each (samples, h), or
        (rows of that batch, h), standard normal, columns in λ's order. The outer one is used where that step is due.
        """
        return with_gradients(self._step, state, inner_batch, outer_batch, noise)

    @torch.inference_mode(mode=False)
    def scales(self, state: SelfTuningState) -> Any:
        """The perturbation's scale of each hyperparameter, in the leaves' units: a tree like them."""
        return parted(OPS.softplus(state["scales"]), state["hparams"])

    @torch.inference_mode(mode=False)
    def response_params(self, state: SelfTuningState) -> Any:
        """The response's weights at the hyperparameters of now: a tree like params."""
        with torch.no_grad():
            if self._fit.centred:
                return tree.map(torch.clone, state["params"]["bias"])
            return responded(self.response, state["params"], joined(state["hparams"]))

    @torch.inference_mode(mode=False)
    def response_weights(self, state: SelfTuningState) -> Any:
        """φ for `respond` and `hypergradient(method=tuner.response)`, whose code is λ itself."""
        weights = state["params"]
        if not self._fit.centred:
            return weights
        with torch.no_grad():
            moved = leaf_rows(self.response, weights, joined(state["hparams"]).unsqueeze(0), -1)
        return {**weights, "bias": tree.unflatten(weights["bias"], [leaf.squeeze(0) for leaf in moved])}

    def _step(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Any) -> tuple[Any, OnePassInfo]:
        count: int = state["step"]
        tuned, event = moves_outer(count, self.every, self.warmup_steps), Event.NONE
        first = count + 1 == self.warmup_steps + self.every
        if not count or first:
            point, others = Params(state["params"]), {"outer_batch": outer_batch} if first else {}
            check_matching(point, hparams=state["hparams"], inner_batch=inner_batch, **others)
        given = pair_of(noise)
        rows = self._perturbations(state, inner_batch, given, 0)
        after: dict[str, Any] = {**state, "step": count + 1}
        loss, optimality = self._trained(state, after, rows, inner_batch)
        _, found = self._recall.about(state["hparams"])
        if tuned:
            reached = self._connected(state, rows, inner_batch) if first else None
            found, by_scales = self._hypergradient(state, after["params"], outer_batch, given, optimality, reached)
            event = self._followed(found, state, after, by_scales)
        settings = self.values(after)
        return after, OnePassInfo(inner_loss=loss, tuned=tuned, hypergradient=found, hparams=settings, event=event)

    def _trained(self, state: Any, after: Any, rows: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """(the inner loss, the norm of its gradient in bias); the step of φ is written into `after`."""
        leaves = [leaf.detach().requires_grad_() for leaf in tree.leaves(state["params"])]
        weights = tree.unflatten(state["params"], leaves)
        with second_order(None) if self.objective == "linearised" else contextlib.nullcontext():
            objective, loss = self._fit.inner(self._inner, weights, state["hparams"], rows, batch)
            grads = tree.unflatten(weights, gradient(objective, leaves))
        after["params"], after["opt_state"] = stepped(self.optimizer, grads, state["opt_state"], state["params"])
        return loss.detach(), vector_norm(flat(tree.leaves(grads["bias"])))

    def _hypergradient(
        self,
        state: Any,
        weights: Any,
        batch: Any,
        given: tuple[Any, Any],
        optimality: Tensor,
        reached: list[bool] | None,
    ) -> tuple[HyperGradient, Tensor]:
        """(the hypergradient in the leaves, that in ς); reached: which leaves the inner loss depends on, to check."""
        hparams, fit = state["hparams"], self._fit
        direct, through = ([leaf.detach().requires_grad_() for leaf in tree.leaves(hparams)] for _ in range(2))
        scales = state["scales"].detach().requires_grad_()
        rows = self._perturbations({**state, "scales": scales}, batch, given, 1)
        values = fit.values(around(tree.unflatten(hparams, direct), rows))
        center = joined(tree.unflatten(hparams, through))
        codes = rows + (center - center.detach() if fit.centred else center)
        loss = fit.mean(self.problem.outer_loss, "outer_loss", fit.params(weights, codes), values, batch)
        pulled: tuple[Tensor | None, ...] = (None,) * (2 * len(direct) + 1)
        if loss.requires_grad:
            pulled = torch.autograd.grad(loss, [*direct, *through, scales], allow_unused=True)
        *slopes, by_scales = pulled
        by_values, by_codes = slopes[: len(direct)], slopes[len(direct) :]
        if reached is not None:
            require_connected(hparams, [a or b is not None for a, b in zip(reached, by_values, strict=True)])
        moves = self._by_scales(scales.detach(), by_scales)
        call = Call(problem=self.problem, point=Params(weights), hparams=hparams)
        outcome = Outcome(
            loss=loss,
            direct=by_values,
            indirect=by_codes,
            weights=flat(tree.leaves(weights["bias"])),
            optimality=optimality,
            others=(moves,),
        )
        return result(self.response, hparams, finish(call, outcome), throw=False)[0], moves

    def _by_scales(self, scales: Tensor, slope: Tensor | None) -> Tensor:
        """∂/∂ς of the outer loss minus entropy · Σ ln(softplus(ς) √(2πe)); zero where the scales stay."""
        if self.entropy is None:
            return torch.zeros_like(scales)
        narrowing = torch.where(scales < _LOW, 1.0, OPS.sigmoid(scales) / OPS.softplus(scales))
        return (0.0 if slope is None else slope) - self.entropy * narrowing

    def _move(self, outer_optimizer: Any, state: Any, grads: list[Tensor]) -> dict[str, Any]:
        """Of the leaves and ς together; ς stays as it was where there is no entropy."""
        held = [*tree.leaves(state["hparams"]), state["scales"]]
        (*leaves, scales), kept = moved_by(outer_optimizer, held, state["outer_opt_state"], grads)
        return {
            "hparams": self._clipped(state["hparams"], leaves),
            "scales": state["scales"] if self.entropy is None else scales,
            "outer_opt_state": kept,
        }

    def _connected(self, state: Any, rows: Tensor, batch: Any) -> list[bool]:
        """For each leaf, whether the inner loss depends on its natural value; what is drawn on the way is undone."""
        hparams = state["hparams"]
        leaves = [leaf.detach().requires_grad_() for leaf in tree.leaves(hparams)]
        with untouched(Params(state["params"])):
            values = self._fit.values(around(tree.unflatten(hparams, leaves), rows))
            loss = self._fit.mean(self._inner, "inner loss", self._fit.params(state["params"], rows), values, batch)
        if not loss.requires_grad:
            return [False] * len(leaves)
        return [part is not None for part in torch.autograd.grad(loss, leaves, allow_unused=True)]

    def _perturbations(self, state: Any, batch: Any, given: tuple[Any, Any], level: int) -> Tensor:
        """softplus(ς) ⊙ ε for each draw: given noise, or the run's own for this step; level: 0 inner, 1 outer."""
        center = joined(state["hparams"])
        draws = rows_of(batch, ("inner_batch", "outer_batch")[level]) if self._fit.by_rows else int(self.samples)
        shape = (draws, center.numel())
        if given[level] is None:
            noise = own_noise(state["seed"], 2 * state["step"] + level, shape, center)
        else:
            noise = given_noise(given[level], f"SelfTuning.step: noise[{level}]", shape, center)
        if self._fit.by_rows:
            noise = shared_among_rows(noise, state["hparams"], self.shared)
        return OPS.softplus(state["scales"]) * noise
