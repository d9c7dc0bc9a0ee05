"""The losses of self-tuning at perturbed hyperparameters: a draw for each row of a batch, or one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import BilevelProblem, GatedResponse, InvalidInput, Loss, Objective, PredictionLoss
from nestgrad_jax._gated_params import GatedParams
from nestgrad_jax._responses import as_tree, as_vector, responded_at
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import named_leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbed:
    """Means of losses over draws of hyperparameters, rows (R, h) of what is added to the leaves.

    examples: a draw for each row of a batch; else each draw is for the whole batch. natural: leaves to natural values.
    """

    problem: BilevelProblem
    response: GatedResponse
    objective: Objective
    examples: bool
    natural: Callable[[Any], Any]

    def fitted(self, weights: Any, leaves: Any, away: Array, batch: Any) -> tuple[Array, Array]:
        """(what φ follows, the inner loss to report), of leaves and draws that are held."""
        inner: Any = self.problem.inner
        loss = scalar_loss(inner.loss, "inner loss")
        if self.objective == "sampled":
            value = self.mean(loss, weights, as_vector(leaves)[None] + away, leaves, away, batch)
            return value, value
        general = self._general(loss, weights, leaves, batch, away.shape[0])
        held = {**weights, "bias": lax.stop_gradient(weights["bias"])}
        mean = self._linear if self.objective == "linearised" else self._centred
        return general + mean(loss, held, leaves, away, batch), general

    def outer(self, weights: Any, by_code: Any, by_value: Any, away: Array, batch: Any) -> Array:
        """The mean of the outer loss at leaves that act as the code and leaves that act as values."""
        code = as_vector(by_code)
        if self.objective != "sampled":
            code = code - lax.stop_gradient(code)
        loss = scalar_loss(self.problem.outer_loss, "outer_loss")
        return self.mean(loss, weights, code[None] + away, by_value, away, batch)

    def inner(self, weights: Any, leaves: Any, away: Array, batch: Any) -> Array:
        """The mean of the inner loss at the code 0: a function of the leaves as values alone."""
        inner: Any = self.problem.inner
        return self.mean(scalar_loss(inner.loss, "inner loss"), weights, jnp.zeros_like(away), leaves, away, batch)

    def mean(self, loss: Loss, weights: Any, codes: Array, leaves: Any, away: Array, batch: Any) -> Array:
        """1/R Σ loss(w_φ(c), natural(λ + d)), or one loss of all rows."""
        if self.examples:
            return loss(_rows(self.response, weights, codes), self._values(leaves, away), batch)

        def at(code: Array, draw: Array) -> Array:
            return loss(responded_at(self.response, weights, code), self._values(leaves, draw), batch)

        return jax.vmap(at)(codes, away).mean()

    def _centred(self, loss: Loss, weights: Any, leaves: Any, away: Array, batch: Any) -> Array:
        return self.mean(loss, weights, away, leaves, away, batch)

    def _linear(self, _: Loss, weights: Any, leaves: Any, away: Array, batch: Any) -> Array:
        """The mean of losses of the prediction at the code 0 and its derivative along the draw."""
        both = cast("PredictionLoss", cast("Any", self.problem.inner).loss)
        loss = scalar_loss(both.loss, "inner loss")

        def at(draw: Array) -> Array:
            values = self._values(leaves, draw)

            def predict(code: Array) -> Any:
                seen = _rows if self.examples else responded_at
                return both.predict(seen(self.response, weights, code), values, batch)

            there, slope = jax.jvp(predict, (jnp.zeros_like(draw),), (draw,))
            return loss(jax.tree.map(_ahead, there, slope), values, batch)

        return at(away) if self.examples else jax.vmap(at)(away).mean()

    def _general(self, loss: Loss, weights: Any, leaves: Any, batch: Any, rows: int) -> Array:
        """The inner loss at the code 0 and the leaves as they are: of bias alone."""
        if not self.examples:
            return loss(weights["bias"], self.natural(leaves), batch)
        view = GatedParams(self.response, weights, None, rows).seen()
        same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), leaves)
        return loss(view, self.natural(same), batch)

    def _values(self, leaves: Any, away: Array) -> Any:
        """Natural values of the leaves with this added, (h,) or (R, h); of the latter each has a first axis R."""
        if away.ndim == 1:
            return self.natural(jax.tree.map(jnp.add, leaves, as_tree(away, leaves)))
        parts = jax.vmap(lambda row: as_tree(row, leaves))(away)
        return self.natural(jax.tree.map(lambda leaf, part: leaf[None] + part, leaves, parts))


def _rows(response: GatedResponse, weights: Any, codes: Array) -> Any:
    """What losses get for params where each row has a code."""
    return GatedParams(response, weights, codes).seen()


def _ahead(there: Array, slope: Any) -> Array:
    """One part of a prediction, moved; of what is not floating, as it is."""
    return there + slope if jnp.issubdtype(there.dtype, jnp.inexact) else there


def rows_of(title: str, batch: Any) -> int:
    """The rows of a batch, the first axis of all its arrays; InvalidInput where they differ or there is none."""
    shapes = {name: jnp.shape(leaf) for name, leaf in named_leaves(title, batch)}
    counts = {shape[0] for shape in shapes.values() if shape}
    if len(counts) == 1 and all(shapes.values()):
        return counts.pop()
    said = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items()) or f"no arrays in {title}"
    raise InvalidInput(
        f"SelfTuning.step: {said}, limit: one first axis, of the batch's rows, for samples='examples'. "
        "Remedy: give all arrays of the batch that axis, or pass samples=1."
    )
