"""What a compiled program hands out of a result: few arrays, since each output has a cost of its own.

Statistics, status and counts are one array of integers, read once. An outer loss without a path to hparams has a direct
part of zeros, which no program computes, and an indirect part that is the total.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from nestgrad import HyperGradient, Stats, Status, error_for

_COUNTS: tuple[str, ...] = ("steps", "products")
_REALS = tuple(field.name for field in fields(Stats) if field.name not in (*_COUNTS, "eps"))
_NAMES = (*_REALS, *_COUNTS)
_HEAD = 2 + len(_COUNTS)
_STATUSES = {int(status): status for status in Status}


class Packed(NamedTuple):
    """A result as arrays: parts is (direct, indirect), or None where indirect is the total.

    numbers: status, whether it is doubtful, counts, then the bits of the statistics and of two numbers for tuners,
    |total| and the outer loss, all as int32. ends: (adjoint, params, opt_state).
    """

    total: Any
    parts: tuple[Any, Any] | None
    outer_loss: Array
    numbers: Array
    ends: tuple[Any, Any, Any]


class Unpacked(NamedTuple):
    """A result; doubtful says that an array of its total begins with a zero. size is |total|, loss the outer loss.

    With values, the last three are of Python, doubtful too; inside a trace doubtful is False and the others are arrays.
    """

    found: HyperGradient
    doubtful: bool
    size: Any
    loss: Any


def packed(found: HyperGradient, size: Array | None = None) -> Packed:
    """The result as few arrays, while tracing. size: |total|, NaN when left out."""
    stats = found.stats
    dtype = stats.residual_norm.dtype
    last = jnp.full((), jnp.nan, dtype) if size is None else size
    reals = jnp.stack([*(getattr(stats, name) for name in _REALS), last, found.outer_loss.astype(dtype)])
    zero = [jnp.ravel(leaf)[0] == 0 for leaf in jax.tree.leaves(found.total) if leaf.size]
    doubtful = jnp.stack(zero).any() if zero else jnp.zeros((), bool)
    counts = [found.status, doubtful.astype(jnp.int32), *(getattr(stats, name) for name in _COUNTS)]
    bits = jnp.ravel(lax.bitcast_convert_type(reals, jnp.int32))
    return Packed(
        total=found.total,
        parts=None if found.direct is None else (found.direct, found.indirect),
        outer_loss=found.outer_loss,
        numbers=jnp.concatenate([jnp.stack(counts), bits]),
        ends=(found.adjoint, found.params, found.opt_state),
    )


def unpacked(given: Packed) -> Unpacked:
    """The result again; waits for the device once.

    Its status is a Status and its statistics are numbers on the host; where they have no value yet, arrays.
    """
    if isinstance(given.numbers, Tracer):
        return _unpacked_traced(given)
    numbers = np.asarray(given.numbers)
    status, doubtful = numbers[:2].tolist()
    bits = numbers[_HEAD:]
    reals = bits.view(np.float32 if bits.size == len(_REALS) + 2 else np.float64)
    found = _result(given, _STATUSES[status], reals, numbers[2:_HEAD])
    return Unpacked(found, bool(doubtful), float(reals[-2]), float(reals[-1]))


def _unpacked_traced(given: Packed) -> Unpacked:
    status, _, *counts = given.numbers[:_HEAD]
    bits = given.numbers[_HEAD:]
    wide = bits.size != len(_REALS) + 2
    reals = lax.bitcast_convert_type(*((bits.reshape(-1, 2), jnp.float64) if wide else (bits, jnp.float32)))
    return Unpacked(_result(given, status, reals, counts), False, reals[-2], reals[-1])


def _result(given: Packed, status: Any, reals: Any, counts: Any) -> HyperGradient:
    stats = Stats(**dict(zip(_NAMES, (*reals[:-2], *counts), strict=True)), eps=_EPS[reals.dtype])
    direct, indirect = _parts(given.total) if given.parts is None else given.parts
    adjoint, params, opt_state = given.ends
    return HyperGradient(
        total=given.total,
        direct=direct,
        indirect=indirect,
        outer_loss=given.outer_loss,
        status=status,
        stats=stats,
        adjoint=adjoint,
        params=params,
        opt_state=opt_state,
    )


_EPS = {np.dtype(kind): float(np.finfo(kind).eps) for kind in (np.float32, np.float64)}


def whole(found: HyperGradient) -> HyperGradient:
    """The result with both parts, where its direct part was left out."""
    if found.direct is not None:
        return found
    return replace(found, direct=jax.tree.map(jnp.zeros_like, found.total), indirect=found.total)


_ZEROS: dict[Any, Array] = {}
_MOST = 256


def _parts(total: Any) -> tuple[Any, Any]:
    """(zeros, the same arrays), each in a tree of its own."""
    leaves, structure = jax.tree.flatten(total)
    return structure.unflatten(map(_zeros_like, leaves)), structure.unflatten(leaves)


def _zeros_like(leaf: Any) -> Array:
    """Zeros placed as the leaf is, made once."""
    if isinstance(leaf, Tracer):
        return jnp.zeros_like(leaf)
    key = leaf.shape, leaf.dtype, leaf.sharding, leaf.committed
    zeros = _ZEROS.get(key)
    if zeros is None or zeros.is_deleted():
        if len(_ZEROS) >= _MOST:
            _ZEROS.clear()
        zeros = _ZEROS[key] = jnp.zeros_like(leaf)
    return zeros


def raised(found: Any, method: Any) -> None:
    """Raise the error of a result that failed."""
    if not found.status.ok:
        raise error_for(found.status, method, found.stats)
