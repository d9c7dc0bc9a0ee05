"""A point's floating entries as one vector, and back; the leaves that hold integers go beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import DeviceMismatch, DtypeMismatch, InvalidInput, tree
from nestgrad_torch._second_order import second_order
from nestgrad_torch._steps import Draws


@dataclass(frozen=True, slots=True)
class At:
    """A place: the floating entries (n,), the other leaves in the tree's own order, and what is drawn from there on."""

    vector: Tensor
    others: list[Any]
    draws: Draws


class Form:
    """The structure of a point. Entries are joined in the order of sorted keys, whatever order they were written in."""

    def __init__(self, caller: str, point: Any) -> None:
        self.caller, self._tree = caller, point
        named = tree.named_leaves(point)
        self._floating = {path: _is_floating(f"{caller}: point[{path!r}]", leaf) for path, leaf in named.items()}
        self._paths = [path for path in _sorted_paths(point, "") if self._floating[path]]
        self._like: dict[str, Tensor] = {path: named[path] for path in self._paths}
        self.leaves = list(self._like.values())
        self._sizes = [leaf.numel() for leaf in self._like.values()]
        self.size = sum(self._sizes)
        if not self.size:
            raise InvalidInput(
                f"{caller}: point has 0 floating entries in {len(named)} leaves, limit: at least 1. "
                "Remedy: pass a tree of tensors, such as Play.init's state."
            )
        self._require_alike()

    def at(self, point: Any) -> At:
        """The place of a tree like the point, in its graph."""
        return self._place(tree.leaves(point), Draws(self))

    def tree(self, at: At) -> Any:
        """The tree at a place: floating leaves are views of the vector."""
        parts = self._parts(at.vector)
        others = iter(at.others)
        return tree.unflatten(
            self._tree, [parts[path] if floats else next(others) for path, floats in self._floating.items()]
        )

    def moved(self, result: Any, before: Draws) -> At:
        """The place that an update leads to; InvalidInput naming the leaf that is not like the point's."""
        try:
            (leaves,) = tree.matched(self._tree, result)
        except InvalidInput as odd:
            raise InvalidInput(f"{self.caller}: update's result: {odd}") from None
        for path, leaf, like in zip(self._floating, leaves, tree.leaves(self._tree), strict=True):
            if not _is_like(leaf, like):
                raise InvalidInput(
                    f"{self.caller}: update's result[{path!r}]: got {_kind(leaf)}, limit: {_kind(like)} as in the "
                    "point. Remedy: let update return what it is given, moved by a step."
                )
        return self._place(leaves, Draws(self, before))

    def vectors(self, columns: Tensor) -> Any:
        """(n, m) as a tree with a leading axis of m; zeros at the other leaves."""
        count, rows = columns.shape[1], columns.T.split_with_sizes(self._sizes, dim=1)
        parts = {
            path: row.reshape(count, *leaf.shape) for (path, leaf), row in zip(self._like.items(), rows, strict=True)
        }
        return self._with_zeros(parts, columns, count)

    def gradient(self, vector: Tensor) -> Any:
        """(n,) as a tree like the point; zeros at the other leaves."""
        return self._with_zeros(self._parts(vector), vector)

    def columns(self, directions: Any) -> Tensor:
        """The inverse of `vectors`; InvalidInput unless each floating leaf has one leading axis, of m on all."""
        try:
            (leaves,) = tree.matched(self._tree, directions)
        except InvalidInput as odd:
            raise InvalidInput(f"{self.caller}: directions: {odd}") from None
        given, count = dict(zip(self._floating, leaves, strict=True)), None
        for path, like in self._like.items():
            leaf = given[path]
            shape = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
            count = shape[0] if count is None and shape and isinstance(leaf, Tensor) else count
            if not count or shape != (count, *like.shape):
                raise InvalidInput(
                    f"{self.caller}: directions[{path!r}]: got {shape}, limit: {(count or 'm', *like.shape)}, one row "
                    "for each direction. Remedy: stack trees like the point on a first axis."
                )
            if leaf.dtype != like.dtype or leaf.device != like.device:
                raise DtypeMismatch(
                    f"{self.caller}: directions[{path!r}] is {leaf.dtype} on {leaf.device}, limit: {like.dtype} on "
                    f"{like.device} as the point. Remedy: .to(point's leaf)."
                )
        assert count  # noqa: S101  (as there is a floating leaf)
        return torch.cat([given[path].detach().reshape(count, -1) for path in self._paths], dim=1).T

    @contextlib.contextmanager
    def differentiating(self) -> Iterator[None]:
        """Autograd on, kernels with second derivatives, and at the end the random number generators as they were."""
        devices = sorted({leaf.device.index for leaf in self.leaves if leaf.is_cuda})
        generators, inference = torch.random.fork_rng(devices=devices), torch.inference_mode(mode=False)
        with generators, inference, torch.enable_grad(), second_order(None):
            yield

    def _place(self, leaves: list[Any], draws: Draws) -> At:
        named = dict(zip(self._floating, leaves, strict=True))
        others = [leaf for path, leaf in named.items() if not self._floating[path]]
        return At(torch.cat([named[path].reshape(-1) for path in self._paths]), others, draws)

    def _parts(self, vector: Tensor) -> dict[str, Tensor]:
        rows = vector.split_with_sizes(self._sizes)
        return {path: row.view(leaf.shape) for (path, leaf), row in zip(self._like.items(), rows, strict=True)}

    def _with_zeros(self, parts: dict[str, Tensor], like: Tensor, *axes: int) -> Any:
        leaves = zip(self._floating.items(), tree.leaves(self._tree), strict=True)
        return tree.unflatten(
            self._tree,
            [parts[path] if floats else like.new_zeros((*axes, *_shape(leaf))) for (path, floats), leaf in leaves],
        )

    def _require_alike(self) -> None:
        first, leaf = next(iter(self._like.items()))
        if leaf.dtype not in {torch.float32, torch.float64}:
            raise InvalidInput(
                f"{self.caller}: point[{first!r}]: got {leaf.dtype}, limit: torch.float32 or torch.float64. "
                "Remedy: keep the point in float32 and cast it inside the update."
            )
        for path, other in self._like.items():
            if other.dtype != leaf.dtype:
                raise DtypeMismatch(
                    f"{self.caller}: point[{path!r}] is {other.dtype}, limit: {leaf.dtype} as point[{first!r}]. "
                    f"Remedy: .to({leaf.dtype})."
                )
            if other.device != leaf.device:
                raise DeviceMismatch(
                    f"{self.caller}: point[{path!r}] is on {other.device}, limit: {leaf.device} as point[{first!r}]. "
                    f"Remedy: .to({str(leaf.device)!r})."
                )


def _is_like(leaf: Any, like: Any) -> bool:
    """Whether it has the type and, of a tensor, the dtype and the shape."""
    if not isinstance(like, Tensor):
        return type(leaf) is type(like)
    return isinstance(leaf, Tensor) and leaf.dtype == like.dtype and leaf.shape == like.shape


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype} of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else ()


def _is_floating(title: str, leaf: Any) -> bool:
    if isinstance(leaf, Tensor) and leaf.is_complex():
        raise InvalidInput(f"{title}: got {leaf.dtype}, limit: a real type. Remedy: two leaves, real and imaginary.")
    if not isinstance(leaf, (Tensor, int)):
        raise InvalidInput(
            f"{title}: got {type(leaf).__name__}, limit: a tensor or an int. Remedy: torch.as_tensor it."
        )
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _sorted_paths(values: Any, prefix: str) -> Iterator[str]:
    """The paths of the leaves, keys of mappings sorted."""
    if isinstance(values, (Mapping, list, tuple)):
        keys: Any = sorted(values, key=str) if isinstance(values, Mapping) else range(len(values))
        for key in keys:
            yield from _sorted_paths(values[key], f"{prefix}/{key}" if prefix else str(key))
    elif values is not None:
        yield prefix
