"""The problems' numbers, in NumPy: the same for every framework, from fixed seeds.

| name | network | inner batch | outer batch | hyperparameters |
|---|---|---|---|---|
| P1 | 8-50-1 ReLU | 614 rows | 153 | one weight decay a weight, 501 |
| P2 | 784-512-512-10 tanh | 512 | 512 | one a weight, 669,706 |
| P3 | residual, convolutions, no batch norm | 64 of 32x32x3 | 64 | one for all 307,306 weights |
| P4 | logistic regression, 500 features, at its minimum | 20,000 | 20,000 | one a weight, 500 |
| P5 | LSTM of 2 layers of 128, 200 words, for tuning only | 20 of 35 words | 20 | one for all 315,720 weights |

The inner loss is the error plus ½ Σ exp(decay) w². The decays are heavy, so that the Hessian is positive definite at
random weights and ten steps of CG agree between float32 and float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Tree = dict[str, Any]
Batch = tuple[Any, Any]
START = {"lr": 1e-2, "momentum": 0.9, "decay": 1e-4}
"""The settings that one-pass tuning starts from."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem: params, log decays, batches (features, targets), all float32 but class labels, which are int64.

    rate: the learning rate of plain steps and of unrolling, and the step size of Neumann's series. product: the FLOP of
    one Hessian-vector product on a stored linearisation, in training steps; outer: of the outer gradient.
    """

    name: str
    params: Tree
    decays: Tree
    inner: Batch
    outer: Batch
    rate: float
    product: float
    outer_cost: float
    network: str


def _normal(rng: np.random.Generator, *shape: int, fan: int | None = None) -> Any:
    values = rng.normal(size=shape)
    return (values if fan is None else values / math.sqrt(fan)).astype(np.float32)


def _per_weight(params: Tree, value: float) -> Tree:
    return {name: np.full_like(param, value) for name, param in params.items()}


def _small_network() -> Problem:
    rng, biases = np.random.default_rng(0), np.random.default_rng(1)  # no bias is 0, where its decay has no effect

    def batch(rows: int) -> Batch:
        x = rng.normal(size=(rows, 8))
        return x.astype(np.float32), np.sin(x).sum(1, keepdims=True).astype(np.float32)

    params = {
        "w1": _normal(rng, 8, 50, fan=8),
        "b1": 0.1 * _normal(biases, 50),
        "w2": _normal(rng, 50, 1, fan=50),
        "b2": 0.1 * _normal(biases, 1),
    }
    inner, outer = batch(614), batch(153)
    return Problem(
        name="P1",
        params=params,
        decays=_per_weight(params, 2.0),
        inner=inner,
        outer=outer,
        rate=0.05,
        product=1.16,
        outer_cost=0.25,
        network="regression",
    )


def _dense_network() -> Problem:
    rng, params = np.random.default_rng(10), {}
    sizes = (784, 512, 512, 10)
    for layer, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False), start=1):
        params[f"w{layer}"] = _normal(rng, fan_in, fan_out, fan=fan_in)
        params[f"b{layer}"] = 0.1 * _normal(rng, fan_out)

    def batch() -> Batch:
        return _normal(rng, 512, 784), rng.integers(10, size=512)

    return Problem(
        name="P2",
        params=params,
        decays=_per_weight(params, 0.0),
        inner=batch(),
        outer=batch(),
        rate=0.1,
        product=1.5,
        outer_cost=1.0,
        network="dense",
    )


def _residual_network() -> Problem:
    """Convolutions as (height, width, in, out), images as (rows, height, width, channels)."""
    rng, params = np.random.default_rng(3), {}
    params["stem"] = _normal(rng, 3, 3, 3, 32, fan=27)
    for block, (fan_in, fan_out) in enumerate([(32, 32), (32, 64), (64, 128)], start=1):
        params[f"first{block}"] = _normal(rng, 3, 3, fan_in, fan_out, fan=9 * fan_in)
        params[f"second{block}"] = _normal(rng, 3, 3, fan_out, fan_out, fan=9 * fan_out)
        if fan_in != fan_out:
            params[f"skip{block}"] = _normal(rng, 1, 1, fan_in, fan_out, fan=fan_in)
    params["w"], params["b"] = _normal(rng, 128, 10, fan=128), 0.1 * _normal(rng, 10)

    def batch() -> Batch:
        return _normal(rng, 64, 32, 32, 3), rng.integers(10, size=64)

    return Problem(
        name="P3",
        params=params,
        decays={"all": np.float32(1.5)},
        inner=batch(),
        outer=batch(),
        rate=0.1,
        product=1.99,
        outer_cost=1.0,
        network="residual",
    )


def _logistic_regression() -> Problem:
    rng, rows, features = np.random.default_rng(4), 20_000, 500
    scales = np.logspace(0.5, -1.0, features)  # so that the curvatures differ and CG takes all its steps
    truth = rng.normal(size=features)

    def batch() -> Batch:
        x = rng.normal(size=(rows, features)) * scales
        noise = rng.logistic(size=rows)
        return x.astype(np.float32), (x @ truth / 5.0 + noise > 0.0).astype(np.float32)

    inner, outer, decays = batch(), batch(), np.full(features, -6.0)
    params = {"w": _minimum(*inner, np.exp(decays)).astype(np.float32)}
    return Problem(
        name="P4",
        params=params,
        decays={"w": decays.astype(np.float32)},
        inner=inner,
        outer=outer,
        rate=0.5,
        product=1.0,
        outer_cost=1.0,
        network="logistic",
    )


def _recurrent_network() -> Problem:
    """Gates as columns, in the order input, forget, cell, output; words as whole numbers, each predicting the next."""
    rng, words, units = np.random.default_rng(5), 200, 128
    params: Tree = {"words": 0.1 * _normal(rng, words, units)}
    for layer in (1, 2):
        params[f"in{layer}"] = _normal(rng, units, 4 * units, fan=units)
        params[f"back{layer}"] = _normal(rng, units, 4 * units, fan=units)
        params[f"bias{layer}"] = 0.1 * _normal(rng, 4 * units)
    params["w"], params["b"] = _normal(rng, units, words, fan=units), 0.1 * _normal(rng, words)

    def batch() -> Batch:
        text = rng.integers(words, size=(20, 36))
        return text[:, :-1], text[:, 1:]

    return Problem(
        name="P5",
        params=params,
        decays={"all": np.float32(0.0)},
        inner=batch(),
        outer=batch(),
        rate=0.1,
        product=2.0,
        outer_cost=1.0,
        network="recurrent",
    )


def _minimum(x: Any, y: Any, decays: Any) -> Any:
    """The minimiser of the mean logistic loss plus ½ Σ decay w², by Newton's steps in float64."""
    x, w = x.astype(np.float64), np.zeros(x.shape[1])
    for _ in range(12):
        chance = 1.0 / (1.0 + np.exp(-(x @ w)))
        slope = x.T @ (chance - y) / len(y) + decays * w
        curvature = (x.T * (chance * (1.0 - chance))) @ x / len(y) + np.diag(decays)
        w -= np.linalg.solve(curvature, slope)
    return w


_MADE: dict[str, Callable[[], Problem]] = {
    "P1": _small_network,
    "P2": _dense_network,
    "P3": _residual_network,
    "P4": _logistic_regression,
    "P5": _recurrent_network,
}
PROBLEMS, TUNED = ("P1", "P2", "P3", "P4"), ("P1", "P2", "P3", "P5")
"""Those that the four operations are timed on, and those that tuned training is."""


@functools.cache
def problem(name: str) -> Problem:
    """The problem of this name, made once a process; its trees are in order of name, as jax keeps them."""
    made = _MADE[name]()
    return replace(made, params=dict(sorted(made.params.items())), decays=dict(sorted(made.decays.items())))
