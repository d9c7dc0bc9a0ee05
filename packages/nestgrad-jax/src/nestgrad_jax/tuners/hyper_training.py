"""Hyper-training in JAX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nestgrad import (
    BilevelProblem,
    Guard,
    HyperTrainingState,
    InvalidInput,
    Minimize,
    Normal,
    OnePassInfo,
    Response,
    Uniform,
    check_hyper_training,
    moves_hparams,
    moves_response,
)
from nestgrad_jax._responses import as_tree, as_vector, respond, responded
from nestgrad_jax._rules._common import METHODS, Call
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import check_matching, moved_by
from nestgrad_jax.tuners._by_response import ByResponse, Phase, Work
from nestgrad_jax.tuners._outer_step import outer_step

_NEAR = Normal(variance=1e-5)


class HyperTraining(ByResponse):
    """Train a response from hparams to params, and tune hparams through it (Lorraine and Duvenaud 2018).

    nestgrad._tuners.hyper_training defines each step. problem: its inner problem is a Minimize. hparams: a tree of
    spaces; the response takes their leaves, the losses natural values. optimizer, for the response, and
    outer_optimizer: any optax transformations, as optax.adam(1e-4). distribution: of the leaves that the response is
    trained on, samples of them a step. response_steps: move the response alone for so many steps, then hparams alone;
    None: both in each step. guard: see Guard. throw: raise NonFinite when a hypergradient is not finite and there is no
    guard; under a user's own jit its status says so.

    `step` is pure and jitted, and may be the body of a lax.scan.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        response: Response,
        optimizer: Any,
        outer_optimizer: Any,
        distribution: Normal | Uniform = _NEAR,
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
        super().__init__(
            problem,
            hparams=hparams,
            response=response,
            optimizer=optimizer,
            outer_optimizer=outer_optimizer,
            guard=guard,
            throw=throw,
        )
        self.distribution, self.samples, self.response_steps = distribution, samples, response_steps
        self._inner = scalar_loss(lambda w, leaves, batch: inner.loss(w, self._natural(leaves), batch), "inner loss")
        self._in_leaves = BilevelProblem(
            inner=Minimize(self._inner),
            outer_loss=lambda w, leaves, batch: problem.outer_loss(w, self._natural(leaves), batch),
        )

    def __repr__(self) -> str:
        return f"HyperTraining({self.response}, {self.distribution}, response_steps={self.response_steps})"

    def init(self, params: Any, *, key: int) -> HyperTrainingState:
        """The state before the first step: a response that is params everywhere.

        params: a pytree of floating arrays, copied. key: from 0 to 2³² - 1, the seed of the response and of all noise.
        """
        state, params = self._start(params, key)
        return self._begun(state, params, state["hparams"])

    def step(
        self, state: HyperTrainingState, inner_batch: Any, outer_batch: Any, *, noise: Any = None
    ) -> tuple[HyperTrainingState, OnePassInfo]:
        """A step of the response, of hparams, or of both; the state passed in is not changed.

        noise: (samples, h), a row a sample and a column an entry of λ: standard normal for a Normal, uniform in [0, 1)
        for a Uniform; drawn from the state's seed and step when None.
        """
        return self._step(state, inner_batch, outer_batch, self._as_noise(noise, state["hparams"]))

    def response_params(self, state: HyperTrainingState) -> Any:
        """What the response gives at the hyperparameters as they are: a tree like the params of `init`."""
        return respond(self.response, state["params"], state["hparams"])

    def _phase(self, count: int) -> Phase:
        return Phase(moves_response(count, self.response_steps), moves_hparams(count, self.response_steps))

    def _choice(self, step: Array) -> tuple[Array | bool, Phase, Phase]:
        if self.response_steps is None:
            return True, Phase(fits=True, tunes=True), Phase(fits=True, tunes=True)
        return step < self.response_steps, Phase(fits=True, tunes=False), Phase(fits=False, tunes=True)

    def _work(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Array | None, phase: Phase) -> Work:
        weights, leaves = state["params"], state["hparams"]
        check_matching(weights, hparams=leaves, inner_batch=inner_batch, outer_batch=outer_batch)
        moved = {"step": state["step"] + 1}
        if phase.fits:
            draws = self._drawn(state) if noise is None else noise
            loss, slopes = jax.value_and_grad(self._fit)(weights, leaves, draws, inner_batch)
            moves, moved["opt_state"] = self.optimizer.update(slopes, state["opt_state"], weights)
            moved["params"] = weights = moved_by(weights, moves)
        else:
            loss = self._inner(responded(self.response, weights, leaves), leaves, inner_batch)
        if not phase.tunes:
            return Work(moved, self._natural(leaves), loss)
        call = Call(params=weights, hparams=leaves, inner_batch=inner_batch, outer_batch=outer_batch)
        found = METHODS(self.response, self._in_leaves, call)
        followed, event = outer_step(
            self.spaces, self.outer_optimizer, self.guard, found.total, found.outer_loss, state
        )
        # Adjoint and params stay behind: stacked by a scan they would hold two copies of the weights a step.
        found = replace(found, adjoint=None, params=None)
        return Work({**moved, **followed}, self._natural(followed["hparams"]), loss, found, event)

    def _fit(self, weights: Any, leaves: Any, noise: Array, batch: Any) -> Array:
        """1/S Σ_s L_in(w_φ(λ_s), λ_s), the samples side by side."""
        center = as_vector(leaves)

        def loss(row: Array) -> Array:
            sample = as_tree(self.distribution.sample(center, row), leaves)
            return self._inner(responded(self.response, weights, sample), sample, batch)

        return jax.vmap(loss)(noise).mean()

    def _drawn(self, state: Any) -> Array:
        """The noise of the state's next step."""
        key = jax.random.fold_in(jax.random.key(state["seed"]), state["step"])
        draw = jax.random.normal if isinstance(self.distribution, Normal) else jax.random.uniform
        entries = as_vector(state["hparams"])
        return draw(key, (self.samples, entries.size), entries.dtype)

    def _as_noise(self, noise: Any, leaves: Any) -> Array | None:
        """The noise in the leaves' dtype; InvalidInput unless it has a row a sample."""
        if noise is None:
            return None
        arrays = jax.tree.leaves(leaves)
        wanted = (self.samples, sum(leaf.size for leaf in arrays))
        if (found := np.shape(noise)) != wanted:
            raise InvalidInput(
                f"HyperTraining.step: noise of shape {found}, limit: {wanted}, samples by hyperparameter entries. "
                "Remedy: leave it out, or draw it in this shape."
            )
        return jnp.asarray(noise, arrays[0].dtype)
