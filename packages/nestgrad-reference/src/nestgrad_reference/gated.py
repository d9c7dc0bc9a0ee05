"""Layers whose weights answer to hyperparameters row by row: a row's own weights made whole, a plain layer on it.

A layer is a mapping of arrays, or a view of one by GatedParams; rows are the first axis of what it is given. Weights
lie as in torch: linear (out, in), conv2d (out, in/groups, height, width), lstm_cell (4 hidden, in), in the order input,
forget, cell, output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nestgrad import GatedResponse, InvalidInput
from nestgrad_reference._gates import gated_weights
from nestgrad_reference._responses import require_fitting
from nestgrad_reference._tree import xp


class GatedParams:
    """w_φ(c) for a code c (h,) of each row: codes (rows, h), phi the weights of a GatedResponse.

    params["fc1"] is the view of a subtree, params["fc1"]["weight"] a leaf's values row by row, (rows, *shape).
    path: of the subtree that this is a view of.
    """

    def __init__(self, response: GatedResponse, phi: Any, codes: Any, *, path: tuple[Any, ...] = ()) -> None:
        if np.ndim(codes) != len(("rows", "h")):
            raise InvalidInput(
                f"GatedParams: codes of shape {np.shape(codes)}, limit: (rows, h). Remedy: one row for each example."
            )
        if not path:
            require_fitting(response, phi, np.shape(codes)[1])
        self.response, self.phi, self.codes, self.path = response, phi, codes, path

    @property
    def general(self) -> Any:
        """φ's bias, the weights without their response, or the subtree of it that this is a view of."""
        return self._within("bias")

    def __getitem__(self, key: Any) -> Any:
        below = self._within("bias")
        there = key in below if isinstance(below, Mapping) else isinstance(key, int) and -1 < key < len(below)
        if not there:
            raise InvalidInput(f"params[{self._title(key)!r}]: not there, limit: {_keys(below)}. Remedy: name one.")
        view = GatedParams(self.response, self.phi, self.codes, path=(*self.path, key))
        return view if isinstance(below[key], (Mapping, list, tuple)) else xp.stack(view.rows())

    def __contains__(self, key: Any) -> bool:
        return key in self._within("bias")

    def __len__(self) -> int:
        """How many codes there are."""
        return np.shape(self.codes)[0]

    def rows(self) -> list[Any]:
        """The weights of each row in full, trees like the part of params that this is a view of."""
        made: list[Any] = []
        for code in self.codes:
            whole = gated_weights(self.response, self.phi, code)
            for key in self.path:
                whole = whole[key]
            made.append(whole)
        return made

    def axis(self, name: str) -> int:
        """The axis of a leaf's gates."""
        return self.response.axis_of(self._title(name), np.shape(self.general[name]))

    def _title(self, key: Any) -> str:
        return "/".join(map(str, [*self.path, key]))

    def _within(self, part: str) -> Any:
        found = self.phi[part]
        for key in self.path:
            found = found[key]
        return found


def linear(layer: Any, x: Any) -> Any:
    """x weightᵀ + bias: (rows, ..., in) -> (rows, ..., out)."""
    return _by_rows(_linear, layer, {"weight": 2}, {"bias": 1}, x)


