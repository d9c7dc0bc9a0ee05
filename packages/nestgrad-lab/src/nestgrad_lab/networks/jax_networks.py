"""The networks in JAX; see torch_networks, whose numbers these are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array as JaxArray
from jax import lax

from nestgrad_lab.data.dataset import Task
from nestgrad_lab.engines.jax_engine import model_loss
from nestgrad_lab.networks.network import CHANNELS, Lstm, Network, ResNet18, chunks

Params = dict[str, JaxArray]
EPSILON = 1e-5
"""Added to the variances of batch normalisation, as in torch."""


def loss_of(network: Network, task: Task) -> Callable[[Params, Any, dict[str, JaxArray]], JaxArray]:
    """(weights, hyperparameters, batch) to the mean loss: of an image, of a word, or as `model_loss` has it."""
    if isinstance(network, (Lstm, ResNet18)):
        return functools.partial(_cross_entropy, network)
    return functools.partial(model_loss, task)


def scores(network: Lstm | ResNet18, params: Params, x: JaxArray) -> JaxArray:
    """Scores of the classes, the last axis."""
    return lstm(network, params, x) if isinstance(network, Lstm) else resnet18(network, params, x)


def lstm(network: Lstm, params: Params, words: JaxArray) -> JaxArray:
    """(n, window) word numbers to (n, window, words)."""
    seen = params["embedding.weight"][words].swapaxes(0, 1)
    for layer in range(network.layers):
        names = (f"lstm.{name}_l{layer}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        from_input, from_state, bias, other = (params[name] for name in names)

        def step(carry: Any, given: JaxArray, from_state: JaxArray = from_state) -> tuple[Any, JaxArray]:
            state, cell = carry
            write, keep, candidate, read = jnp.split(given + state @ from_state.T, 4, axis=1)
            cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(write) * jnp.tanh(candidate)
            state = jax.nn.sigmoid(read) * jnp.tanh(cell)
            return (state, cell), state

        given = seen @ from_input.T + bias + other
        nothing = jnp.zeros_like(given[0, :, : network.hidden])
        _, seen = lax.scan(step, (nothing, nothing), given)
    return seen.swapaxes(0, 1) @ params["decoder.weight"].T + params["decoder.bias"]


def resnet18(network: ResNet18, params: Params, x: JaxArray) -> JaxArray:
    """(n, 3 · side²) to (n, outputs); see ResNet18."""
    images = x.reshape(-1, CHANNELS, network.side, network.side)
    seen = jax.nn.relu(_normalised(params, "bn1", _convolved(images, params["conv1.weight"], 2, 3)))
    edges = ((0, 0), (0, 0), (1, 1), (1, 1))
    seen = lax.reduce_window(seen, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), edges)
    for name, before, after, stride in network.blocks:
        inner = _normalised(params, f"{name}.bn1", _convolved(seen, params[f"{name}.conv1.weight"], stride, 1))
        inner = _convolved(jax.nn.relu(inner), params[f"{name}.conv2.weight"], 1, 1)
        if before != after:
            seen = _convolved(seen, params[f"{name}.downsample.0.weight"], stride, 0)
            seen = _normalised(params, f"{name}.downsample.1", seen)
        seen = jax.nn.relu(_normalised(params, f"{name}.bn2", inner) + seen)
    return seen.mean((2, 3)) @ params["fc.weight"].T + params["fc.bias"]


def judged(network: Network, task: Task, stacked: Params, batch: dict[str, JaxArray]) -> JaxArray:
    """The mean loss on a batch of any size, (runs,); weights have a leading axis of runs."""
    return _over_chunks(_loss_of_runs(network, task), network, stacked, batch)


def accuracy(network: Lstm | ResNet18, stacked: Params, batch: dict[str, JaxArray]) -> JaxArray:
    """The share of classes, or of words, that have the highest score, (runs,)."""

    def right(params: Params, part: dict[str, JaxArray]) -> JaxArray:
        found = scores(network, params, part["x"])
        return (found.argmax(-1) == part["y"]).astype(found.dtype).mean()

    return _over_chunks(jax.jit(jax.vmap(right, in_axes=(0, None))), network, stacked, batch)


@functools.lru_cache(maxsize=8)
def _loss_of_runs(network: Network, task: Task) -> Any:
    """Compiled once for all looks."""
    loss = loss_of(network, task)
    return jax.jit(jax.vmap(lambda params, part: loss(params, None, part), in_axes=(0, None)))


def _over_chunks(each: Any, network: Network, stacked: Params, batch: dict[str, JaxArray]) -> JaxArray:
    """The mean of a measure over the rows, a chunk after the other."""
    rows = len(batch["x"])
    parts = chunks(rows, network.judged_rows)
    if len(parts) == 1:
        return each(stacked, batch)
    found = [
        each(stacked, {name: values[part] for name, values in batch.items()}) * ((part.stop - part.start) / rows)
        for part in parts
    ]
    return jnp.stack(found).sum(0)


def _cross_entropy(network: Lstm | ResNet18, params: Params, hparams: Any, batch: dict[str, JaxArray]) -> JaxArray:
    found = scores(network, params, batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(found, batch["y"]).mean()


def _convolved(x: JaxArray, weight: JaxArray, stride: int, padding: int) -> JaxArray:
    edges = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, weight, (stride, stride), edges)


def _normalised(params: Params, name: str, x: JaxArray) -> JaxArray:
    """Each channel by the mean and the variance of the batch, then scaled and shifted: Ioffe and Szegedy 2015."""
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    scale, shift = (params[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias"))
    return (x - mean) * lax.rsqrt(variance + EPSILON) * scale + shift
