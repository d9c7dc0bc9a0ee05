"""Layers that take plain params or gated ones, and give the same where all rows have one code.

A layer of weights w_φ(c) = (bias + g ⊙ weight), with a code for each row, is two plain layers on the batch, the outputs
of the second gated row by row: never a weight a row. A gated layer is a view, params["fc1"] of the `GatedParams` that
losses get; a plain one is a mapping of arrays with the same keys. Weights are laid out as torch has them.
(MacKay et al. 2019, sec. 3.2.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import InvalidInput
from nestgrad_jax._gated_params import GatedParams

__all__ = ["GatedParams", "conv2d", "embedding", "linear", "lstm_cell"]

Pair = int | tuple[int, int]


def linear(layer: Any, x: Array) -> Array:
    """x Wᵀ + b: (B, ..., in) to (B, ..., out). layer: {"weight": (out, in), "bias": (out,) or left out}."""
    return _linear("linear", layer, "weight", "bias" if _has("linear", layer, "bias") else None, x)


def conv2d(layer: Any, x: Array, *, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1, groups: int = 1) -> Array:
    """The cross-correlation of x, (B, in, height, width), with a kernel, each output channel gated.

    layer: {"weight": (out, in / groups, kh, kw), "bias": (out,) or left out}. padding is of zeros, on both sides.
    """
    weight = _part("conv2d", layer, "weight", 4)
    bias = _part("conv2d", layer, "bias", 1) if _has("conv2d", layer, "bias") else None
    _require_input("conv2d", x, 4, 1, weight.general.shape[1] * groups)
    down, right = _pair(padding)

    def convolved(kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            _pair(stride),
            ((down, down), (right, right)),
            rhs_dilation=_pair(dilation),
            feature_group_count=groups,
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
        )

    return _gated("conv2d", weight, bias, convolved, x, channels=1)


def embedding(layer: Any, indices: Array) -> Array:
    """Rows of a table: indices (B, ...) of any integer kind to (B, ..., dim). layer: {"weight": (num, dim)}.

    Gated along dim, so that a GatedResponse must name that axis: axes=(("words/weight", 1),). An index beyond the table
    gives NaN.
    """
    weight = _part("embedding", layer, "weight", 2, axis=1)
    if not jnp.issubdtype(indices.dtype, jnp.integer) or not indices.ndim:
        raise InvalidInput(
            f"embedding: indices of shape {indices.shape} of {indices.dtype}, limit: (B, ...) of integers. "
            "Remedy: .astype(int)."
        )
    return _gated("embedding", weight, None, lambda table: jnp.take(table, indices, axis=0), indices, channels=-1)


def lstm_cell(layer: Any, x: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
    """One step: x (B, in) and (hidden, cell), each (B, H), to the next (hidden, cell).

    layer: {"weight_ih": (4H, in), "weight_hh": (4H, H), "bias": (4H,)}, the gates in the order input, forget, cell,
    output.
    """
    hidden, cell = state
    sums = _linear("lstm_cell", layer, "weight_ih", "bias", x) + _linear("lstm_cell", layer, "weight_hh", None, hidden)
    if sums.shape != (*cell.shape[:-1], 4 * cell.shape[-1]):
        raise InvalidInput(
            f"lstm_cell: gates of shape {sums.shape} for a cell of shape {cell.shape}, limit: four for each of its "
            "numbers. Remedy: weight_ih (4H, in), weight_hh (4H, H), x (B, in), hidden and cell (B, H)."
        )
    inward, forget, new, outward = jnp.split(sums, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(inward) * jnp.tanh(new)
    return jax.nn.sigmoid(outward) * jnp.tanh(cell), cell


class _Part(NamedTuple):
    """An array of a layer: W₀, and of a gated one W₁ and a number for each row and output."""

    general: Array
    response: Array | None = None
    gates: Array | None = None


def _linear(caller: str, layer: Any, weight_name: str, bias_name: str | None, x: Array) -> Array:
    weight = _part(caller, layer, weight_name, 2)
    bias = None if bias_name is None else _part(caller, layer, bias_name, 1)
    _require_input(caller, x, None, -1, weight.general.shape[1])
    return _gated(caller, weight, bias, lambda matrix: jnp.matmul(x, matrix.T), x, channels=-1)


def _gated(
    caller: str, weight: _Part, bias: _Part | None, layer: Callable[[Array], Array], x: Array, *, channels: int
) -> Array:
    """layer(W₀) + b₀ + (Uc) ⊙ layer(W₁) + (Vc) ⊙ b₁."""
    y = layer(weight.general)

    def beside(numbers: Array) -> Array:
        """(rows or 1, outputs), laid along the result's rows and channels."""
        shape = [1] * y.ndim
        shape[0], shape[channels] = numbers.shape
        return numbers.reshape(shape)

    if weight.gates is not None and weight.response is not None:
        if weight.gates.shape[0] != y.shape[0]:
            raise InvalidInput(
                f"{caller}: input of shape {x.shape}, limit: {weight.gates.shape[0]} rows, as the codes of the gated "
                "params have. Remedy: keep the batch's rows on the first axis."
            )
        y = y + beside(weight.gates) * layer(weight.response)
    if bias is None:
        return y
    shift = bias.general[None]
    if bias.gates is not None and bias.response is not None:
        shift = shift + bias.gates * bias.response[None]
    return y + beside(shift)


def _part(caller: str, layer: Any, name: str, rank: int, *, axis: int = 0) -> _Part:
    """An array of the layer, with its gates; InvalidInput where it is missing, of another rank, or gated otherwise."""
    if not _has(caller, layer, name):
        raise InvalidInput(f"{caller}: no {name!r} in the layer, limit: 1. Remedy: pass a layer with this key.")
    view = layer.child(name) if isinstance(layer, GatedParams) else None
    array = layer[name] if view is None else view.general
    where = repr(name) if view is None else f"params[{view.path!r}]"
    if not hasattr(array, "ndim") or array.ndim != rank:
        found = f"shape {array.shape}" if hasattr(array, "shape") else type(array).__name__
        raise InvalidInput(f"{caller}: {where} of {found}, limit: {rank} axes. Remedy: lay it out as torch does.")
    if view is None:
        return _Part(array)
    if view.axis != axis:
        raise InvalidInput(
            f"{caller}: {where} is gated along axis {view.axis}, limit: {axis}, that of its outputs. "
            f"Remedy: GatedResponse(axes=(({view.path!r}, {axis}),))."
        )
    return _Part(*view.parts())


def _has(caller: str, layer: Any, name: str) -> bool:
    if not isinstance(layer, (Mapping, GatedParams)):
        raise InvalidInput(
            f"{caller}: layer is {type(layer).__name__}, limit: a mapping of arrays, or that part of gated params. "
            'Remedy: pass params["fc1"].'
        )
    return name in layer


def _require_input(caller: str, x: Array, rank: int | None, axis: int, size: int) -> None:
    fits = x.ndim == rank if rank else x.ndim > 1
    if not fits or x.shape[axis] != size:
        raise InvalidInput(
            f"{caller}: input of shape {x.shape}, limit: {rank or 'at least 2'} axes, rows first, with {size} entries "
            f"on axis {axis}. Remedy: reshape it, or the layer's weights."
        )


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
