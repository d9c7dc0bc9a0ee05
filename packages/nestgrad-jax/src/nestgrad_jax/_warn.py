"""Warnings on results and on compilations."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nestgrad import (
    HyperGradient,
    Implicit,
    ProximalGradient,
    Recompilation,
    WeightUpdate,
    ZeroHypergradient,
)
from nestgrad_jax._tree import named_leaves

_MANY, _KEPT = 3, 256
_seen: OrderedDict[Any, int] = OrderedDict()
_lock = threading.Lock()


def warn_of_zeros(inner: Any, method: Any, opt_state: Any, found: HyperGradient) -> None:
    """Warn with ZeroHypergradient of each hyperparameter whose total is exactly zero though the adjoint is not.

    Not where zero is common and right: in a WeightUpdate from a fresh state, whose empty momentum has no effect on its
    first step; in a ProximalGradient, with no active entry; in methods that have no adjoint of their own.
    """
    first = isinstance(inner, WeightUpdate) and opt_state is None
    if first or isinstance(inner, ProximalGradient) or not isinstance(method, Implicit) or not found.status.ok:
        return
    for name, leaf in named_leaves("hparams", found.total):
        if leaf.size and not np.asarray(leaf).any() and (size := float(found.stats.adjoint_norm)) > 0.0:
            warnings.warn(
                f"{name}: hypergradient exactly 0, limit: not 0, while the adjoint has the norm {size:.3g}. "
                "Remedy: nestgrad_jax.check(problem, params, hparams, ...), which tells whether it acts at all.",
                ZeroHypergradient,
                stacklevel=3,
            )


def note_compilation(problem: Any, method: Any, given: Any) -> None:
    """Called while tracing: warn with Recompilation when the same code is traced for a fourth set of functions."""
    shapes = tuple((str(jax.typeof(leaf))) for leaf in jax.tree.leaves(given))
    codes = tuple(_codes(problem))
    if not codes:
        return
    key = (codes, type(method), repr(method), jax.tree.structure(given), shapes)
    with _lock:
        count = _seen.pop(key, 0) + 1
        _seen[key] = count
        while len(_seen) > _KEPT:
            _seen.popitem(last=False)
    if count == _MANY + 1:
        warnings.warn(
            f"{codes[0].co_name}: compiled {count} times for functions made anew from the same code, limit {_MANY}. "
            "Remedy: build the problem once, outside the loop, and pass what changes by hparams or the batch.",
            Recompilation,
            stacklevel=2,
        )


def _codes(problem: Any) -> list[Any]:
    """The code objects of the functions that the problem holds; of a partial or an object, none."""
    parts = [getattr(problem, name, None) for name in ("inner", "outer_loss")]
    inner = parts[0]
    functions: list[Callable[..., Any] | None] = [parts[1]]
    functions += [getattr(inner, name, None) for name in ("loss", "optimizer", "map", "residual", "prox")]
    return [mark for function in functions if hasattr(function, "__code__") for mark in _marks(function)]


def _marks(function: Any) -> list[Any]:
    """The function's code, and what tells its closure from that of other code: the functions that it closes over."""
    marks: list[Any] = [function.__code__]
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # an empty cell, of a name that is assigned later
            continue
        if callable(held):
            marks.append(getattr(held, "__code__", id(held)))
    return marks
