"""The mean of a loss over draws of the hyperparameters, each with weights of its own: for a batch, or row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import autograd
import numpy as np

from nestgrad import GatedResponse, InvalidInput, PredictionLoss, map_spaces, tree
from nestgrad_reference._checks import scalar_loss
from nestgrad_reference._gates import gated_weights
from nestgrad_reference._space_ops import OPS
from nestgrad_reference._tree import concatenate, xp
from nestgrad_reference.gated import GatedParams


@dataclass(frozen=True)
class Draws:
    """Draws for a whole batch each, or, by_rows, for a row each: the batch is cut into its rows.

    Codes c are (draws, h), leaves a tree of λ' for each draw; autograd differentiates all in φ, c and λ'.
    """

    response: GatedResponse
    spaces: Any
    by_rows: bool

    def mean(self, loss: Callable[..., Any], level: str, phi: Any, codes: Any, leaves: list[Any], batch: Any) -> Any:
        """1/n Σ loss(w_φ(c), natural(λ'), batch)."""
        checked = scalar_loss(loss, level)
        parts = [
            checked(self._weights(phi, codes[i]), self._values(leaves[i]), self._of(batch, i))
            for i in range(len(leaves))
        ]
        return sum(parts) / len(parts)

    def linear_mean(self, loss: PredictionLoss, phi: Any, codes: Any, leaves: list[Any], batch: Any) -> Any:
        """As `mean`, each prediction replaced by f(0) + J c, J the dense Jacobian of f(c) = predict(w_φ(c), …) at 0."""

        def one(i: int) -> Any:
            values, part, origin = self._values(leaves[i]), self._of(batch, i), np.zeros(np.shape(codes)[1])

            def prediction(code: Any) -> Any:
                return loss.predict(self._weights(phi, code), values, part)

            at_origin = prediction(origin)
            slopes = autograd.jacobian(lambda code: concatenate(prediction(code)))(origin)  # pyright: ignore[reportCallIssue]
            moved = concatenate(at_origin) + xp.dot(slopes, codes[i])
            return scalar_loss(loss.loss, "inner loss")(_like(at_origin, moved), values, part)

        parts = [one(i) for i in range(len(leaves))]
        return sum(parts) / len(parts)

    def rows(self, batch: Any) -> int:
        """How many there are in a batch; InvalidInput where its arrays do not agree."""
        shapes = {name: np.shape(leaf) for name, leaf in tree.named_leaves(batch).items()}
        counts = {shape[:1] for shape in shapes.values()}
        if len(counts) != 1 or () in counts:
            raise InvalidInput(
                f"SelfTuning: a batch of arrays {shapes or 'of none'}, limit: one first axis, of the rows. "
                "Remedy: put the rows first, or pass samples=1."
            )
        return counts.pop()[0]

    def _weights(self, phi: Any, code: Any) -> Any:
        if self.by_rows:
            return GatedParams(self.response, phi, xp.reshape(code, (1, -1)))
        return gated_weights(self.response, phi, code)

    def _values(self, leaves: Any) -> Any:
        """Natural values, with a first axis of one row where draws are rows."""
        if self.by_rows:
            leaves = tree.map(lambda leaf: xp.reshape(leaf, (1, *np.shape(leaf))), leaves)
        return map_spaces(lambda space, leaf: space.natural(leaf, OPS), self.spaces, leaves)

    def _of(self, batch: Any, i: int) -> Any:
        return tree.map(lambda array: array[i : i + 1], batch) if self.by_rows else batch


def _like(values: Any, flat: Any) -> Any:
    """A flat vector shaped like a tree."""
    begun, parts = 0, list[Any]()
    for leaf in tree.leaves(values):
        parts.append(xp.reshape(flat[begun : begun + np.size(leaf)], np.shape(leaf)))
        begun += np.size(leaf)
    return tree.unflatten(values, parts)
