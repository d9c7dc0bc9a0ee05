"""Trees of arrays without a framework: nested dicts, lists and tuples; None is an empty subtree.

Trees are matched by key, never by position, so two dicts with the same keys in another order are the same tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nestgrad._errors import InvalidInput

__all__ = ["leaves", "map", "matched", "named_leaves", "unflatten"]


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf under its path, keys joined by '/', in the tree's own order; a bare leaf has the path ''."""
    found: dict[str, Any] = {}
    for path, leaf in _walk(tree, ""):
        if path in found:
            raise InvalidInput(f"tree: 2 leaves share the path {path!r}, limit 1. Remedy: rename one of the keys.")
        found[path] = leaf
    return found


def leaves(tree: Any) -> list[Any]:
    """The leaves in the tree's own order."""
    found: list[Any] = []
    _collect(tree, found)
    return found


def matched(like: Any, *others: Any) -> list[list[Any]]:
    """The leaves of each other tree, in the order of `like`; InvalidInput unless their paths are the same."""
    found: list[list[Any]] = [[] for _ in others]
    for column, other in zip(found, others, strict=True):
        try:
            _collect_like(like, other, column)
        except (KeyError, IndexError, TypeError):
            raise _mismatch(like, other) from None
    return found


def map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """A tree like `tree` whose leaves are function(leaf, leaf of each other tree at the same path)."""
    return unflatten(tree, [function(*row) for row in zip(leaves(tree), *matched(tree, *others), strict=True)])


def unflatten(like: Any, flat: Iterable[Any]) -> Any:
    """A tree structured like `like` with the given leaves, in the order of `leaves(like)`; mappings become dicts."""
    return _rebuild(like, iter(flat))


class _Kinds(dict[type[Any], str]):
    """What a type is to a tree; remembered, since asking an abstract class costs more than the rest of the walk."""

    def __missing__(self, cls: type[Any]) -> str:
        if issubclass(cls, Mapping):
            kind = "mapping"
        elif issubclass(cls, (list, tuple)):
            kind = "sequence"
        else:
            kind = "none" if cls is type(None) else "leaf"
        self[cls] = kind
        return kind


_KINDS = _Kinds()


def _walk(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    kind = _KINDS[tree.__class__]
    if kind == "leaf":
        yield prefix, tree
    elif kind != "none":
        for key in tree if kind == "mapping" else range(len(tree)):
            yield from _walk(tree[key], f"{prefix}/{key}" if prefix else str(key))


def _collect(tree: Any, found: list[Any]) -> None:
    kind = _KINDS[tree.__class__]
    if kind == "leaf":
        found.append(tree)
    elif kind != "none":
        for child in tree.values() if kind == "mapping" else tree:
            if _KINDS[child.__class__] == "leaf":  # here too: most children are leaves, and a call costs more than this
                found.append(child)
            else:
                _collect(child, found)


def _collect_like(like: Any, other: Any, found: list[Any]) -> None:
    kind = _KINDS[like.__class__]
    if kind != _KINDS[other.__class__]:
        raise TypeError
    if kind == "leaf":
        found.append(other)
    elif kind != "none":
        if len(like) != len(other):
            raise KeyError
        for key in like if kind == "mapping" else range(len(like)):
            child, match = like[key], other[key]
            if _KINDS[child.__class__] == _KINDS[match.__class__] == "leaf":
                found.append(match)
            else:
                _collect_like(child, match, found)


def _mismatch(like: Any, other: Any) -> InvalidInput:
    odd = sorted(named_leaves(like).keys() ^ named_leaves(other).keys())
    first = f", the first is {odd[0]!r}" if odd else ""
    return InvalidInput(
        f"tree: {len(odd)} paths are in one of two trees only, limit 0{first}. "
        "Remedy: give both trees the same structure."
    )


def _rebuild(like: Any, flat: Iterator[Any]) -> Any:
    kind = _KINDS[like.__class__]
    if kind == "leaf":
        return next(flat)
    if kind == "none":
        return None
    children = like.values() if kind == "mapping" else like
    values = [next(flat) if _KINDS[child.__class__] == "leaf" else _rebuild(child, flat) for child in children]
    if kind == "mapping":
        return dict(zip(like, values, strict=True))
    if isinstance(like, tuple):
        make: Any = like.__class__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return make(*values) if hasattr(make, "_fields") else tuple(values)
    return values
