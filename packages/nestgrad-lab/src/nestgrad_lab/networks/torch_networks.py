"""The networks in PyTorch: plain functions of a tree of weights, which can be batched and differentiated twice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nestgrad_lab.data.dataset import Task
from nestgrad_lab.engines.torch_engine import model_loss
from nestgrad_lab.networks.network import CHANNELS, Lstm, Network, ResNet18, chunks

Params = dict[str, Tensor]


def loss_of(network: Network, task: Task) -> Callable[[Params, Any, dict[str, Tensor]], Tensor]:
    """(weights, hyperparameters, batch) to the mean loss: of an image, of a word, or as `model_loss` has it."""
    if isinstance(network, (Lstm, ResNet18)):
        return functools.partial(_cross_entropy, network)
    return functools.partial(model_loss, task)


def scores(network: Lstm | ResNet18, params: Params, x: Tensor) -> Tensor:
    """Scores of the classes, the last axis."""
    return lstm(network, params, x) if isinstance(network, Lstm) else resnet18(network, params, x)


def lstm(network: Lstm, params: Params, words: Tensor) -> Tensor:
    """(n, window) word numbers to (n, window, words), gate by gate: the fused kernels have no second derivative.

    (Hochreiter and Schmidhuber 1997, with forget gates; biases and order of the gates are torch.nn.LSTM's.)
    """
    seen = functional.embedding(words, params["embedding.weight"])
    for layer in range(network.layers):
        names = (f"lstm.{name}_l{layer}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        from_input, from_state, bias, other = (params[name] for name in names)
        given = functional.linear(seen, from_input, bias + other)
        state = cell = torch.zeros_like(given[:, 0, : network.hidden])
        states: list[Tensor] = []
        for step in range(network.window):
            gates = given[:, step] + state @ from_state.T
            write, keep, candidate, read = gates.chunk(4, dim=1)
            cell = keep.sigmoid() * cell + write.sigmoid() * candidate.tanh()
            state = read.sigmoid() * cell.tanh()
            states.append(state)
        seen = torch.stack(states, dim=1)
    return functional.linear(seen, params["decoder.weight"], params["decoder.bias"])


def resnet18(network: ResNet18, params: Params, x: Tensor) -> Tensor:
    """(n, 3 · side²) to (n, outputs); see ResNet18."""
    images = x.view(-1, CHANNELS, network.side, network.side)
    stem = _normalised(params, "bn1", functional.conv2d(images, params["conv1.weight"], stride=2, padding=3))
    seen = functional.max_pool2d(stem.relu(), 3, stride=2, padding=1)
    for name, before, after, stride in network.blocks:
        inner = functional.conv2d(seen, params[f"{name}.conv1.weight"], stride=stride, padding=1)
        inner = _normalised(params, f"{name}.bn1", inner).relu()
        inner = functional.conv2d(inner, params[f"{name}.conv2.weight"], padding=1)
        if before != after:
            seen = functional.conv2d(seen, params[f"{name}.downsample.0.weight"], stride=stride)
            seen = _normalised(params, f"{name}.downsample.1", seen)
        seen = (_normalised(params, f"{name}.bn2", inner) + seen).relu()
    return functional.linear(seen.mean((2, 3)), params["fc.weight"], params["fc.bias"])


def judged(network: Network, task: Task, stacked: Params, batch: dict[str, Tensor]) -> Tensor:
    """The mean loss on a batch of any size, (runs,); weights have a leading axis of runs."""
    loss = loss_of(network, task)
    return _over_chunks(network, lambda params, part: loss(params, None, part), stacked, batch)


def accuracy(network: Lstm | ResNet18, stacked: Params, batch: dict[str, Tensor]) -> Tensor:
    """The share of classes, or of words, that have the highest score, (runs,)."""

    def right(params: Params, part: dict[str, Tensor]) -> Tensor:
        found = scores(network, params, part["x"])
        return (found.argmax(-1) == part["y"]).to(found.dtype).mean()

    return _over_chunks(network, right, stacked, batch)


def _over_chunks(network: Network, measure: Any, stacked: Params, batch: dict[str, Tensor]) -> Tensor:
    """The mean of a measure over the rows, a chunk after the other."""
    rows, each = len(batch["x"]), torch.func.vmap(measure, in_dims=(0, None))
    with torch.no_grad():
        parts = chunks(rows, network.judged_rows)
        if len(parts) == 1:
            return each(stacked, batch)
        found = [
            each(stacked, {name: values[part] for name, values in batch.items()}) * ((part.stop - part.start) / rows)
            for part in parts
        ]
        return torch.stack(found).sum(0)


def _cross_entropy(network: Lstm | ResNet18, params: Params, hparams: Any, batch: dict[str, Tensor]) -> Tensor:
    found = scores(network, params, batch["x"])
    return functional.cross_entropy(found.flatten(0, -2), batch["y"].flatten())


def _normalised(params: Params, name: str, x: Tensor) -> Tensor:
    """Each channel by the mean and the variance of the batch, then scaled and shifted: Ioffe and Szegedy 2015."""
    return functional.batch_norm(x, None, None, params[f"{name}.weight"], params[f"{name}.bias"], training=True)
