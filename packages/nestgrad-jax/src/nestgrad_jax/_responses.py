"""Learned responses: params as a function of the hyperparameters, in JAX; nestgrad._methods.responses defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import GatedResponse, InvalidInput, LinearResponse, MLPResponse, Response, features, ordered_leaves
from nestgrad_jax._gated_response import gated_shapes, gated_start, gated_values
from nestgrad_jax._shardings import beside
from nestgrad_jax._tree import as_hparams, as_key, as_params, check_arguments, check_matching, named_leaves

_REMEDY = "Remedy: init_response(response, params, hparams, key=0), whose tree this must be like."


def init_response(response: Response, params: Any, hparams: Any, *, key: Any) -> Any:
    """φ of a response that is params everywhere: bias a copy of params, and weight or gates zero.

    params: a pytree of floating arrays. hparams: of them the number of entries h matters alone. key: an int or a PRNG
    key; V of a FactorisedResponse is drawn from N(0, 1/h), V and c of an MLPResponse are from ±1/√h, uniformly; weight
    of a GatedResponse is from ±1/√(entries of an output), uniformly, and its gates from N(0, gate_scale²).
    """
    _require_response(response)
    check_arguments(params=params, hparams=hparams)
    bias = jax.tree.map(jnp.array, as_params(params))
    dtype = jax.tree.leaves(bias)[0].dtype
    check_matching(bias)
    entries = as_vector(as_hparams(hparams, dtype)).size
    if not entries:
        raise InvalidInput("hparams: 0 entries, limit: at least 1. Remedy: pass the values that params respond to.")
    if isinstance(response, GatedResponse):
        return beside(bias, {"bias": bias, **gated_start(response, bias, entries, as_key(key))})
    size = features(response, entries)
    # Made from the leaf, so that it is where the leaf is.
    weight = jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.zeros_like(leaf)[..., None], (*leaf.shape, size)), bias)
    return beside(bias, {"bias": bias, "weight": weight, **_inner(response, size, entries, dtype, as_key(key))})


def respond(response: Response, params: Any, hparams: Any) -> Any:
    """w_φ(λ), a tree like the params that φ was made for; differentiable in both.

    params: φ, of init_response. hparams: a pytree of floating arrays or Python floats. InvalidInput for another φ.
    """
    _require_response(response)
    check_arguments(params=params, hparams=hparams)
    weights = as_params(params)
    values = as_hparams(hparams, jax.tree.leaves(weights)[0].dtype)
    check_matching(weights, hparams=values)
    return _responded_jitted(response, weights, values)


def responded(response: Response, params: Any, hparams: Any) -> Any:
    """w_φ(λ) of arrays of one dtype, traced; InvalidInput for a φ of another kind or shape."""
    return responded_at(response, params, as_vector(hparams))


def responded_at(response: Response, params: Any, vector: Array) -> Any:
    """`responded` for a λ in one vector, or a code in its place."""
    require_shapes(response, params, vector.size)
    if isinstance(response, GatedResponse):
        return gated_values(response, params, vector)
    if "inner" in params:
        vector = jnp.dot(params["inner"], vector, precision=lax.Precision.HIGHEST) + params["offset"]
    z = jax.nn.relu(vector) if isinstance(response, MLPResponse) else vector
    return jax.tree.map(
        lambda b, w: b + jnp.tensordot(w, z, axes=1, precision=lax.Precision.HIGHEST), params["bias"], params["weight"]
    )


_responded_jitted = partial(jax.jit, static_argnames="response")(responded)


def as_vector(hparams: Any) -> Array:
    """λ: the entries of all hyperparameters, leaves in the order of their sorted paths."""
    leaves = jax.tree.leaves(hparams)
    return jnp.concatenate([jnp.ravel(leaves[i]) for i in _order(hparams)])


def as_tree(vector: Array, like: Any) -> Any:
    """The tree whose entries are this λ: the inverse of as_vector."""
    leaves, structure = jax.tree.flatten(like)
    order = _order(like)
    ends = [0]
    for i in order:
        ends.append(ends[-1] + leaves[i].size)
    parts = {i: vector[ends[at] : ends[at + 1]].reshape(leaves[i].shape) for at, i in enumerate(order)}
    return structure.unflatten([parts[i] for i in range(len(leaves))])


def require_shapes(response: Response, params: Any, entries: int) -> None:
    """Raise InvalidInput unless φ is one of this response, for so many hyperparameter entries."""
    if not isinstance(params, Mapping) or "bias" not in params:
        raise InvalidInput(f"params: no 'bias' in {_kind(params)}, limit: the tree of {response!r}. {_REMEDY}")
    wanted = {"bias": params["bias"], **_shapes(response, params["bias"], entries)}
    found, expected = dict(named_leaves("params", dict(params))), dict(named_leaves("params", wanted))
    for name in sorted(found.keys() ^ expected.keys()):
        there, limit = (tree[name].shape if name in tree else "no such leaf" for tree in (found, expected))
        raise InvalidInput(f"{name}: {_said(there)}, limit: {_said(limit)} for {response!r}. {_REMEDY}")
    for name, leaf in expected.items():
        if found[name].shape != leaf.shape:
            raise InvalidInput(
                f"{name}: shape {found[name].shape}, limit: {leaf.shape} for {response!r} and {entries} hyperparameter "
                f"entries. {_REMEDY}"
            )


def _shapes(response: Response, bias: Any, entries: int) -> dict[str, Any]:
    """φ but for its bias, as shapes."""
    if isinstance(response, GatedResponse):
        return gated_shapes(response, bias, entries)
    size = features(response, entries)
    leaves, structure = jax.tree.flatten(bias)
    shapes = [jax.ShapeDtypeStruct((*leaf.shape, size), leaf.dtype) for leaf in leaves]
    wanted: dict[str, Any] = {"weight": structure.unflatten(shapes)}
    if not isinstance(response, LinearResponse):
        wanted["inner"] = jax.ShapeDtypeStruct((size, entries), leaves[0].dtype)
        wanted["offset"] = jax.ShapeDtypeStruct((size,), leaves[0].dtype)
    return wanted


def _said(shape: Any) -> str:
    return shape if isinstance(shape, str) else f"shape {shape}"


def _kind(params: Any) -> str:
    return f"the keys {sorted(map(str, params))}" if isinstance(params, Mapping) else type(params).__name__


def _inner(response: Response, size: int, entries: int, dtype: Any, key: Array) -> dict[str, Array]:
    """V and c as they begin; none of a LinearResponse."""
    if isinstance(response, LinearResponse):
        return {}
    first, second = jax.random.split(key)
    end = 1.0 / math.sqrt(entries)
    if isinstance(response, MLPResponse):
        return {
            "inner": jax.random.uniform(first, (size, entries), dtype, -end, end),
            "offset": jax.random.uniform(second, (size,), dtype, -end, end),
        }
    return {"inner": end * jax.random.normal(first, (size, entries), dtype), "offset": jnp.zeros(size, dtype)}


def _order(hparams: Any) -> list[int]:
    """Which of JAX's leaves is the first in λ, the second, and so on."""
    structure = jax.tree.structure(hparams)
    places = structure.unflatten(range(structure.num_leaves))
    return [place for entry in ordered_leaves(places) for place in jax.tree.leaves(entry)]


def _require_response(response: Any) -> None:
    if not isinstance(response, get_args(Response)):
        there = ", ".join(kind.__name__ for kind in get_args(Response))
        raise InvalidInput(f"response: got {response!r}, limit: {there}. Remedy: pass LinearResponse().")
