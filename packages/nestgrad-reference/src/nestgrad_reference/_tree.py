"""Trees of arrays as one float64 vector, and back, in a way that autograd differentiates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

from nestgrad import DtypeMismatch, InvalidInput, NonDifferentiableHyperparameter, tree

xp: Any = anp  # its names are made at import, out of a type checker's sight
Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


def as_params(params: Any) -> Any:
    """The params as float64 arrays; InvalidInput for leaves that are not real floating-point."""
    if not tree.named_leaves(params):
        raise InvalidInput("params: 0 leaves, limit: at least 1. Remedy: pass arrays.")
    return as_float64(params, "params")


def as_float64(values: Any, title: str) -> Any:
    """The leaves as new float64 arrays; InvalidInput with the title for one that is not real floating-point."""

    def convert(name: str, leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if not np.issubdtype(array.dtype, np.floating):
            raise InvalidInput(
                f"{title}[{name!r}]: got {array.dtype}, limit: a real floating-point array. Remedy: .astype(float)."
            )
        return array.astype(np.float64)

    return tree.unflatten(values, [convert(name, leaf) for name, leaf in tree.named_leaves(values).items()])


def as_hparams(hparams: Any) -> Any:
    """The hparams as float64 arrays; integers and booleans are refused by name."""

    def convert(name: str, leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if not np.issubdtype(array.dtype, np.floating):
            raise NonDifferentiableHyperparameter(
                f"hparams[{name!r}]: got {array.dtype}, limit: a real floating-point value. "
                "Remedy: use a continuous relaxation, or search over it outside."
            )
        return array.astype(np.float64)

    named = tree.named_leaves(hparams)
    if not named:
        raise InvalidInput("hparams: 0 leaves, limit: at least 1. Remedy: pass the values to differentiate in.")
    return tree.unflatten(hparams, [convert(name, leaf) for name, leaf in named.items()])


def check_matching(params: Any, *, title: str = "params", **others: Any) -> None:
    """Raise DtypeMismatch unless all floating arrays share the first param's dtype (Python floats match any)."""
    first_name, first = next(iter(tree.named_leaves(params).items()))
    wanted = np.asarray(first).dtype
    for where, other in {title: params, **others}.items():
        for name, leaf in tree.named_leaves(other).items():
            found = getattr(leaf, "dtype", wanted)
            if not isinstance(leaf, float) and np.issubdtype(found, np.floating) and found != wanted:
                raise DtypeMismatch(
                    f"{where}[{name!r}] is {found}, limit: {wanted} as {title}[{first_name!r}]. "
                    f"Remedy: .astype({wanted})."
                )


def flatten(values: Any) -> tuple[Vector, Callable[[Any], Any]]:
    """The tree's entries as one vector, and the function that shapes a vector (or autograd box) like the tree."""
    leaves = [np.asarray(leaf) for leaf in tree.leaves(values)]
    ends = np.cumsum([leaf.size for leaf in leaves])

    def restore(vector: Any) -> Any:
        parts = [xp.reshape(vector[end - x.size : end], x.shape) for x, end in zip(leaves, ends, strict=True)]
        return tree.unflatten(values, parts)

    return np.concatenate([np.zeros(0), *(leaf.reshape(-1) for leaf in leaves)]), restore


def concatenate(values: Any) -> Any:
    """The tree's entries as one vector, differentiably."""
    return xp.concatenate([np.zeros(0), *(xp.reshape(leaf, (-1,)) for leaf in tree.leaves(values))])


def matched(like: Any, other: Any, title: str) -> list[Any]:
    """The leaves of the other tree in the order of `like`; InvalidInput with its title unless the paths agree."""
    try:
        (leaves,) = tree.matched(like, other)
    except InvalidInput as error:
        raise InvalidInput(f"{title}: {error}") from None
    return leaves


def shaped(like: Any, other: Any, title: str, *, broadcast: bool = False) -> list[Any]:
    """As `matched`, each leaf of the shape of its counterpart (broadcast: or 0-d); else InvalidInput."""
    leaves = matched(like, other, title)
    for (name, wanted), leaf in zip(tree.named_leaves(like).items(), leaves, strict=True):
        if np.shape(leaf) != np.shape(wanted) and not (broadcast and np.ndim(leaf) == 0):
            raise InvalidInput(
                f"{title}[{name!r}]: got shape {np.shape(leaf)}, limit: {np.shape(wanted)}. "
                "Remedy: pass a tree of arrays of these shapes."
            )
    return leaves


def spread(setting: Any, params: Any) -> Any:
    """A setting as a tree like params: itself where it is one already, else one number for every leaf."""
    if isinstance(setting, (dict, list, tuple)):
        return setting
    return setting if np.ndim(setting) else tree.map(lambda _: setting, params)


def plain(x: Any) -> np.ndarray:
    """The float64 array inside any boxes of autograd's."""
    return np.asarray(unboxed(x), np.float64)


def unboxed(x: Any) -> Any:
    """What is inside any boxes of autograd's."""
    while hasattr(x, "_value"):
        x = getval(x)
    return x


def root(x: Any) -> Any:
    """√x, with a derivative of zero where x is zero."""
    positive = plain(x) > 0.0
    return xp.where(positive, xp.sqrt(xp.where(positive, x, 1.0)), 0.0)
