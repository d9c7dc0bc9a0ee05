"""A result's many scalars as one array, since each output of a compiled program has a cost of its own."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nestgrad import HyperGradient, HyperGradientJVP, Stats, Status, error_for

_Result = TypeVar("_Result", HyperGradient, HyperGradientJVP)
_COUNTS: tuple[str, ...] = ("steps", "products")
_REALS = tuple(field.name for field in fields(Stats) if field.name not in (*_COUNTS, "eps"))
_EMPTY: Any = dict.fromkeys((*_REALS[1:], *_COUNTS))


def packed(found: _Result) -> _Result:
    """The result with its statistics as one vector, and its status and counts as another; while tracing."""
    stats = found.stats
    reals = jnp.stack([getattr(stats, name) for name in _REALS])
    zero = [jnp.ravel(leaf)[0] == 0 for leaf in jax.tree.leaves(found.total) if leaf.size]
    doubtful = jnp.stack(zero).any() if zero else jnp.zeros((), bool)
    counts = jnp.stack([found.status, *(getattr(stats, name) for name in _COUNTS), doubtful.astype(jnp.int32)])
    return replace(found, stats=Stats(residual_norm=reals, **_EMPTY, eps=stats.eps), status=counts)


def unpacked(found: _Result) -> tuple[_Result, bool]:
    """(the result, whether an array of its total begins with a zero); waits for the device once.

    Its status is a Status and its statistics are numbers on the host; where they have no value yet, arrays.
    """
    reals, counts = found.stats.residual_norm, found.status
    traced = isinstance(counts, Tracer)
    status, *others, doubtful = counts if traced else np.asarray(counts)
    named = dict(zip((*_REALS, *_COUNTS), (*(reals if traced else np.asarray(reals)), *others), strict=True))
    status = status if traced else Status(int(status))
    stats = Stats(**named, eps=found.stats.eps)
    return replace(found, status=status, stats=stats), not traced and bool(doubtful)


def raised(found: Any, method: Any) -> None:
    """Raise the error of a result that failed."""
    if not found.status.ok:
        raise error_for(found.status, method, found.stats)
