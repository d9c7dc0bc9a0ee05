"""Trees of arrays without a framework: nested dicts, lists and tuples; None is an empty subtree.

Trees are matched by key, never by position, so two dicts with the same keys in another order are the same tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nestgrad._errors import InvalidInput

__all__ = ["leaves", "map", "named_leaves", "unflatten"]


def named_leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf under its path, keys joined by '/', in the tree's own order; a bare leaf has the path ''."""
    found: dict[str, Any] = {}
    for key, child in _children(tree):
        path = f"{prefix}/{key}" if prefix else str(key)
        inner = named_leaves(child, path) if _is_node(child) else {path: child}
        if clash := found.keys() & inner.keys():
            raise InvalidInput(f"tree: two leaves share the path {sorted(clash)[0]!r}. Remedy: rename one of the keys.")
        found |= inner
    return found if _is_node(tree) else {prefix: tree}


def leaves(tree: Any) -> list[Any]:
    """The leaves in the tree's own order."""
    return list(named_leaves(tree).values())


def map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """A tree like `tree` whose leaves are function(leaf, leaf of each other tree at the same path)."""
    rest = [named_leaves(other) for other in others]
    first = named_leaves(tree)
    for other in rest:
        if first.keys() != other.keys():
            odd = sorted(first.keys() ^ other.keys())
            raise InvalidInput(
                f"tree: {len(odd)} paths are in one tree only, limit 0, the first is {odd[0]!r}. "
                "Remedy: give both trees the same keys."
            )
    return unflatten(tree, [function(leaf, *(other[path] for other in rest)) for path, leaf in first.items()])


def unflatten(like: Any, flat: Iterable[Any]) -> Any:
    """A tree with the structure of `like` and the given leaves, in the order of `leaves(like)`."""
    return _rebuild(like, iter(flat))


def _is_node(tree: Any) -> bool:
    return tree is None or isinstance(tree, (Mapping, list, tuple))


def _children(tree: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(tree, Mapping):
        return tree.items()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return enumerate(tree) if isinstance(tree, (list, tuple)) else ()  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _rebuild(like: Any, flat: Any) -> Any:
    if not _is_node(like):
        return next(flat)
    if like is None:
        return None
    children = [(key, _rebuild(child, flat)) for key, child in _children(like)]
    if isinstance(like, Mapping):
        return dict(children)
    values = [child for _, child in children]
    if isinstance(like, tuple):
        make: Any = type(like)  # pyright: ignore[reportUnknownVariableType]
        return make(*values) if hasattr(make, "_fields") else tuple(values)
    return values
