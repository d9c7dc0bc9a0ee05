"""Params, hparams and batches as pytrees fit to differentiate: their names, dtypes and the checks on them.

What jit itself would hide (a float64 array cut to float32, an object that is no array) is checked before it, by
`check_arguments`. All else is checked while tracing, where dtypes and shapes are known, and costs nothing afterwards.
"""

from __future__ import annotations

import math
import operator
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from nestgrad import DtypeMismatch, InvalidInput, NonDifferentiableHyperparameter

_LEAST_BITS = 32


def named_leaves(title: str, tree: Any) -> list[tuple[str, Any]]:
    """Every leaf under its name as messages show it, such as hparams['block/lr']."""
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found.append((f"{title}[{name!r}]" if path else title, leaf))
    return found


def is_traced(tree: Any) -> bool:
    """Whether any leaf has no value yet, as under a user's own jit, vmap or scan."""
    return any(issubclass(kind, Tracer) for kind in set(map(type, jax.tree.leaves(tree))))


_ARRAYS: set[type] = set()
"""The types met that are JAX arrays: to look one up is faster than to ask."""


def check_arguments(**trees: Any) -> None:
    """Raise InvalidInput for leaves that are no arrays, DtypeMismatch for float64 that jit would cut to float32."""
    if set(map(type, jax.tree.leaves(trees))) <= _ARRAYS:
        return
    cut = jax.dtypes.canonicalize_dtype(np.float64) == np.float32
    for title, tree in trees.items():
        leaves = jax.tree.leaves(tree)
        if all(isinstance(leaf, Array) for leaf in leaves):
            _ARRAYS.update(map(type, leaves))
            continue
        for name, leaf in named_leaves(title, tree):
            if cut and isinstance(leaf, np.ndarray) and leaf.dtype == np.float64:
                raise DtypeMismatch(
                    f"{name} is float64, limit: float32 while jax_enable_x64 is off. "
                    "Remedy: jax.config.update('jax_enable_x64', True), or .astype(np.float32)."
                )
            if not isinstance(leaf, (Array, np.ndarray, np.generic, float, int, complex)):
                raise InvalidInput(
                    f"{name}: got {type(leaf).__name__}, limit: an array or a number. "
                    "Remedy: leave it out, and let the loss close over it."
                )


def as_params(params: Any, title: str = "params") -> Any:
    """The params with Python floats in the dtype of the others; InvalidInput for leaves that are not real floating."""
    named = named_leaves(title, params)
    if not named:
        raise InvalidInput(f"{title}: 0 leaves, limit: at least 1. Remedy: pass a pytree of floating arrays.")
    for name, leaf in named:
        if not jnp.issubdtype(jax.typeof(leaf).dtype, jnp.floating):
            raise InvalidInput(
                f"{name}: got {jax.typeof(leaf).dtype}, limit: a real floating-point array. "
                "Remedy: convert it, or let the loss close over constants."
            )
        if jnp.finfo(jax.typeof(leaf).dtype).bits < _LEAST_BITS:
            raise DtypeMismatch(
                f"{name} is {jax.typeof(leaf).dtype}, limit: float32 or float64, as second derivatives underflow in "
                "half precision. Remedy: keep params in float32, and cast them inside the loss."
            )
    strong = [jax.typeof(leaf).dtype for _, leaf in named if not jax.typeof(leaf).weak_type]
    return _settled(params, strong[0] if strong else jax.typeof(named[0][1]).dtype)


def as_hparams(hparams: Any, dtype: Any) -> Any:
    """The hparams with Python floats made arrays of the params' dtype; others are refused by name."""
    named = named_leaves("hparams", hparams)
    if not named:
        raise InvalidInput("hparams: 0 leaves, limit: at least 1. Remedy: pass the values to differentiate in.")
    for name, leaf in named:
        if not jnp.issubdtype(jax.typeof(leaf).dtype, jnp.floating):
            raise NonDifferentiableHyperparameter(
                f"{name}: got {jax.typeof(leaf).dtype}, limit: a real floating-point value. "
                "Remedy: use a continuous relaxation, or search over it outside."
            )
    return _settled(hparams, dtype)


def _settled(tree: Any, dtype: Any) -> Any:
    """Weakly typed leaves (Python floats) in the dtype, the others as they are."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if jax.typeof(x).weak_type else None), tree)


def check_matching(params: Any, *, title: str = "params", **others: Any) -> None:
    """Raise DtypeMismatch unless all floating arrays share the first param's dtype."""
    (first_name, first), *_ = named_leaves(title, params)
    wanted = jax.typeof(first).dtype
    for heading, tree in {title: params, **others}.items():
        for name, leaf in named_leaves(heading, tree):
            kind = jax.typeof(leaf)
            if not kind.weak_type and jnp.issubdtype(kind.dtype, jnp.floating) and kind.dtype != wanted:
                raise DtypeMismatch(
                    f"{name} is {kind.dtype}, limit: {wanted} as {first_name}. Remedy: {name}.astype({str(wanted)!r})."
                )


