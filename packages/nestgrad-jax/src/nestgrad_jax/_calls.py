"""The arguments of a call: checked on the host for what jit would hide, and settled while tracing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from nestgrad import InvalidInput
from nestgrad_jax._rules._common import Call
from nestgrad_jax._tree import as_hparams, as_key, as_params, check_arguments, check_matching, require_positive


def settled(given: Call) -> Call:
    """The call with Python floats made arrays of the params' dtype; raises for leaves and dtypes that are wrong."""
    weights = as_params(given.params)
    values = as_hparams(given.hparams, jax.tree.leaves(weights)[0].dtype)
    check_matching(
        weights,
        hparams=values,
        inner_batch=given.inner_batch,
        inner_batches=given.inner_batches,
        outer_batch=given.outer_batch,
        warm_start=given.warm_start,
        preconditioner=given.preconditioner,
    )
    return replace(given, params=weights, hparams=values)


def as_direction(hparams: Any, direction: Any) -> Any:
    """The direction in the dtype of hparams; InvalidInput unless it is shaped like them."""
    if jax.tree.structure(hparams) != jax.tree.structure(direction):
        raise InvalidInput(
            f"direction: structure {jax.tree.structure(direction)}, limit: that of hparams, "
            f"{jax.tree.structure(hparams)}. Remedy: pass a tree like hparams."
        )
    for value, part in zip(jax.tree.leaves(hparams), jax.tree.leaves(direction), strict=True):
        if jnp.shape(value) != jnp.shape(part):
            raise InvalidInput(
                f"direction: shape {jnp.shape(part)}, limit: {jnp.shape(value)} as in hparams. Remedy: reshape it."
            )
    return jax.tree.map(lambda value, part: jnp.asarray(part, value.dtype), hparams, direction)


def as_call(params: Any, hparams: Any, *, key: Any = None, **others: Any) -> Call:
    """The call's arguments, checked for what jit itself would hide."""
    trees = {name: tree for name, tree in others.items() if tree is not None and name != "opt_state"}
    check_arguments(params=params, hparams=hparams, **trees)
    if others.get("preconditioner") is not None:
        require_positive(others["preconditioner"], "preconditioner")
    return Call(params=params, hparams=hparams, key=None if key is None else as_key(key), **others)


def require_hashable(caller: str, **specs: Any) -> None:
    """Raise InvalidInput for a spec that cannot be static under jit."""
    for title, spec in specs.items():
        try:
            hash(spec)
        except TypeError as error:
            raise InvalidInput(
                f"{caller}: {title} is not hashable ({error}), limit: functions and numbers, as it is static "
                "under jit. Remedy: write the loss as a function, and pass its arrays by hparams or the batch."
            ) from error


def shared(batches: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """(the distinct batches, which of them each step takes), so that one is not handed over many times."""
    distinct: list[Any] = []
    which: list[int] = []
    for batch in batches:
        known = [i for i, other in enumerate(distinct) if other is batch]
        if not known:
            distinct.append(batch)
        which.append(known[0] if known else len(distinct) - 1)
    return tuple(distinct), tuple(which)