def conv2d(
    layer: Any,
    x: Any,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Any:
    """The cross-correlation of images (rows, channels, height, width) with the kernel, zeros around them, plus bias."""

    def convolved(weights: Any, images: Any) -> Any:
        return _conv2d(weights, images, _pair(stride), _pair(padding), _pair(dilation), groups)

    return _by_rows(convolved, layer, {"weight": 4}, {"bias": 1}, x)


def embedding(layer: Any, indices: Any) -> Any:
    """Rows of the weight (num, dim): indices (rows, ...) -> (rows, ..., dim). Gated along dim."""
    return _by_rows(lambda weights, at: weights["weight"][at], layer, {"weight": 2}, {}, indices, axis=1)


def lstm_cell(layer: Any, x: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
    """(hidden, cell) after x (rows, in), both (rows, hidden)."""
    ranks = {"weight_ih": 2, "weight_hh": 2, "bias": 1}
    return _by_rows(_lstm_cell, layer, ranks, {}, x, *state)


def _by_rows(
    plain: Callable[..., Any], layer: Any, ranks: dict[str, int], optional: dict[str, int], *given: Any, axis: int = 0
) -> Any:
    """The plain layer, on all rows at once, or on each with weights of its own."""
    _require_layer(layer, ranks, optional, axis)
    if not isinstance(layer, GatedParams):
        return plain(layer, *given)
    for array in given:
        if np.shape(array)[:1] != (len(layer),):
            raise InvalidInput(
                f"gated layer: an input of shape {np.shape(array)}, limit: first axis {len(layer)}, as there are rows "
                "of codes. Remedy: put the rows first."
            )
    found = [plain(weights, *(array[i : i + 1] for array in given)) for i, weights in enumerate(layer.rows())]
    if isinstance(found[0], tuple):
        return tuple(xp.concatenate(parts) for parts in zip(*found, strict=True))
    return xp.concatenate(found)


def _require_layer(layer: Any, ranks: dict[str, int], optional: dict[str, int], axis: int) -> None:
    gated = isinstance(layer, GatedParams)
    there = layer.general if gated else layer
    if not isinstance(there, Mapping):
        raise InvalidInput(
            f"layer: got {type(there).__name__}, limit: a mapping of arrays. Remedy: pass params['name'] of the layer."
        )
    for name, rank in {**ranks, **optional}.items():
        if name not in there:
            if name in optional:
                continue
            raise InvalidInput(f"layer[{name!r}]: not there, limit: {_keys(there)}. Remedy: name the leaf {name!r}.")
        if np.ndim(there[name]) != rank:
            raise InvalidInput(
                f"layer[{name!r}]: shape {np.shape(there[name])}, limit: {rank} axes. Remedy: reshape it."
            )
        if gated and layer.axis(name) != min(axis, rank - 1):
            raise InvalidInput(
                f"layer[{name!r}]: gates along axis {layer.axis(name)}, limit: axis {axis}, its outputs. "
                f"Remedy: GatedResponse(axes=((path, {axis}),))."
            )


def _linear(weights: Any, x: Any) -> Any:
    y = xp.dot(x, weights["weight"].T)
    return y + weights["bias"] if "bias" in weights else y


def _conv2d(weights: Any, images: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    kernel = weights["weight"]
    outputs, channels, *sizes = np.shape(kernel)
    if np.ndim(images) != np.ndim(kernel) or np.shape(images)[1] != channels * groups or outputs % groups:
        raise InvalidInput(
            f"conv2d: images {np.shape(images)}, kernel {np.shape(kernel)}, groups {groups}, limit: (rows, "
            f"{channels * groups}, height, width), and outputs that groups divides. Remedy: see the shapes in torch."
        )
    wide = xp.pad(images, [(0, 0), (0, 0), *((p, p) for p in padding)], mode="constant")
    at: list[Any] = []
    for size, whole, step, apart in zip(sizes, np.shape(wide)[2:], stride, dilation, strict=True):
        starts = np.arange(0, whole - apart * (size - 1), step)
        at.append(starts[:, None] + apart * np.arange(size))
    patches = wide[:, :, at[0][:, None, :, None], at[1][None, :, None, :]]  # rows, channels, height, width, kernel
    each = outputs // groups
    parts = [
        xp.einsum(
            "nchwab,ocab->nohw",
            patches[:, g * channels : (g + 1) * channels],
            kernel[g * each : (g + 1) * each],
        )
        for g in range(groups)
    ]
    y = xp.concatenate(parts, axis=1)
    return y + xp.reshape(weights["bias"], (1, -1, 1, 1)) if "bias" in weights else y


def _lstm_cell(weights: Any, x: Any, hidden: Any, cell: Any) -> tuple[Any, Any]:
    made = xp.dot(x, weights["weight_ih"].T) + xp.dot(hidden, weights["weight_hh"].T) + weights["bias"]
    enter, keep, new, out = (made[:, k * np.shape(hidden)[1] : (k + 1) * np.shape(hidden)[1]] for k in range(4))
    cell = _sigmoid(keep) * cell + _sigmoid(enter) * xp.tanh(new)
    return _sigmoid(out) * xp.tanh(cell), cell


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1.0 + xp.tanh(0.5 * x))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _keys(values: Any) -> str:
    return ", ".join(map(repr, values)) if isinstance(values, Mapping) else f"0 to {len(values) - 1}"