def require_like(params: Any, tree: Any, title: str, like: str = "params") -> Any:
    """The tree; InvalidInput unless its structure and shapes are those of params, which messages call `like`."""
    wanted, found = jax.tree.structure(params), jax.tree.structure(tree)
    if wanted != found:
        raise InvalidInput(
            f"{title}: structure {found}, limit: that of {like}, {wanted}. Remedy: make it a tree like that."
        )
    for (name, leaf), param in zip(named_leaves(title, tree), jax.tree.leaves(params), strict=True):
        if jnp.shape(leaf) != jnp.shape(param):
            raise InvalidInput(
                f"{name}: shape {jnp.shape(leaf)}, limit: {jnp.shape(param)} as in {like}. Remedy: reshape it."
            )
    return tree


def moved_by(params: Any, updates: Any) -> Any:
    """params + updates, each leaf in the params' dtype."""
    return jax.tree.map(lambda p, u: lax.convert_element_type(p + u, jnp.asarray(p).dtype), params, updates)


def as_key(key: Any) -> Array:
    """A typed PRNG key from an int or a PRNG key of either kind; InvalidInput for anything else."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.shape:
        return key
    if isinstance(key, (Array, np.ndarray)) and key.dtype == np.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    shape = f" of shape {jnp.shape(key)}" if isinstance(key, (Array, np.ndarray)) else ""
    raise InvalidInput(f"key: got {type(key).__name__}{shape}, limit: an int or one PRNG key. Remedy: pass key=0.")


def require_positive(tree: Any, title: str) -> None:
    """Raise InvalidInput for an entry that is not above zero and finite, where there are values to look at."""
    for name, leaf in named_leaves(title, tree):
        if isinstance(leaf, Tracer) or not jnp.size(leaf):
            continue
        least, largest = float(np.min(np.asarray(leaf))), float(np.max(np.asarray(leaf)))
        if not (least > 0.0 and largest < np.inf):
            raise InvalidInput(
                f"{name}: smallest entry {least:.3g}, largest {largest:.3g}, limit: above 0 and finite. "
                "Remedy: pass approximate inverses of the curvatures, such as 1 / (|h| + 1e-8)."
            )


def entries(tree: Any) -> int:
    """How many there are in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def flat(tree: Any) -> Array:
    """One vector of all entries."""
    return ravel_pytree(tree)[0]


def norm(vector: Any) -> Array:
    """|vector|, by a product in full precision; of one in leaves, over all of them."""
    return jnp.sqrt(_squares(jax.tree.leaves(vector)))


def tree_norm(tree: Any) -> Array:
    """|x| over all entries."""
    return tree_norms(tree)[0]


def tree_norms(*trees: Any) -> Array:
    """|x| of each tree over all its entries; not finite where an entry is not.

    From plain sums of squares where none of them under- or overflows: the largest entry, by which to divide first, is
    slow to find on a CPU.
    """
    sizes = [entries(tree) for tree in trees]
    if max(sizes) <= SMALL:
        rows = [jnp.pad(flat(tree), (0, max(sizes) - size)) for tree, size in zip(trees, sizes, strict=True)]
        return _scaled_norms(jnp.stack(rows))
    return jnp.stack([_norm_of_many(jax.tree.leaves(tree)) for tree in trees])


SMALL = 1 << 14
"""Entries up to which a call of few operations is faster than one of few bytes."""


def _scaled_norms(rows: Array) -> Array:
    """|x| of each row by numbers near 1, so that squares neither under- nor overflow."""
    scale = power_of_two(jnp.abs(rows).max(axis=1, initial=0.0))
    return jnp.sqrt(((rows / scale[:, None]) ** 2).sum(axis=1)) * scale


def _norm_of_many(leaves: list[Array]) -> Array:
    """|x| of one tree by itself, so that it need not be kept until others are there, and without a copy of it."""
    squares = _squares(leaves)
    limits = jnp.finfo(squares.dtype)
    safe = (squares > float(limits.tiny) / float(limits.eps)) & (squares < float(limits.max))

    def scaled(_: Array) -> Array:
        scale = power_of_two(jnp.stack([jnp.abs(leaf).max(initial=0.0) for leaf in leaves]).max())
        return jnp.sqrt(_squares([leaf / scale for leaf in leaves])) * scale

    return lax.cond(safe, jnp.sqrt, scaled, squares)


def _squares(leaves: list[Array]) -> Array:
    """The sum of all squares; of a leaf as it is laid out, where a product of flat ones would copy it."""
    return reduce(operator.add, (dot(leaf, leaf) if leaf.ndim == 1 else (leaf * leaf).sum() for leaf in leaves))


def power_of_two(size: Array) -> Array:
    """The largest power of two up to size; 1 where size is zero, subnormal or not finite.

    Dividing by it is exact and keeps squares from under- or overflowing. It is size with its mantissa bits cleared.
    """
    kind = jnp.dtype(f"uint{jnp.finfo(size.dtype).bits}")
    exponent_bits = lax.bitcast_convert_type(jnp.asarray(jnp.inf, size.dtype), kind)
    power = lax.bitcast_convert_type(lax.bitcast_convert_type(size, kind) & exponent_bits, size.dtype)
    return jnp.where((power > 0) & jnp.isfinite(size), power, jnp.ones_like(size))


def host_norm(tree: Any) -> float:
    """|x| over all entries, taken on the host in float64; needs values."""
    return math.sqrt(sum(float(np.square(np.asarray(leaf, np.float64)).sum()) for leaf in jax.tree.leaves(tree)))


def dot(a: Array, b: Array) -> Array:
    """Inner product of two vectors in their own precision, also where the device would round its factors."""
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)
