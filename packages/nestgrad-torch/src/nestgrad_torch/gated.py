"""Layers of gated weights: each row of a batch has weights of its own, for the price of two plain layers.

A layer is a mapping of tensors in torch's layout, or a `GatedParams`, the view of such a mapping that the losses of
SelfTuning get with samples="examples". With codes c, one a row, a linear layer gives row by row

    y = W₀x + b₀ + (Uc) ⊙ (W₁x) + (Vc) ⊙ b₁,

W₀, b₀ being φ's bias, W₁, b₁ its weight and U, V its gates. (MacKay et al. 2019, sec. 3.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nestgrad import GatedResponse, InvalidInput
from nestgrad_torch._gated_response import gated
from nestgrad_torch._responses import require_weights

__all__ = ["GatedParams", "conv2d", "embedding", "linear", "lstm_cell"]

Layer = Mapping[str, Any]


class GatedParams(Mapping[Any, Any]):
    """φ at one code a row: params["fc1"] is the view of a subtree, params["fc1"]["weight"] its values (rows, *shape).

    general: the tree of φ's bias, for what is no row's own, as a penalty. codes: (rows, h).
    """

    def __init__(self, response: GatedResponse, weights: Mapping[str, Any], codes: Tensor) -> None:
        if codes.dim() != len(("rows", "h")):
            raise InvalidInput(
                f"GatedParams: codes of shape {tuple(codes.shape)}, limit: (rows, h). Remedy: one row for each example."
            )
        require_weights(response, weights, codes.shape[1])
        self._hold(response, weights, codes, len(codes), "")

    def _hold(self, response: GatedResponse, weights: Any, codes: Tensor | None, rows: int, path: str) -> None:
        self._response, self._weights, self._codes, self._rows, self._path = response, weights, codes, rows, path
        self.general: Any = weights["bias"]

    def __repr__(self) -> str:
        return f"GatedParams of {self._rows} rows: {', '.join(map(str, self))}"

    def __iter__(self) -> Iterator[Any]:
        return iter(self.general if isinstance(self.general, Mapping) else range(len(self.general)))

    def __len__(self) -> int:
        return len(self.general)

    def __contains__(self, key: object) -> bool:
        return key in (self.general if isinstance(self.general, Mapping) else range(len(self.general)))

    def __getitem__(self, key: Any) -> Any:
        if key not in self:
            raise _missing(self._path, key, self)
        below = {name: part[key] for name, part in self._weights.items()}
        path = f"{self._path}/{key}" if self._path else str(key)
        return viewed(self._response, below, self._codes, rows=self._rows, path=path)

    def parts(self, key: Any) -> _Parts:
        """One leaf as layers take it."""
        if key not in self:
            raise _missing(self._path, key, self)
        bias, weight, gates = (self._weights[name][key] for name in ("bias", "weight", "gates"))
        path = f"{self._path}/{key}" if self._path else str(key)
        if not isinstance(bias, Tensor):
            return _Parts(path, bias)
        axis = self._response.axis_of(path, tuple(bias.shape))
        if self._codes is None:
            return _Parts(path, bias, axis=axis, rows=self._rows)
        return _Parts(path, bias, weight, self._codes @ gates.T, axis, self._rows)


def viewed(response: GatedResponse, weights: Any, codes: Tensor | None, *, rows: int, path: str = "") -> Any:
    """A GatedParams, unchecked; for φ of a single leaf, its values row by row. No codes stand for zeros."""
    bias = weights["bias"]
    if not isinstance(bias, Tensor):
        view = object.__new__(GatedParams)
        view._hold(response, weights, codes, rows, path)
        return view
    if codes is None:
        return bias.expand(rows, *bias.shape)
    return gated(response, path, bias, weights["weight"], weights["gates"], codes)


@dataclass(frozen=True, slots=True)
class _Parts:
    """One leaf of a layer: W₀, and where its rows differ W₁ and the gates (rows, outputs)."""

    path: str
    bias: Any
    weight: Tensor | None = None
    gate: Tensor | None = None
    axis: int | None = None
    rows: int | None = None


def linear(layer: Layer, x: Tensor) -> Tensor:
    """y = W x + b. layer: {"weight": (out, in), "bias": (out,)}, bias optional; x: (rows, ..., in)."""
    return _linear(layer, "weight", "bias", x)


def conv2d(layer: Layer, x: Tensor, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Tensor:
    """A convolution. layer: {"weight": (out, in / groups, height, width), "bias": (out,)}; x: (rows, in, H, W)."""
    weight, bias = _required(layer, "conv2d", "weight", 4), _leaf(layer, "conv2d", "bias", 1)
    _require_inputs("conv2d", weight, x, -3, weight.bias.shape[1] * groups)

    def apply(kernel: Tensor, offset: Tensor | None) -> Tensor:
        return functional.conv2d(x, kernel, offset, stride, padding, dilation, groups)

    return _affine(weight, bias, apply, lambda gate: gate[:, :, None, None])


def embedding(layer: Layer, indices: Tensor) -> Tensor:
    """Rows of a table. layer: {"weight": (words, dim)}, gated along dim; indices: (rows, ...)."""
    weight = _required(layer, "embedding", "weight", 2, axis=1)
    _require_rows("embedding", weight, indices)
    return _affine(weight, None, lambda table, _: functional.embedding(indices, table), _beside(indices.dim() + 1))


def lstm_cell(layer: Layer, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(hidden, cell) after one step from (hidden, cell), (rows, H) each; x: (rows, in).

    layer: {"weight_ih": (4H, in), "weight_hh": (4H, H), "bias": (4H,)}, the gates in the order i, f, g, o.
    """
    hidden, cell = state
    _required(layer, "lstm_cell", "bias", 1)
    moved = _linear(layer, "weight_ih", "bias", x, "lstm_cell") + _linear(layer, "weight_hh", None, hidden, "lstm_cell")
    i, f, g, o = moved.chunk(4, dim=-1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _linear(layer: Layer, key: str, bias_key: str | None, x: Tensor, title: str = "linear") -> Tensor:
    weight = _required(layer, title, key, 2)
    bias = None if bias_key is None else _leaf(layer, title, bias_key, 1)
    _require_inputs(title, weight, x, -1, weight.bias.shape[1])
    return _affine(weight, bias, lambda kernel, offset: functional.linear(x, kernel, offset), _beside(x.dim()))


def _affine(
    weight: _Parts,
    bias: _Parts | None,
    apply: Callable[[Tensor, Tensor | None], Tensor],
    beside: Callable[[Tensor], Tensor],
) -> Tensor:
    """apply(W₀, b₀) + (Uc) ⊙ apply(W₁, None) + (Vc) ⊙ b₁; beside: lays (rows, outputs) beside the result."""
    general = apply(weight.bias, None if bias is None else bias.bias)
    if weight.gate is None or weight.weight is None:
        return general
    moved = torch.addcmul(general, beside(weight.gate), apply(weight.weight, None))
    if bias is None or bias.gate is None or bias.weight is None:
        return moved
    return moved + beside(bias.gate * bias.weight)


def _beside(rank: int) -> Callable[[Tensor], Tensor]:
    """(rows, outputs) -> (rows, 1, ..., outputs) of so many axes."""
    return lambda gate: gate.reshape((len(gate), *[1] * (rank - 2), -1))


def _required(layer: Layer, title: str, key: str, rank: int, *, axis: int = 0) -> _Parts:
    found = _leaf(layer, title, key, rank, axis=axis)
    if found is None:
        raise _missing(title, key, layer)
    return found


def _leaf(layer: Layer, title: str, key: str, rank: int, *, axis: int = 0) -> _Parts | None:
    """The layer's leaf, checked; None where there is none."""
    if not isinstance(layer, Mapping):
        raise InvalidInput(
            f"gated.{title}: got a {type(layer).__name__}, limit: a mapping of tensors, or a GatedParams of one. "
            f'Remedy: pass {{"{key}": tensor}}.'
        )
    if key not in layer:
        return None
    found = layer.parts(key) if isinstance(layer, GatedParams) else _Parts(key, layer[key])
    shape = tuple(found.bias.shape) if isinstance(found.bias, Tensor) else type(found.bias).__name__
    if not isinstance(shape, tuple) or len(shape) != rank:
        raise InvalidInput(
            f"gated.{title}: {found.path!r} is {shape}, limit: a tensor of {rank} axes. Remedy: hold it in torch's "
            "layout."
        )
    if found.axis not in {None, axis}:
        raise InvalidInput(
            f"gated.{title}: {found.path!r} is gated along axis {found.axis}, limit: {axis}, that of its outputs. "
            f"Remedy: GatedResponse(axes=(({found.path!r}, {axis}),))."
        )
    return found


def _require_inputs(title: str, weight: _Parts, x: Tensor, axis: int, inputs: int) -> None:
    if x.dim() < max(2, -axis) or x.shape[axis] != inputs:
        raise InvalidInput(
            f"gated.{title}: x of shape {tuple(x.shape)}, limit: axis {axis} of size {inputs} behind the rows, as "
            f"{weight.path!r} is {tuple(weight.bias.shape)}. Remedy: look at the layer before it."
        )
    _require_rows(title, weight, x)


def _require_rows(title: str, weight: _Parts, x: Tensor) -> None:
    if weight.rows is not None and (not x.dim() or len(x) != weight.rows):
        raise InvalidInput(
            f"gated.{title}: x of shape {tuple(x.shape)}, limit: {weight.rows} rows in its first axis, as there are "
            "codes. Remedy: keep the batch's rows in the first axis."
        )


def _missing(where: str, key: Any, there: Any) -> InvalidInput:
    return InvalidInput(
        f"{where or 'params'}: {key!r} is not there, limit: {', '.join(map(str, there)) or 'no keys'}. "
        "Remedy: name one of these."
    )
