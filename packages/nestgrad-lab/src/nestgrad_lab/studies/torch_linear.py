"""Torch's side of the studies on images: rows, networks of linear layers, losses, training without tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nestgrad_lab.data import Dataset, Part, load
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.errors import DataError

Batch = tuple[Tensor, Tensor]
Weights = dict[str, Tensor]


def rows_of(part: Part, count: int, classes: int, device: str) -> Batch:
    """(x of shape (n, d), one-hot targets of shape (n, classes)) of the first rows, float32; DataError for too few."""
    if count > len(part):
        raise DataError(f"{count} rows asked for, limit: {len(part)}, all there are. Remedy: ask for fewer by --set.")
    where = device_named(device)
    x = torch.tensor(part.x[:count], dtype=torch.float32, device=where)
    labels = torch.tensor(part.y[:count], dtype=torch.int64, device=where)
    return x, torch.nn.functional.one_hot(labels, classes).to(x.dtype)


def load_rows(data: str, device: str, train: int, valid: int, test: int = 0) -> tuple[Dataset, list[Batch]]:
    """The data set, and so many rows of its three parts."""
    found = load(data)
    parts = zip((found.train, found.valid, found.test), (train, valid, test), strict=True)
    return found, [rows_of(part, count, found.outputs, device) for part, count in parts]


def initial_weights(sizes: tuple[int, ...], scale: float, seed: int, device: str) -> Weights:
    """w1, b1, w2, ... of linear layers of these sizes, all normal of this standard deviation."""
    generator = torch.Generator("cpu").manual_seed(seed)
    found: Weights = {}
    for k, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True), start=1):
        found[f"w{k}"] = scale * torch.randn(inputs, outputs, generator=generator, device="cpu")
        found[f"b{k}"] = scale * torch.randn(outputs, generator=generator, device="cpu")
    return {name: value.to(device_named(device)) for name, value in found.items()}


def outputs_of(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The last layer's outputs; ReLU between layers."""
    layers = len(w) // 2
    for k in range(1, layers + 1):
        x = x @ w[f"w{k}"] + w[f"b{k}"]
        x = x.relu() if k < layers else x
    return x


def squared_error(w: Mapping[str, Tensor], h: Any, batch: Batch) -> Tensor:
    """The mean over rows of the squared distance from the one-hot target."""
    return (outputs_of(w, batch[0]) - batch[1]).square().sum(1).mean()


def cross_entropy(w: Mapping[str, Tensor], h: Any, batch: Batch) -> Tensor:
    """The mean over rows of -log p of the right class."""
    return -(outputs_of(w, batch[0]).log_softmax(1) * batch[1]).sum(1).mean()


def squared_norm(w: Mapping[str, Tensor]) -> Tensor:
    """‖w‖² of all weights."""
    return torch.stack([value.square().sum() for value in w.values()]).sum()


def cut(batch: Batch, rows: int, step: int) -> Batch:
    """The step's mini-batch: so many rows, one window after the other, from the start again at the end."""
    count = len(batch[0])
    if rows >= count:
        return batch
    first = step * rows % (count - count % rows)
    return batch[0][first : first + rows], batch[1][first : first + rows]


def trained(
    loss: Callable[[Weights, Batch], Tensor],
    weights: Weights,
    batches: Callable[[int], Batch],
    *,
    rate: float,
    steps: int,
    tick: Callable[[int], None] = lambda step: None,
) -> Weights:
    """The weights after so many steps of Adam; batches: the step's batch. loss: of stacked weights, the sum of all."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        loss(leaves, batches(step)).backward()
        optimizer.step()
        tick(step)
    return {name: leaf.detach() for name, leaf in leaves.items()}
