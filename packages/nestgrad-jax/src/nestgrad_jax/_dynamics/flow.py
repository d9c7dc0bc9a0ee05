"""A map of trees as one of vectors: floating leaves joined, integer leaves carried along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import InvalidInput
from nestgrad_jax._tree import named_leaves

At: TypeAlias = tuple[Array, list[Array]]
"""A point: its floating entries as one vector, and its other leaves."""

_LEAST_BITS = 32


@dataclass(frozen=True, slots=True)
class Form:
    """What a point is made of. kind: the dtype of the joined vector, the widest of the floating leaves'."""

    structure: Any
    names: tuple[str, ...]
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    kind: Any

    @classmethod
    def of(cls, point: Any) -> Form:
        """InvalidInput for leaves that are neither real floating nor whole numbers, and where none is floating."""
        named = named_leaves("point", point)
        strong = [kind.dtype for _, leaf in named if not (kind := jax.typeof(leaf)).weak_type and _floating(kind.dtype)]
        leaves: list[jax.ShapeDtypeStruct] = []
        for name, leaf in named:
            kind = jax.typeof(leaf)
            dtype = strong[0] if kind.weak_type and strong and _floating(kind.dtype) else kind.dtype
            if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_) or _floating(dtype)):
                raise InvalidInput(
                    f"{name}: got {dtype}, limit: floating or whole numbers. Remedy: keep its real and imaginary part, "
                    "or a key's data, and make it anew inside update."
                )
            leaves.append(jax.ShapeDtypeStruct(kind.shape, dtype))
        kinds = [leaf.dtype for leaf in leaves if _floating(leaf.dtype)]
        if not sum(leaf.size for leaf in leaves if _floating(leaf.dtype)):
            raise InvalidInput(
                f"point: {len(kinds)} floating leaves with 0 entries, limit: at least 1. Remedy: pass floating arrays."
            )
        widest = max(kinds, key=lambda kind: jnp.finfo(kind).bits)
        if jnp.finfo(widest).bits < _LEAST_BITS:
            raise InvalidInput(
                f"point: got {widest}, limit: float32 or float64, as directions are orthonormalised in it. "
                "Remedy: keep the point in float32, and cast inside update."
            )
        return cls(jax.tree.structure(point), tuple(name for name, _ in named), tuple(leaves), widest)

    @property
    def size(self) -> int:
        """How many floating entries there are."""
        return sum(leaf.size for leaf in self._floating)

    @property
    def _floating(self) -> list[jax.ShapeDtypeStruct]:
        return [leaf for leaf in self.leaves if _floating(leaf.dtype)]

    def split(self, tree: Any) -> At:
        """The point of a tree of this form."""
        found = [jnp.asarray(x, leaf.dtype) for x, leaf in zip(jax.tree.leaves(tree), self.leaves, strict=True)]
        moving = [jnp.ravel(x).astype(self.kind) for x in found if _floating(x.dtype)]
        return jnp.concatenate(moving), [x for x in found if not _floating(x.dtype)]

    def joined(self, at: At) -> Any:
        """The tree of a point."""
        vector, rest = at
        return self._tree(self._cut(vector), rest)

    def checked(self, tree: Any) -> Any:
        """What update returned; InvalidInput unless it has this form."""
        found = jax.tree.structure(tree)
        if found != self.structure:
            raise InvalidInput(
                f"update: returned structure {found}, limit: that of point, {self.structure}. "
                "Remedy: return a tree like point."
            )
        for name, leaf, wanted in zip(self.names, jax.tree.leaves(tree), self.leaves, strict=True):
            kind = jax.typeof(leaf)
            alike = kind.dtype == wanted.dtype or (kind.weak_type and _floating(kind.dtype) == _floating(wanted.dtype))
            if kind.shape != wanted.shape or not alike:
                raise InvalidInput(
                    f"update: returned {name} as {kind.dtype} of shape {kind.shape}, limit: {wanted.dtype} of shape "
                    f"{wanted.shape} as in point. Remedy: return it in that form."
                )
        return tree

    def rows(self, directions: Any) -> Array:
        """(m, n) of a tree like the point with a leading axis of m on each floating leaf; others are not looked at."""
        try:
            found = self.structure.flatten_up_to(directions)
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                f"directions: structure {jax.tree.structure(directions)}, limit: that of point, {self.structure}. "
                "Remedy: stack trees like point along a new first axis."
            ) from error
        given: list[tuple[str, Array, tuple[int, ...]]] = []
        for name, part, leaf in zip(self.names, found, self.leaves, strict=True):
            if _floating(leaf.dtype):
                given.append((name.replace("point", "directions", 1), jnp.asarray(part, self.kind), leaf.shape))
        count = given[0][1].shape[0] if given[0][1].ndim else 0
        for name, part, shape in given:
            if not count or part.shape != (count, *shape):
                raise InvalidInput(
                    f"{name}: shape {part.shape}, limit: {(count or 'm', *shape)}, a leading axis over that of point. "
                    "Remedy: stack trees like point along a new first axis."
                )
        return jnp.concatenate([part.reshape(count, -1) for _, part, _ in given], axis=1)

    def spread(self, rows: Array) -> Any:
        """The tree of (m, n), with a leading axis of m; zero where a leaf is of whole numbers."""
        rest = [jnp.zeros((len(rows), *leaf.shape), leaf.dtype) for leaf in self.leaves if not _floating(leaf.dtype)]
        return self._tree(self._cut(rows), rest)

    def _cut(self, joined: Array) -> list[Array]:
        """The floating leaves of the last axis, behind the axes before it."""
        ends = list(accumulate(leaf.size for leaf in self._floating))
        parts = jnp.split(joined, ends[:-1], axis=-1)
        return [
            part.reshape(*joined.shape[:-1], *leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(parts, self._floating, strict=True)
        ]

    def _tree(self, moving: list[Array], rest: list[Array]) -> Any:
        moved, still = iter(moving), iter(rest)
        return self.structure.unflatten([next(moved if _floating(leaf.dtype) else still) for leaf in self.leaves])


@dataclass(frozen=True, slots=True)
class Flow:
    """An update of trees of this form, and products with its Jacobian; rows: directions, (m, n)."""

    form: Form
    update: Callable[[Any], Any]

    def step(self, at: At) -> At:
        """Where it leads."""
        return self.form.split(self.form.checked(self.update(self.form.joined(at))))

    def pushed(self, at: At, rows: Array) -> tuple[At, Array]:
        """(where it leads, the rows of J d)."""
        vector, rest = at
        if len(rows) == 1:
            vector, along, rest = jax.jvp(lambda v: self.step((v, rest)), (vector,), (rows[0],), has_aux=True)
            return (vector, rest), along[None]
        vector, push, rest = jax.linearize(lambda v: self.step((v, rest)), vector, has_aux=True)
        return (vector, rest), jax.vmap(push)(rows)

    def pulled(self, at: At, rows: Array) -> Array:
        """The rows of Jᵀ d."""
        vector, rest = at
        _, pull, _ = jax.vjp(lambda v: self.step((v, rest)), vector, has_aux=True)
        return pull(rows[0])[0][None] if len(rows) == 1 else jax.vmap(lambda row: pull(row)[0])(rows)


def held(at: At) -> At:
    """The same point, in which nothing is differentiated."""
    return jax.lax.stop_gradient(at)


def _floating(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)
