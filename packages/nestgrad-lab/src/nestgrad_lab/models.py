"""The model of every run, one hidden ReLU layer: its weights are drawn and judged in NumPy, alike for any backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nestgrad_lab.data import Dataset, Part
from nestgrad_lab.data.dataset import Array, Task

Weights = dict[str, Array]
"""hidden.weight (hidden, d), hidden.bias (hidden,), output.weight (outputs, hidden), output.bias (outputs,)."""


def draw_weights(inputs: int, hidden: int, outputs: int, dtype: str, seed: Sequence[int]) -> Weights:
    """Weights and biases uniform in ±1/√(inputs of the layer), the default of torch's linear layers."""
    rng = np.random.default_rng(seed)
    found: Weights = {}
    for layer, before, after in (("hidden", inputs, hidden), ("output", hidden, outputs)):
        bound = 1.0 / np.sqrt(before)
        found[f"{layer}.weight"] = rng.uniform(-bound, bound, (after, before)).astype(dtype)
        found[f"{layer}.bias"] = rng.uniform(-bound, bound, after).astype(dtype)
    return found


def predict(weights: Mapping[str, Array], x: Array) -> Array:
    """W₂ · max(W₁x + b₁, 0) + b₂ in float64: (n, d) to (n, outputs)."""
    wide = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    hidden = np.maximum(x @ wide["hidden.weight"].T + wide["hidden.bias"], 0.0)
    return hidden @ wide["output.weight"].T + wide["output.bias"]


def mean_loss(task: Task, predicted: Array, y: Array) -> float:
    """Mean squared error, or mean cross entropy of class numbers y."""
    with np.errstate(all="ignore"):  # diverged weights give NaN or infinity, which is the answer
        if task == "regression":
            return float(np.mean((predicted - y) ** 2))
        shifted = predicted - predicted.max(axis=1, keepdims=True)
        chosen = shifted[np.arange(len(y)), y]
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - chosen))


def validation_loss(data: Dataset, weights: Mapping[str, Array], rows: Array | None = None) -> float:
    """The loss, in normalised units, on these validation rows, or on all of them."""
    part = data.valid if rows is None else Part(data.valid.x[rows], data.valid.y[rows])
    return mean_loss(data.task, _predicted(weights, part), part.y)


def test_score(data: Dataset, weights: Mapping[str, Array]) -> float:
    """Accuracy on the test rows, or their mean squared error in the target's own units."""
    predicted = _predicted(weights, data.test)
    if data.task == "classification":
        return float(np.mean(predicted.argmax(axis=1) == data.test.y))
    return mean_loss("regression", predicted, data.test.y) * data.y_scale**2


def score_name(task: Task) -> str:
    """What test_score is called."""
    return "test accuracy" if task == "classification" else "test mean squared error"


def _predicted(weights: Mapping[str, Array], part: Part) -> Array:
    with np.errstate(all="ignore"):
        return predict(weights, part.x)
