"""Hyper-training by float64 algebra."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import (
    BilevelProblem,
    Event,
    Guard,
    HyperGradient,
    HyperTrainingState,
    InvalidInput,
    Normal,
    OnePassInfo,
    Response,
    Stats,
    Status,
    Uniform,
    Watch,
    check_hyper_training,
    map_spaces,
    moves_hparams,
    moves_response,
    tree,
)
from nestgrad_reference._connected import require_connected
from nestgrad_reference._derivatives import outer_gradients
from nestgrad_reference._responses import gradient_in_response, init_response, jacobian, joined, parted, weights_at
from nestgrad_reference._solvers._common import EPS
from nestgrad_reference._space_ops import slope
from nestgrad_reference._tree import check_matching, flatten
from nestgrad_reference.tuners._common import (
    hyper_step,
    idle,
    initial_leaves,
    natural_values,
    no_events,
    norm,
    require_optimizer,
)


class HyperTraining:
    """Train a response to the hyperparameters and move them through it; nestgrad._tuners.hyper_training defines steps.

    optimizer (of the response) and outer_optimizer are functional rules such as nestgrad_reference.optim.adam(1e-4).
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        response: Response,
        optimizer: Any,
        outer_optimizer: Any,
        distribution: Normal | Uniform = Normal(variance=1e-5),  # noqa: B008  (frozen)
        samples: int = 2,
        response_steps: int | None = None,
        guard: Guard | None = None,
        throw: bool = True,
    ) -> None:
        self.inner = check_hyper_training(
            problem,
            hparams,
            response=response,
            distribution=distribution,
            samples=samples,
            response_steps=response_steps,
            guard=guard,
        )
        self.problem, self.spaces, self.response = problem, hparams, response
        self.optimizer, self.outer_optimizer = optimizer, outer_optimizer
        self.distribution, self.samples, self.response_steps = distribution, samples, response_steps
        self.guard, self.throw, self._watch = guard, throw, Watch()
        require_optimizer("HyperTraining.optimizer", optimizer)
        require_optimizer("HyperTraining.outer_optimizer", outer_optimizer)

    def init(self, params: Any, *, key: int) -> HyperTrainingState:
        """The state before the first step; key seeds the response and the noise."""
        _, leaves = initial_leaves(self.spaces)
        phi = init_response(self.response, params, leaves, key=key)
        state: HyperTrainingState = {
            "params": phi,
            "opt_state": self.optimizer.init(phi),
            "hparams": leaves,
            "outer_opt_state": self.outer_optimizer.init(leaves),
            "step": 0,
            "seed": key,
            "buffers": {},
        }
        if self.guard is not None:
            state["events"] = no_events()
        return state

    def step(
        self, state: HyperTrainingState, inner_batch: Any, outer_batch: Any, *, noise: Any = None
    ) -> tuple[HyperTrainingState, OnePassInfo]:
        """One step of each that is due; noise: (samples, h), drawn by the run itself where it is None."""
        check_matching(state["params"], inner_batch=inner_batch, outer_batch=outer_batch)
        after: HyperTrainingState = {**state, "step": state["step"] + 1}
        if moves_response(state["step"], self.response_steps):
            drawn = self._noise(state, noise)
            loss, slopes = self._fit(state, drawn, inner_batch)
            updates, after["opt_state"] = self.optimizer.update(slopes, state["opt_state"], state["params"])
            after["params"] = tree.map(np.add, state["params"], updates)
        else:
            weights = self.response_params(state)
            loss, _, _ = outer_gradients(self.inner.loss, weights, self.values(state), inner_batch, "inner loss")
        tuned, found, event = moves_hparams(state["step"], self.response_steps), idle(state["hparams"]), Event.NONE
        if tuned:
            found = self._hypergradient(after, inner_batch, outer_batch)
            event = hyper_step(self, found, state, after, failing=self, watch=self._watch)
        return after, OnePassInfo(
            inner_loss=np.asarray(loss), tuned=tuned, hypergradient=found, hparams=self.values(after), event=event
        )

    def values(self, state: HyperTrainingState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return natural_values(self.spaces, state["hparams"])

    def response_params(self, state: HyperTrainingState) -> Any:
        """The weights that the response gives for the hyperparameters, a tree like params."""
        return weights_at(self.response, state["params"], joined(state["hparams"]))

    def __repr__(self) -> str:
        return f"HyperTraining(response={self.response})"

    def _noise(self, state: HyperTrainingState, given: Any) -> np.ndarray:
        """(samples, h): what was given, or the run's own draws for this step."""
        shape = (self.samples, joined(state["hparams"]).size)
        if given is not None:
            if np.shape(given) != shape:
                raise InvalidInput(
                    f"HyperTraining.step: noise of shape {np.shape(given)}, limit: {shape}, samples by hyperparameter "
                    "entries. Remedy: leave it out, or draw it in this shape."
                )
            return np.asarray(given, np.float64)
        rng = np.random.default_rng([state["seed"], state["step"]])
        return rng.normal(size=shape) if isinstance(self.distribution, Normal) else rng.uniform(size=shape)

    def _fit(self, state: HyperTrainingState, noise: np.ndarray, batch: Any) -> tuple[float, Any]:
        """The mean of L_in over the samples, and its derivative in φ."""
        centre, phi, losses, parts = joined(state["hparams"]), state["params"], list[float](), list[Any]()
        for row in noise:
            lam = np.asarray(self.distribution.sample(centre, row))
            weights = weights_at(self.response, phi, lam)
            values = natural_values(self.spaces, parted(state["hparams"], lam))
            loss, flat, _ = outer_gradients(self.inner.loss, weights, values, batch, "inner loss")
            losses.append(loss)
            parts.append(gradient_in_response(self.response, phi, lam, flatten(weights)[1](flat)))
        return float(np.mean(losses)), tree.map(lambda *rows: sum(rows) / len(rows), *parts)

    def _hypergradient(self, after: HyperTrainingState, inner_batch: Any, outer_batch: Any) -> HyperGradient:
        """In the leaves: the direct term by the chain rule of the spaces, the other through the response."""
        values, weights = self.values(after), self.response_params(after)
        require_connected(
            self.problem, weights, values, inner_batch=inner_batch, outer_batch=outer_batch, opt_state=None
        )
        loss, v, direct = outer_gradients(self.problem.outer_loss, weights, values, outer_batch)
        _, residual, _ = outer_gradients(self.inner.loss, weights, values, inner_batch, "inner loss")
        through = jacobian(self.response, after["params"], joined(after["hparams"])).T @ v
        parts = {
            "direct": tree.map(np.multiply, flatten(values)[1](direct), map_spaces(slope, self.spaces, values)),
            "indirect": parted(after["hparams"], through),
        }
        finite = np.isfinite([loss, *direct, *through]).all()
        size = float(np.linalg.norm(v))
        stats = Stats(
            rhs_norm=size,
            adjoint_norm=size,
            indirect_norm=float(np.linalg.norm(through)),
            params_norm=norm(weights),
            inner_optimality=float(np.linalg.norm(residual)),
            eps=EPS,
        )
        return HyperGradient(
            **parts,
            total=tree.map(np.add, parts["direct"], parts["indirect"]),
            outer_loss=np.asarray(loss),
            status=Status.TRUNCATED if finite else Status.NONFINITE,
            stats=stats,
        )
