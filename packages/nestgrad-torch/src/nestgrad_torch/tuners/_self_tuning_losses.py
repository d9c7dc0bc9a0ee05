"""The losses that self-tuning takes derivatives of, at weights and hyperparameters that may differ row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import GatedResponse, Objective, PredictionLoss, tree
from nestgrad_torch._derivatives import scalar_loss
from nestgrad_torch._responses import joined, parted, responses
from nestgrad_torch._second_order import require_twice_differentiable
from nestgrad_torch.gated import viewed


@dataclass(frozen=True, slots=True)
class Fit:
    """What a tuner's losses have in common. natural: leaves -> values; by_rows: each row of a batch has a draw."""

    response: GatedResponse
    objective: Objective
    by_rows: bool
    natural: Callable[[Any], Any]

    @property
    def centred(self) -> bool:
        """Whether gates are fed the perturbation alone."""
        return self.objective != "sampled"

    def values(self, points: Any) -> list[Any]:
        """Natural values for each call of a loss; points: a tree of leaves with one more, first axis, of the draws."""
        if self.by_rows:
            return [self.natural(points)]
        rows = zip(*(leaf.unbind(0) for leaf in tree.leaves(points)), strict=True)
        return [self.natural(tree.unflatten(points, row)) for row in rows]

    def params(self, weights: Any, codes: Tensor) -> list[Any]:
        """w_φ(c) for each call of a loss; codes: (draws, h)."""
        if self.by_rows:
            return [viewed(self.response, weights, codes, rows=len(codes))]
        return responses(self.response, weights, codes)

    def mean(self, loss: Any, level: str, params: list[Any], values: list[Any], batch: Any) -> Tensor:
        """The mean loss over its calls, at params or, for the loss of a prediction, at predictions."""
        rows = zip(params, values, strict=True)
        losses = [scalar_loss(loss, level, at, settings, batch) for at, settings in rows]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def inner(self, loss: Any, weights: Any, hparams: Any, rows: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """(what φ's step is taken on, the loss to report); hparams: λ̂, a tree; rows: the perturbations, (draws, h)."""
        values = self.values(around(hparams, rows))
        if not self.centred:
            params = self.params(weights, joined(hparams) + rows)
            found = self.mean(loss, "inner loss", params, values, batch)
            return found, found
        general = self._general(loss, weights, hparams, len(rows), batch)
        moving = {**weights, "bias": tree.map(torch.detach, weights["bias"])}
        if self.objective == "centred":
            return general + self.mean(loss, "inner loss", self.params(moving, rows), values, batch), general
        return general + self._linearised(loss, moving, rows, values, batch), general

    def _general(self, loss: Any, weights: Any, hparams: Any, draws: int, batch: Any) -> Tensor:
        """L_in(w_φ(0), λ̂)."""
        if not self.by_rows:
            return scalar_loss(loss, "inner loss", weights["bias"], self.natural(hparams), batch)
        params = viewed(self.response, weights, None, rows=draws)
        alike = tree.map(lambda leaf: leaf.expand(draws, *leaf.shape), hparams)
        return scalar_loss(loss, "inner loss", params, self.natural(alike), batch)

    def _linearised(self, loss: PredictionLoss, weights: Any, rows: Tensor, values: list[Any], batch: Any) -> Tensor:
        """The mean loss of f(0) + ∂f/∂c · rows, f(c) the predictions at w_φ(c).

        By reverse mode twice, which prunes what does not depend on c: forward mode takes 1.5 to 4 times as long here,
        and softmax has none that can be differentiated after.
        """
        codes = torch.zeros_like(rows).requires_grad_()
        cases = zip(self.params(weights, codes), values, strict=True)
        found = [loss.predict(params, settings, batch) for params, settings in cases]
        return self.mean(loss.loss, "inner loss", _along(found, codes, rows), values, batch)


def _along(found: list[Any], codes: Tensor, rows: Tensor) -> list[Any]:
    """Each prediction at c = 0, plus its derivative along the rows.

    f(0) depends on no weight of the response part, as the gates are 0 there, so that it goes in as a constant.
    """
    leaves = tree.leaves(found)
    moving = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    duals = [torch.zeros_like(leaf).requires_grad_() for leaf in moving]
    if not moving:
        return found
    (pulled,) = torch.autograd.grad(moving, codes, duals, create_graph=True, allow_unused=True)
    if pulled is None or not pulled.requires_grad:
        return found
    require_twice_differentiable(pulled, None)
    slopes = torch.autograd.grad(pulled, duals, rows, create_graph=True, allow_unused=True)
    by_leaf = {id(leaf): slope for leaf, slope in zip(moving, slopes, strict=True) if slope is not None}
    lines = [leaf.detach() + by_leaf[id(leaf)] if id(leaf) in by_leaf else leaf for leaf in leaves]
    return tree.unflatten(found, lines)


def around(hparams: Any, rows: Tensor) -> Any:
    """λ̂ + rows, a tree like hparams with one more, first axis."""
    return tree.map(torch.add, hparams, parted(rows, hparams))
