"""A map from a tree to a tree like it, as a function of one vector, and its dense Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import autograd
import numpy as np

from nestgrad import InvalidInput, NonFinite, Stats, Status, tree
from nestgrad_reference._derivatives import independence_is_no_news
from nestgrad_reference._tree import Vector, concatenate, plain, shaped, unboxed, xp

Carried = list[Any]
"""The leaves that hold no floating-point numbers, in the tree's own order."""


class StepMap:
    """Φ on the entries of the floating leaves of a point, joined in the order of sorted keys; the others go along.

    vector and carried: the point itself.
    """

    def __init__(self, caller: str, update: Callable[[Any], Any], point: Any) -> None:
        self.caller, self._update = caller, update
        named = tree.named_leaves(point)
        self._floating = {path: _is_floating(f"{caller}: point[{path!r}]", leaf) for path, leaf in named.items()}
        if not any(self._floating.values()):
            raise InvalidInput(
                f"{caller}: point has 0 floating leaves, limit: at least 1. Remedy: pass a tree with arrays of floats."
            )
        self.carried: Carried = [leaf for path, leaf in named.items() if not self._floating[path]]
        self._like = tree.unflatten(
            point,
            [np.array(leaf, np.float64) if self._floating[path] else leaf for path, leaf in named.items()],
        )
        leaves, end = tree.named_leaves(self._like), 0
        self._places: dict[str, slice] = {}
        for path in _sorted_paths(point, ""):
            if self._floating[path]:
                self._places[path] = slice(end, end + leaves[path].size)
                end += leaves[path].size
        self.vector: Vector = self._joined(leaves)

    @property
    def size(self) -> int:
        """How many floating entries there are: n."""
        return self.vector.size

    def __call__(self, x: Any, carried: Carried) -> tuple[Any, Carried]:
        """Φ, differentiable in x; InvalidInput naming the leaf where what it gives is not like the point."""
        found = self._update(self.as_tree(x, carried))
        leaves = dict(zip(self._floating, shaped(self._like, found, f"{self.caller}: update's result"), strict=True))
        after: Carried = []
        for (path, floating), before in zip(self._floating.items(), tree.leaves(self._like), strict=True):
            value = unboxed(leaves[path])
            given, wanted = np.asarray(value).dtype, np.asarray(before).dtype
            if not np.issubdtype(given, np.floating) if floating else given != wanted:
                raise InvalidInput(
                    f"{self.caller}: update's result[{path!r}]: got {given}, limit: {wanted} as in the point. "
                    "Remedy: let update return what it is given, moved by a step."
                )
            if not floating:
                after.append(value)
        return self._joined(leaves), after

    def linearize(self, x: Vector, carried: Carried) -> tuple[np.ndarray, Vector, Carried]:
        """(∂Φ/∂x (n, n), and Φ), each row by one reverse pass."""
        with independence_is_no_news():
            back, following, after = self.pullback(x, carried)
            rows = [back(unit) for unit in np.eye(self.size)]
        return np.array(rows), plain(following), after

    def pullback(self, x: Any, carried: Carried) -> tuple[Callable[[Any], Any], Any, Carried]:
        """(c -> (∂Φ/∂x)ᵀ c, and Φ), all differentiable in x."""
        others: list[Carried] = []

        def moved(y: Any) -> Any:
            following, after = self(y, carried)
            others.append(after)
            return following

        made: Any = autograd.make_vjp(moved)
        back, following = made(x)
        return back, following, others[0]

    def as_tree(self, x: Any, carried: Carried) -> Any:
        """The tree of which this is the vector."""
        others = iter(carried)
        parts = [
            xp.reshape(x[self._places[path]], np.shape(leaf)) if self._floating[path] else next(others)
            for path, leaf in tree.named_leaves(self._like).items()
        ]
        return tree.unflatten(self._like, parts)

    def gradient_as_tree(self, slopes: Vector) -> Any:
        """A derivative in the point; zeros at leaves without one."""
        return self.as_tree(slopes, [np.zeros(np.shape(leaf)) for leaf in self.carried])

    def directions_as_tree(self, columns: np.ndarray) -> Any:
        """(n, m) as a tree with a leading axis of m; zeros at leaves that have no directions."""
        count = columns.shape[1]
        parts = [
            columns.T[:, self._places[path]].reshape(count, *np.shape(leaf))
            if self._floating[path]
            else np.zeros((count, *np.shape(leaf)))
            for path, leaf in tree.named_leaves(self._like).items()
        ]
        return tree.unflatten(self._like, parts)

    def directions_as_columns(self, directions: Any) -> np.ndarray:
        """The inverse, (n, m); InvalidInput unless each floating leaf has one leading axis, of m on all."""
        try:
            (leaves,) = tree.matched(self._like, directions)
        except InvalidInput as error:
            raise InvalidInput(f"{self.caller}: directions: {error}") from None
        rows: dict[str, np.ndarray] = {}
        count = None
        for (path, like), leaf in zip(tree.named_leaves(self._like).items(), leaves, strict=True):
            if not self._floating[path]:
                continue
            given, inner = np.shape(leaf), np.shape(like)
            count = given[0] if count is None and given else count
            if not given or given[1:] != inner or given[0] != count or not count:
                raise InvalidInput(
                    f"{self.caller}: directions[{path!r}]: got shape {given}, limit: {(count or 'm', *inner)}, one "
                    "row for each direction. Remedy: stack trees like the point on a first axis."
                )
            rows[path] = np.asarray(leaf, np.float64).reshape(count, -1)
        return np.concatenate([rows[path] for path in self._places], axis=1).T

    def require_finite(self, array: np.ndarray, what: str) -> None:
        """NonFinite, saying what."""
        bad = int(np.sum(~np.isfinite(array)))
        if bad:
            raise NonFinite(
                f"{self.caller}: {what}: {bad} of {array.size} entries are NaN or infinite, limit 0. "
                "Remedy: begin elsewhere, take smaller steps, or fewer.",
                Status.NONFINITE,
                Stats(),
            )

    def _joined(self, leaves: Mapping[str, Any]) -> Any:
        return concatenate([leaves[path] for path in self._places])


def _is_floating(title: str, leaf: Any) -> bool:
    dtype = np.asarray(leaf).dtype
    if np.issubdtype(dtype, np.complexfloating):
        raise InvalidInput(
            f"{title}: got {dtype}, limit: a real type. Remedy: keep the real and the imaginary part as two leaves."
        )
    return bool(np.issubdtype(dtype, np.floating))


def _sorted_paths(values: Any, prefix: str) -> Iterator[str]:
    """The paths of the leaves, keys of mappings sorted, whatever order they were written in."""
    if isinstance(values, (Mapping, list, tuple)):
        keys: Any = sorted(values, key=str) if isinstance(values, Mapping) else range(len(values))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        for key in keys:
            yield from _sorted_paths(values[key], f"{prefix}/{key}" if prefix else str(key))  # pyright: ignore[reportUnknownArgumentType]
    elif values is not None:
        yield prefix
