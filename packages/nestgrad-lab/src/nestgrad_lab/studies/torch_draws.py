"""Torch's side of the studies of chapter 3: rows drawn by chance, a weight decay for each weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad_lab.data import Part, load
from nestgrad_lab.errors import DataError
from nestgrad_lab.studies import torch_linear as linear
from nestgrad_lab.studies.torch_linear import Batch


class Rows:
    """A data set, and rows of it on a device."""

    def __init__(self, data: str, device: str) -> None:
        self.found, self._device = load(data), device

    def drawn(self, counts: tuple[int, ...], seed: int) -> list[Batch]:
        """So many of the training and validation rows for each batch, none of them twice; DataError for too few."""
        part, asked = self.found.merged, sum(counts)
        if asked > len(part):
            raise DataError(
                f"{self.found.name}: {asked} rows asked for, limit: {len(part)}, all that do not test. "
                "Remedy: ask for fewer by --set."
            )
        order = np.random.default_rng([seed, 0]).permutation(len(part))[:asked]
        cuts = np.split(order, np.cumsum(counts)[:-1])
        return [self._batch(Part(part.x[rows], part.y[rows]), len(rows)) for rows in cuts]

    def trained(self, count: int) -> Batch:
        """The first training rows."""
        return self._batch(self.found.train, count)

    def tested(self, count: int) -> Batch:
        """The first test rows, at most so many."""
        return self._batch(self.found.test, min(count, len(self.found.test)))

    def _batch(self, part: Part, count: int) -> Batch:
        return linear.rows_of(part, count, self.found.outputs, self._device)


@torch.no_grad()
def accuracy(outputs: Tensor, batch: Batch) -> float:
    """The share of rows whose largest output is that of their class."""
    return float((outputs.argmax(1) == batch[1].argmax(1)).double().mean())


def decayed(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss, and Σ decay · weight² with hparams' decay: one number for all weights, or a tree with one for each."""

    def penalised(w: Mapping[str, Tensor], h: Any, batch: Batch) -> Tensor:
        return loss(w, h, batch) + torch.stack(list(_penalties(w, h["decay"]))).sum()

    return penalised


def _penalties(w: Mapping[str, Tensor], decay: Any) -> Iterator[Tensor]:
    for name, value in w.items():
        own = decay[name] if isinstance(decay, Mapping) else decay
        yield (own * value.square()).sum()


def each_log(weights: Mapping[str, Tensor], log_decay: float) -> dict[str, Any]:
    """Spaces for one decay for each weight, by its logarithm, all starting from the same."""
    return {"decay": {name: ng.Log(torch.full_like(value, log_decay).exp()) for name, value in weights.items()}}
