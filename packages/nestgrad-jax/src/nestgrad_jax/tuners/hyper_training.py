"""Hyper-training in JAX."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from nestgrad import (
    BilevelProblem,
    Guard,
    HyperGradient,
    HyperTrainingState,
    InvalidInput,
    Minimize,
    Normal,
    OnePassInfo,
    Response,
    Uniform,
    Watch,
    check_hyper_training,
    error_for,
    moves_hparams,
    moves_response,
)
from nestgrad_jax._derivatives import scalar_loss
from nestgrad_jax._explain import explained
from nestgrad_jax._report import packed, unpacked
from nestgrad_jax._responses import as_tree, as_vector, init_response, respond, responded
from nestgrad_jax._rules._common import METHODS, Call
from nestgrad_jax._rules.implicit import idle
from nestgrad_jax._shardings import beside
from nestgrad_jax._tree import check_arguments, check_matching, is_traced, moved_by, tree_norm
from nestgrad_jax.tuners._leaves import natural, require_outer_optimizer, start
from nestgrad_jax.tuners._outer_step import as_event, no_event, no_events, outer_step
from nestgrad_jax.tuners._recall import Recall

_NEAR = Normal(variance=1e-5)
_SEEDS = 1 << 32


class HyperTraining:
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
        require_outer_optimizer("HyperTraining", optimizer, "optimizer")
        require_outer_optimizer("HyperTraining", outer_optimizer)
        self.problem, self.spaces, self.response = problem, hparams, response
        self.optimizer, self.outer_optimizer = optimizer, outer_optimizer
        self.distribution, self.samples, self.response_steps = distribution, samples, response_steps
        self.guard, self.throw = guard, throw
        self._natural = functools.partial(natural, hparams)
        self._inner = scalar_loss(lambda w, leaves, batch: inner.loss(w, self._natural(leaves), batch), "inner loss")
        self._in_leaves = BilevelProblem(
            inner=Minimize(self._inner),
            outer_loss=lambda w, leaves, batch: problem.outer_loss(w, self._natural(leaves), batch),
        )
        self._recall, self._watch = Recall(self._natural), Watch()
        self._jitted = jax.jit(self._packed, static_argnames=("fits", "tunes"))

    def __repr__(self) -> str:
        return f"HyperTraining({self.response}, {self.distribution}, response_steps={self.response_steps})"

    def init(self, params: Any, *, key: int) -> HyperTrainingState:
        """The state before the first step: a response that is params everywhere.

        params: a pytree of floating arrays, copied. key: from 0 to 2³² - 1, the seed of the response and of all noise.
        """
        if isinstance(key, bool) or not isinstance(key, (int, np.integer)) or not 0 <= key < _SEEDS:
            raise InvalidInput(f"HyperTraining.init: key {key!r}, limit: an int from 0 to 2**32 - 1. Remedy: key=0.")
        params, _, leaves = start(self.spaces, params)
        weights = init_response(self.response, params, leaves, key=int(key))
        state: HyperTrainingState = {
            "params": weights,
            "opt_state": self.optimizer.init(weights),
            "hparams": leaves,
            "outer_opt_state": self.outer_optimizer.init(leaves),
            "step": jnp.zeros((), jnp.int32),
            "seed": jnp.asarray(np.uint32(key)),
            "buffers": {},
        }
        if self.guard is not None:
            state["events"] = no_events()
        return beside(params, state)

    def step(
        self, state: HyperTrainingState, inner_batch: Any, outer_batch: Any, *, noise: Any = None
    ) -> tuple[HyperTrainingState, OnePassInfo]:
        """A step of the response, of hparams, or of both; the state passed in is not changed.

        noise: (samples, h), a row a sample and a column an entry of λ: standard normal for a Normal, uniform in [0, 1)
        for a Uniform; drawn from the state's seed and step when None.
        """
        check_arguments(inner_batch=inner_batch, outer_batch=outer_batch)
        noise = self._as_noise(noise, state["hparams"])
        with explained("HyperTraining.step", state=state, inner_batch=inner_batch, outer_batch=outer_batch):
            if is_traced(state["step"]):
                return self._traced(state, inner_batch, outer_batch, noise)
            return self._stepped(state, inner_batch, outer_batch, noise)

    def values(self, state: HyperTrainingState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return self._recall.about(state["hparams"])[0]

    def response_params(self, state: HyperTrainingState) -> Any:
        """What the response gives at the hyperparameters as they are: a tree like the params of `init`."""
        return respond(self.response, state["params"], state["hparams"])

    def _stepped(
        self, state: HyperTrainingState, inner_batch: Any, outer_batch: Any, noise: Array | None
    ) -> tuple[HyperTrainingState, OnePassInfo]:
        """`step` with a count that has a value: the program of its phase."""
        count = self._recall.count(state["step"])
        fits, tunes = moves_response(count, self.response_steps), moves_hparams(count, self.response_steps)
        moved, values, loss, seen, event = self._jitted(state, inner_batch, outer_batch, noise, fits=fits, tunes=tunes)
        after = cast("HyperTrainingState", {**state, **moved})
        self._recall.keep_count(after["step"], count + 1)
        if seen is None:
            values, nothing = self._recall.about(state["hparams"])
            return after, OnePassInfo(inner_loss=loss, tuned=False, hypergradient=nothing, hparams=values)
        found, _, size, outer_loss = unpacked(seen)
        if not is_traced(seen.numbers):
            self._judge(found, size, outer_loss, count + 1)
            self._recall.keep_values(after["hparams"], values)
        return after, OnePassInfo(
            inner_loss=loss, tuned=True, hypergradient=found, hparams=values, event=as_event(event)
        )

    def _judge(self, found: HyperGradient, size: float, outer_loss: float, step: int) -> None:
        """Raise where it is to, and warn of a hypergradient out of all proportion; a guard does neither."""
        if self.guard is not None:
            return
        if self.throw and not found.status.ok and not (math.isfinite(size) and math.isfinite(outer_loss)):
            raise error_for(found.status, self, found.stats, where=f"training step {step}")
        self._watch.see(size, step=step)

    def _traced(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Array | None) -> tuple[Any, OnePassInfo]:
        """`step` inside a trace."""
        if self.response_steps is None:
            return self._whole(state, inner_batch, outer_batch, noise, fits=True, tunes=True)
        first = moves_response(state["step"], self.response_steps)
        alone = (functools.partial(self._whole, fits=fits, tunes=not fits) for fits in (True, False))
        return lax.cond(first, *alone, state, inner_batch, outer_batch, noise)

    def _whole(
        self, state: Any, inner_batch: Any, outer_batch: Any, noise: Array | None, *, fits: bool, tunes: bool
    ) -> tuple[Any, OnePassInfo]:
        """A step, with a tree of results that is the same in every phase."""
        moved, values, loss, found, event = self._work(state, inner_batch, outer_batch, noise, fits=fits, tunes=tunes)
        return {**state, **moved}, OnePassInfo(
            inner_loss=loss,
            tuned=jnp.asarray(tunes),
            hypergradient=idle(state["hparams"]) if found is None else found,
            hparams=values,
            event=no_event() if event is None else event,
        )

    def _packed(
        self, state: Any, inner_batch: Any, outer_batch: Any, noise: Array | None, *, fits: bool, tunes: bool
    ) -> tuple[Any, ...]:
        """(the state's entries that change, natural values, inner loss, packed hypergradient, event)."""
        *others, found, event = self._work(state, inner_batch, outer_batch, noise, fits=fits, tunes=tunes)
        return *others, None if found is None else packed(found, tree_norm(found.total)), event

    def _work(
        self, state: Any, inner_batch: Any, outer_batch: Any, noise: Array | None, *, fits: bool, tunes: bool
    ) -> tuple[dict[str, Any], Any, Array, HyperGradient | None, Array | None]:
        """As `_packed`, the hypergradient None where hparams stay, the event None there and without a guard."""
        weights, leaves = state["params"], state["hparams"]
        check_matching(weights, hparams=leaves, inner_batch=inner_batch, outer_batch=outer_batch)
        moved = {"step": state["step"] + 1}
        if fits:
            draws = self._drawn(state) if noise is None else noise
            loss, slopes = jax.value_and_grad(self._fit)(weights, leaves, draws, inner_batch)
            moves, moved["opt_state"] = self.optimizer.update(slopes, state["opt_state"], weights)
            moved["params"] = weights = moved_by(weights, moves)
        else:
            loss = self._inner(responded(self.response, weights, leaves), leaves, inner_batch)
        if not tunes:
            return moved, self._natural(leaves), loss, None, None
        call = Call(params=weights, hparams=leaves, inner_batch=inner_batch, outer_batch=outer_batch)
        found = METHODS(self.response, self._in_leaves, call)
        followed, event = outer_step(
            self.spaces, self.outer_optimizer, self.guard, found.total, found.outer_loss, state
        )
        # Adjoint and params stay behind: stacked by a scan they would hold two copies of the weights a step.
        found = replace(found, adjoint=None, params=None)
        return {**moved, **followed}, self._natural(followed["hparams"]), loss, found, event

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
