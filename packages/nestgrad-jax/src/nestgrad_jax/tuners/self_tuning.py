"""Self-tuning in JAX."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import sigmoid, softplus

from nestgrad import (
    BilevelProblem,
    GatedResponse,
    Guard,
    InvalidInput,
    Objective,
    OnePassInfo,
    SelfTuningState,
    check_self_tuning,
    moves_outer,
    ordered_leaves,
    shared_columns,
    softplus_inverse,
)
from nestgrad_jax._connected import reached, require_connected
from nestgrad_jax._gated_response import gated_values
from nestgrad_jax._responses import as_tree, as_vector, require_shapes, respond
from nestgrad_jax._rules._common import stats_of, truncated
from nestgrad_jax._tree import check_matching, moved_by, tree_norms
from nestgrad_jax.tuners._by_response import ByResponse, Phase, Work
from nestgrad_jax.tuners._outer_step import outer_step
from nestgrad_jax.tuners._perturbed import Perturbed, rows_of

_GATED = GatedResponse()
_FAR = 40.0
_PAIR = 2


class SelfTuning(ByResponse):
    """Train a gated response on perturbed hyperparameters, and tune them and the perturbation's size through it.

    nestgrad._tuners.self_tuning defines each step and every argument. problem: its inner problem is a Minimize.
    hparams: a tree of spaces; the response takes their leaves, the losses natural values. optimizer, for the response,
    and outer_optimizer, for {"hparams": leaves, "scales": ς}: any optax transformations, as optax.adam(1e-4). scale:
    the perturbation's standard deviation at first, in the leaves' units. guard: see Guard. throw: raise NonFinite when
    a hypergradient is not finite and there is no guard; under a user's own jit its status says so.
    (MacKay et al. 2019; Bae and Grosse 2020.)

    `step` is pure and jitted, and may be the body of a lax.scan.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        optimizer: Any,
        outer_optimizer: Any,
        response: GatedResponse = _GATED,
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
        check_self_tuning(
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
        self.objective, self.samples, self.scale, self.entropy = objective, samples, scale, entropy
        self.every, self.warmup_steps, self.shared = every, warmup_steps, shared
        self._losses = Perturbed(
            problem=problem,
            response=response,
            objective=objective,
            examples=samples == "examples",
            natural=self._natural,
        )

    def __repr__(self) -> str:
        return f"SelfTuning({self.response}, {self.objective!r}, samples={self.samples!r}, every={self.every})"

    def init(self, params: Any, *, key: int) -> SelfTuningState:
        """The state before the first step, whose response's bias is params.

        params: a pytree of floating arrays, copied. key: from 0 to 2³² - 1, the seed of the response and of all noise.
        """
        begun, params = self._start(params, key)
        entries = as_vector(begun["hparams"])
        scales = jnp.full(entries.shape, softplus_inverse(self.scale), entries.dtype)
        moved = {"hparams": begun["hparams"], "scales": scales}
        return cast("SelfTuningState", self._begun({**begun, "scales": scales}, params, moved))

    def step(
        self, state: SelfTuningState, inner_batch: Any, outer_batch: Any, *, noise: Any = None
    ) -> tuple[SelfTuningState, OnePassInfo]:
        """A step of the response and, where one is due, of hparams and scales; the state passed in is not changed.

        noise: a pair, for the inner and for the outer batch, each standard normal, a column an entry of λ and a row a
        sample or a row of that batch; what is None is drawn from the state's seed and step.
        """
        return self._step(state, inner_batch, outer_batch, _as_pair(noise, jax.tree.leaves(state["hparams"])[0].dtype))

    def scales(self, state: SelfTuningState) -> Any:
        """The perturbation's standard deviations, softplus(ς), a tree like the leaves and in their units."""
        return _scales(state["scales"], state["hparams"])

    def response_params(self, state: SelfTuningState) -> Any:
        """What the response gives at the hyperparameters as they are: a tree like the params of `init`."""
        if self.objective == "sampled":
            return respond(self.response, state["params"], state["hparams"])
        return state["params"]["bias"]

    def response_weights(self, state: SelfTuningState) -> Any:
        """φ as `respond` and `hypergradient(method=tuner.response)` take it, whose code is λ itself."""
        if self.objective == "sampled":
            return state["params"]
        return _uncentred(self.response, state["params"], state["hparams"])

    def _phase(self, count: int) -> Phase:
        return Phase(fits=True, tunes=moves_outer(count, self.every, self.warmup_steps))

    def _choice(self, step: Array) -> tuple[Array | bool, Phase, Phase]:
        both, first = Phase(fits=True, tunes=True), Phase(fits=True, tunes=False)
        if self.every == 1 and not self.warmup_steps:
            return True, both, first
        past = step + 1 - self.warmup_steps
        return (past > 0) & (past % self.every == 0), both, first

    def _work(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Any, phase: Phase) -> Work:
        weights, leaves, scales = state["params"], state["hparams"], state["scales"]
        check_matching(weights, hparams=leaves, scales=scales, inner_batch=inner_batch, outer_batch=outer_batch)
        require_shapes(self.response, weights, scales.size)
        inner_noise, outer_noise = noise or (None, None)
        inner_key, outer_key = jax.random.split(jax.random.fold_in(jax.random.key(state["seed"]), state["step"]))
        away = softplus(scales)[None] * self._draws("inner_batch", inner_batch, inner_noise, inner_key, leaves)
        (_, loss), slopes = jax.value_and_grad(self._losses.fitted, has_aux=True)(weights, leaves, away, inner_batch)
        moves, opt_state = self.optimizer.update(slopes, state["opt_state"], weights)
        weights = moved_by(weights, moves)
        moved = {"step": state["step"] + 1, "opt_state": opt_state, "params": weights}
        if not phase.tunes:
            return Work(moved, self._natural(leaves), loss)
        draws = self._draws("outer_batch", outer_batch, outer_noise, outer_key, leaves)
        value, pull = jax.vjp(
            lambda code, values, ends: self._losses.outer(
                weights, code, values, softplus(ends)[None] * draws, outer_batch
            ),
            leaves,
            leaves,
            scales,
        )
        _require_connected(leaves, value, pull, lambda values: self._losses.inner(weights, values, away, inner_batch))
        indirect, direct, slope = pull(jnp.ones_like(value))
        size, steepness = tree_norms(weights["bias"], slopes["bias"])
        stats = stats_of(weights["bias"], indirect, params_norm=size, inner_optimality=steepness)
        found = truncated(direct=direct, indirect=indirect, outer_loss=value, stats=stats)
        besides = {"scales": self._with_entropy(slope, scales)}
        followed, event = outer_step(self.spaces, self.outer_optimizer, self.guard, found.total, value, state, besides)
        if self.entropy is None:
            followed["scales"] = scales  # which an optimizer with weight decay would move
        return Work({**moved, **followed}, self._natural(followed["hparams"]), loss, found, event)

    def _with_entropy(self, slope: Array, scales: Array) -> Array:
        """The gradient in ς, the entropy's part with it; zero where there is no entropy."""
        if self.entropy is None:
            return jnp.zeros_like(slope)
        # Its derivative sigmoid / softplus is 1 to the last bit from there on, where both may underflow.
        near = jnp.maximum(scales, -_FAR)
        return slope - self.entropy * sigmoid(near) / softplus(near)

    def _draws(self, title: str, batch: Any, noise: Array | None, key: Array, leaves: Any) -> Array:
        """Standard normal rows, (R, h); of leaves that are shared all rows have the first one's."""
        by_row = self.samples == "examples"
        entries = as_vector(leaves)
        shape = (rows_of(title, batch) if by_row else cast("int", self.samples), entries.size)
        if noise is None:
            noise = jax.random.normal(key, shape, entries.dtype)
        elif noise.shape != shape:
            raise InvalidInput(
                f"SelfTuning.step: noise of shape {noise.shape} for {title}, limit: {shape}, "
                f"{'rows of the batch' if by_row else 'samples'} by hyperparameter entries. "
                "Remedy: leave it out, or draw it in this shape."
            )
        if not (by_row and self.shared):
            return noise
        sizes = [sum(leaf.size for leaf in jax.tree.leaves(entry)) for entry in ordered_leaves(leaves)]
        shared = np.repeat(shared_columns(leaves, self.shared), sizes)
        return jnp.where(shared[None], noise[:1], noise)


def _require_connected(leaves: Any, value: Array, pull: Any, inner: Callable[[Any], Array]) -> None:
    """Raise DisconnectedHyperparameter for a leaf whose natural value no loss depends on."""
    loss, back = jax.vjp(inner, leaves)
    first = reached(lambda x: pull(x)[1], jnp.ones_like(value))
    second = reached(lambda x: back(x)[0], jnp.ones_like(loss))
    require_connected(leaves, first, second)


def _as_pair(noise: Any, dtype: Any) -> tuple[Array | None, Array | None] | None:
    """The noise in the leaves' dtype; InvalidInput unless it is a pair."""
    if noise is None:
        return None
    if not isinstance(noise, (list, tuple)) or len(noise) != _PAIR:
        got = f"{len(noise)} entries" if isinstance(noise, (list, tuple)) else type(noise).__name__
        raise InvalidInput(
            f"SelfTuning.step: noise of {got}, limit: a pair, for the inner and for the outer batch. "
            "Remedy: noise=(inner rows, outer rows), or leave it out."
        )
    inner, outer = (None if rows is None else jnp.asarray(rows, dtype) for rows in noise)
    return inner, outer


@jax.jit
def _scales(scales: Array, leaves: Any) -> Any:
    return as_tree(softplus(scales), leaves)


@functools.partial(jax.jit, static_argnames="response")
def _uncentred(response: GatedResponse, weights: Any, leaves: Any) -> Any:
    """φ with bias - (gates λ̂) ⊙ weight in the place of bias."""
    away = {**weights, "weight": jax.tree.map(jnp.negative, weights["weight"])}
    return {**weights, "bias": gated_values(response, away, as_vector(leaves))}
