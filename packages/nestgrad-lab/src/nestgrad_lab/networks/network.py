"""The sizes of a network, and its weights drawn in NumPy by the frameworks' defaults, alike for any backend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nestgrad_lab.data import Dataset
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.errors import OptionError
from nestgrad_lab.models import Weights, draw_weights

SIZES: dict[str, dict[str, int]] = {
    "mlp": {"hidden": 50},
    "lstm": {"hidden": 650, "layers": 2},
    "resnet-18": {"width": 64},
}
"""The networks by name, and the sizes that each has, those of Clarke et al. 2022 (table 2) unless told otherwise."""
CHANNELS = 3
JUDGED_IMAGES = 500
"""So many images, at most, are judged at once."""
JUDGED_NUMBERS = 10_000_000
"""So many predicted numbers, at most, does a language model judge at once."""


class Network(Protocol):
    """What an experiment needs to know of a network."""

    def draw(self, dtype: str, seed: Sequence[int]) -> Weights:
        """Its weights, a function of the seed."""
        ...

    @property
    def judged_rows(self) -> int | None:
        """So many rows, at most, are judged at once; None for all."""
        ...


@dataclass(frozen=True)
class Mlp:
    """One hidden ReLU layer: rows (n, inputs) to (n, outputs)."""

    inputs: int
    hidden: int
    outputs: int
    judged_rows: int | None = None

    def draw(self, dtype: str, seed: Sequence[int]) -> Weights:
        return draw_weights(self.inputs, self.hidden, self.outputs, dtype, seed)


@dataclass(frozen=True)
class Lstm:
    """A language model, words (n, window) to scores of the word after each, (n, window, words).

    An embedding, `layers` LSTM layers of as many units, and a decoder of its own; no dropout. The hidden state is zero
    at the first word of every window. Names and shapes are those of torch.nn.Embedding, LSTM and Linear.
    """

    words: int
    window: int
    hidden: int
    layers: int

    @property
    def judged_rows(self) -> int:
        return max(1, JUDGED_NUMBERS // (self.window * self.words))

    def draw(self, dtype: str, seed: Sequence[int]) -> Weights:
        """Embedding N(0, 1); all the rest uniform in ±1/√hidden."""
        rng, bound = np.random.default_rng(seed), 1.0 / np.sqrt(self.hidden)
        found: Weights = {"embedding.weight": rng.standard_normal((self.words, self.hidden)).astype(dtype)}
        gates = 4 * self.hidden
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.layers):
            shapes |= {f"lstm.weight_{kind}_l{layer}": (gates, self.hidden) for kind in ("ih", "hh")}
            shapes |= {f"lstm.bias_{kind}_l{layer}": (gates,) for kind in ("ih", "hh")}
        shapes |= {"decoder.weight": (self.words, self.hidden), "decoder.bias": (self.words,)}
        return found | {name: rng.uniform(-bound, bound, shape).astype(dtype) for name, shape in shapes.items()}


@dataclass(frozen=True)
class ResNet18:
    """Images (n, 3 · side²), their channels one after the other, to (n, outputs).

    The 18 layers of He et al. 2016 with the stem for ImageNet, 7 × 7 with stride 2 and a pooling by 3 with stride 2,
    and width, 2, 4 and 8 · width channels. Batch normalisation is by the mean and variance of the batch at hand, in
    training and where the network is judged: there are no running averages. Names and shapes are torchvision's.
    """

    side: int
    width: int
    outputs: int
    judged_rows: int = JUDGED_IMAGES

    @property
    def blocks(self) -> Iterator[tuple[str, int, int, int]]:
        """(name, channels before, channels after, stride) of the eight blocks."""
        before = self.width
        for stage in range(4):
            after = self.width * 2**stage
            for block in range(2):
                yield f"layer{stage + 1}.{block}", before, after, 2 if stage and not block else 1
                before = after

    def draw(self, dtype: str, seed: Sequence[int]) -> Weights:
        """Convolutions N(0, 2/(channels after · kernel²)), scales 1, shifts 0; the last layer uniform in ±1/√inputs."""
        rng, found = np.random.default_rng(seed), dict[str, Array]()

        def add(convolution: str, normal: str, before: int, after: int, kernel: int) -> None:
            deviation = math.sqrt(2.0 / (after * kernel**2))
            found[f"{convolution}.weight"] = deviation * rng.standard_normal((after, before, kernel, kernel))
            found[f"{normal}.weight"], found[f"{normal}.bias"] = np.ones(after), np.zeros(after)

        add("conv1", "bn1", CHANNELS, self.width, 7)
        for name, before, after, _ in self.blocks:
            add(f"{name}.conv1", f"{name}.bn1", before, after, 3)
            add(f"{name}.conv2", f"{name}.bn2", after, after, 3)
            if before != after:
                add(f"{name}.downsample.0", f"{name}.downsample.1", before, after, 1)
        inputs = 8 * self.width
        bound = 1.0 / math.sqrt(inputs)
        found["fc.weight"] = rng.uniform(-bound, bound, (self.outputs, inputs))
        found["fc.bias"] = rng.uniform(-bound, bound, self.outputs)
        return {name: value.astype(dtype) for name, value in found.items()}


def network_for(name: str, sizes: Mapping[str, int], data: Dataset) -> Network:
    """The network of this name for a data set; OptionError where its rows are not what the network reads."""
    if (name == "lstm") != data.words:
        what = "text" if data.words else "rows of numbers"
        raise OptionError(
            f"network {name!r}: {data.name} is {what}, limit: {'text for lstm' if name == 'lstm' else 'numbers'}. "
            f"Remedy: {'network lstm' if data.words else 'data wikitext-2, or another network'}."
        )
    if name == "mlp":
        return Mlp(len(data.features), sizes["hidden"], data.outputs)
    if name == "lstm":
        return Lstm(data.outputs, len(data.features), sizes["hidden"], sizes["layers"])
    side = math.isqrt(len(data.features) // CHANNELS)
    if CHANNELS * side**2 != len(data.features) or data.task != "classification":
        raise OptionError(
            f"network {name!r}: {data.name} has {len(data.features)} inputs and is for {data.task}, limit: square "
            f"images of {CHANNELS} channels, in classes. Remedy: data cifar-10, or network mlp."
        )
    return ResNet18(side, sizes["width"], data.outputs)


def chunks(rows: int, most: int | None) -> list[slice]:
    """The fewest stretches of at most so many rows, of equal length to within one; None: a single one."""
    count = 1 if most is None else -(-rows // most)
    ends = [rows * k // count for k in range(count + 1)]
    return [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]
