"""Hyper-training in torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestgrad import (
    BilevelProblem,
    Event,
    Guard,
    HyperGradient,
    HyperTrainingState,
    Minimize,
    Normal,
    OnePassInfo,
    Response,
    Uniform,
    check_hyper_training,
    moves_hparams,
    moves_response,
    tree,
)
from nestgrad_torch._derivatives import functional_rule, gradient, scalar_loss
from nestgrad_torch._responses import init_response, joined, parted, require_no_module, responded, responses
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import result
from nestgrad_torch._tree import Params, check_matching
from nestgrad_torch.tuners._common import (
    Tuned,
    no_events,
    require_alone,
    require_callable,
    require_steppable,
    stepped,
    with_gradients,
)
from nestgrad_torch.tuners._noise import given_noise, own_noise


class HyperTraining(Tuned):
    """Train a response from hparams to weights, and tune hparams through it (Lorraine and Duvenaud 2018).

    nestgrad._tuners.hyper_training defines each step. problem: its inner problem is a Minimize. response: what is
    trained. optimizer: a functional rule, as ng.optim.adam(1e-4), that trains it on the mean loss of `samples` draws of
    the leaves from `distribution`. response_steps: None moves response and hparams in every step; a number moves the
    response alone for so many steps, then hparams alone. outer_optimizer: a function of a list of leaf tensors that
    returns a torch.optim optimizer. guard: what to do with a hypergradient that is not finite or too long; with one,
    none raises. throw: raise when a hypergradient is NaN or infinite.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        response: Response,
        optimizer: Any,
        outer_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        distribution: Normal | Uniform = Normal(variance=1e-5),  # noqa: B008  (frozen)
        samples: int = 2,
        response_steps: int | None = None,
        guard: Guard | None = None,
        throw: bool = True,
    ) -> None:
        inner = check_hyper_training(
            problem,
            hparams,
            response=response,
            distribution=distribution,
            samples=samples,
            response_steps=response_steps,
            guard=guard,
        )
        super().__init__(hparams)
        self.problem, self.response, self.distribution = problem, response, distribution
        self.samples, self.response_steps = samples, response_steps
        self.optimizer = functional_rule(optimizer, "HyperTraining.optimizer: got")
        require_callable("HyperTraining", outer_optimizer)
        self.outer_optimizer, self.guard, self.throw = outer_optimizer, guard, throw
        self._inner_loss = self._of_leaves(inner.loss)
        self._in_leaves = BilevelProblem(Minimize(self._inner_loss), self._of_leaves(problem.outer_loss))

    def __repr__(self) -> str:
        return f"HyperTraining(response={self.response!r}, distribution={self.distribution!r})"

    @torch.inference_mode(mode=False)
    def init(self, params: Any, *, key: int) -> HyperTrainingState:
        """The state before the first step. params: a tree of tensors, copied; key seeds the response and the noise."""
        require_no_module("HyperTraining", params)
        require_alone("HyperTraining", params)
        start = self._start(Params(params))
        require_steppable("HyperTraining", self.outer_optimizer, start)
        weights = init_response(self.response, params, start, key=key)
        with torch.no_grad():
            opt_state = self.optimizer.init(weights)
        return {  # type: ignore[return-value]
            "params": weights,
            "opt_state": opt_state,
            "hparams": start,
            "outer_opt_state": [{} for _ in tree.leaves(start)],
            "step": 0,
            "seed": key,
            "buffers": {},
            **({} if self.guard is None else {"events": no_events()}),
        }

    def step(
        self, state: HyperTrainingState, inner_batch: Any, outer_batch: Any, *, noise: Any = None
    ) -> tuple[HyperTrainingState, OnePassInfo]:
        """One step of the response, of hparams, or of both; the state passed in is not changed.

        noise: (samples, h), a row a draw of the leaves in the order of their sorted paths, standard normal, or in
        [0, 1) for Uniform; None draws it by a generator of the run's own from (seed, step).
        """
        return with_gradients(self._step, state, inner_batch, outer_batch, noise)

    @torch.inference_mode(mode=False)
    def response_params(self, state: HyperTrainingState) -> Any:
        """The response's weights at the hyperparameters of now: a tree like params."""
        with torch.no_grad():
            return responded(self.response, state["params"], joined(state["hparams"]))

    def _step(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Any) -> tuple[Any, OnePassInfo]:
        count: int = state["step"]
        if count in (0, self.response_steps):
            point = Params(state["params"])
            check_matching(point, hparams=state["hparams"], inner_batch=inner_batch, outer_batch=outer_batch)
        after: dict[str, Any] = {**state, "step": count + 1}
        if moves_response(count, self.response_steps):
            rows = self.distribution.sample(joined(state["hparams"]), self._noise(state, noise))
            loss = self._trained(state, after, rows, inner_batch)
        else:
            rows = joined(state["hparams"]).unsqueeze(0)
            loss = self._loss(state["params"], state["hparams"], rows, inner_batch)
        _, found = self._recall.about(state["hparams"])
        tuned, event = moves_hparams(count, self.response_steps), Event.NONE
        if tuned:
            found = self._hypergradient(after["params"], state["hparams"], inner_batch, outer_batch)
            event = self._followed(found, state, after)
        settings = self.values(after)
        return after, OnePassInfo(inner_loss=loss, tuned=tuned, hypergradient=found, hparams=settings, event=event)

    def _trained(self, state: Any, after: Any, rows: Tensor, batch: Any) -> Tensor:
        """The mean loss over the rows; the response's step on it is written into `after`."""
        leaves = [leaf.detach().requires_grad_() for leaf in tree.leaves(state["params"])]
        weights = tree.unflatten(state["params"], leaves)
        loss = self._loss(weights, state["hparams"], rows, batch)
        grads = tree.unflatten(weights, gradient(loss, leaves))
        after["params"], after["opt_state"] = stepped(self.optimizer, grads, state["opt_state"], state["params"])
        return loss.detach()

    def _loss(self, weights: Any, hparams: Any, rows: Tensor, batch: Any) -> Tensor:
        """The mean over rows λ of L_in(w_φ(λ), λ)."""
        losses = [
            scalar_loss(self._inner_loss, "inner loss", params, parted(row, hparams), batch)
            for row, params in zip(rows, responses(self.response, weights, rows), strict=True)
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _hypergradient(self, weights: Any, hparams: Any, inner_batch: Any, outer_batch: Any) -> HyperGradient:
        """By the response itself, in the leaves."""
        call = Call(
            problem=self._in_leaves,
            point=Params(weights),
            hparams=hparams,
            inner_batch=inner_batch,
            outer_batch=outer_batch,
        )
        findings = dataclasses.replace(METHODS(self.response, call), adjoint=None, params=None)
        return result(self.response, hparams, findings, throw=False)[0]

    def _noise(self, state: Any, given: Any) -> Tensor:
        """(samples, h): what was given, or the run's own draws for this step."""
        center = joined(state["hparams"])
        shape = (self.samples, center.numel())
        if given is not None:
            return given_noise(given, "HyperTraining.step: noise", shape, center)
        draw = torch.randn if isinstance(self.distribution, Normal) else torch.rand
        return own_noise(state["seed"], state["step"], shape, center, draw)

    def _of_leaves(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The loss as a function of the leaves."""

        def through(params: Any, leaves: Any, batch: Any) -> Any:
            return loss(params, self._natural(leaves), batch)

        return through
