"""A network that augments images, a small one that classifies them, and their first weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nestgrad_lab.data.dataset import Array

Tree = dict[str, Tensor]
SLOPE = 0.1


def augment(u: Tree, images: Tensor, noise: Tensor) -> Tensor:
    """x̄ = x + U(x, noise): images (n, channels, side, side), noise (n, 1, side, side)."""
    seen = torch.cat([images, noise], 1)
    for name in ("first", "second"):
        seen = functional.conv2d(seen, u[f"{name}.weight"], u[f"{name}.bias"], padding=1)
        seen = functional.leaky_relu(seen, SLOPE)
    return images + functional.conv2d(seen, u["last.weight"], u["last.bias"])


def convolutions(w: Tree, images: Tensor) -> Tensor:
    """Scores (n, classes) of three convolutions, each followed by ReLU and a pooling by 2, and a linear layer."""
    for name in ("conv1", "conv2", "conv3"):
        images = functional.conv2d(images, w[f"{name}.weight"], w[f"{name}.bias"], padding=1).relu()
        images = functional.max_pool2d(images, 2)
    return functional.linear(images.flatten(1), w["last.weight"], w["last.bias"])


def distance_less_spread(images: Tensor, made: Tensor) -> Tensor:
    """mean |x̄ - x| - the mean deviation of x̄ over samples: made (samples, n, ...)."""
    return (made - images).abs().mean() - made.std(0).mean()


def uniform_weights(shapes: dict[str, tuple[int, ...]], seed: list[int], gain: float) -> dict[str, Array]:
    """For layers of these weights' shapes: weights uniform in ± gain/√inputs, biases 0."""
    rng, found = np.random.default_rng(seed), dict[str, Array]()
    for name, shape in shapes.items():
        bound = gain / math.prod(shape[1:]) ** 0.5
        found[f"{name}.weight"] = rng.uniform(-bound, bound, shape)
        found[f"{name}.bias"] = np.zeros(shape[0])
    return found
