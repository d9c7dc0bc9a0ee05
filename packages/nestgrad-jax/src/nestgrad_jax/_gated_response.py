"""What of a learned response is a gated one's own: gates along an axis of each leaf, how φ begins, its shapes."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import GatedResponse


def gated_values(response: GatedResponse, params: Any, code: Array) -> Any:
    """bias + (gates c) ⊙ weight, leaf by leaf, for one code c of shape (h,)."""
    axes = jax.tree.unflatten(jax.tree.structure(params["bias"]), axes_of(response, params["bias"]))
    return jax.tree.map(
        lambda bias, weight, gates, axis: bias + laid(gate(gates, code), axis, bias.shape) * weight,
        *(params[name] for name in ("bias", "weight", "gates")),
        axes,
    )


def gate(gates: Array, code: Array) -> Array:
    """One number for each output: (..., h) to (..., outputs)."""
    return jnp.tensordot(code, gates, axes=(code.ndim - 1, 1), precision=lax.Precision.HIGHEST)


def laid(numbers: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """Numbers of a leaf's outputs, (..., outputs), with an axis of one for each other axis of the leaf."""
    ones = [1] * len(shape)
    if shape:
        ones[axis] = numbers.shape[-1]
    return numbers.reshape(*numbers.shape[:-1], *ones)


def axes_of(response: GatedResponse, bias: Any, prefix: str = "") -> list[int]:
    """The axis of the outputs of each leaf, in JAX's order; prefix is the path of this subtree of params."""
    return [response.axis_of(path, leaf.shape) for path, leaf in _paths(bias, prefix)]


def gated_shapes(response: GatedResponse, bias: Any, entries: int) -> dict[str, Any]:
    """φ but for its bias, as shapes."""
    leaves, structure = jax.tree.flatten(bias)
    outputs = _outputs(response, bias)
    return {
        "weight": structure.unflatten([jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]),
        "gates": structure.unflatten(
            [jax.ShapeDtypeStruct((count, entries), leaf.dtype) for count, leaf in zip(outputs, leaves, strict=True)]
        ),
    }


def gated_start(response: GatedResponse, bias: Any, entries: int, key: Array) -> dict[str, Any]:
    """Weight uniform within ±1/√(entries of an output), gates normal; each leaf by a key of its own."""
    response.require_paths([path for path, _ in _paths(bias, "")])
    leaves, structure = jax.tree.flatten(bias)
    weights, gates = [], []
    for leaf, count, own in zip(leaves, _outputs(response, bias), jax.random.split(key, len(leaves)), strict=True):
        first, second = jax.random.split(own)
        end = 1.0 / math.sqrt(max(leaf.size // max(count, 1), 1))
        # Added to the leaf's zeros, so that it is where the leaf is.
        weights.append(jnp.zeros_like(leaf) + jax.random.uniform(first, leaf.shape, leaf.dtype, -end, end))
        drawn = jax.random.normal(second, (count, entries), leaf.dtype)
        gates.append(response.gate_scale * drawn if response.gate_scale else jnp.zeros_like(drawn))
    return {"weight": structure.unflatten(weights), "gates": structure.unflatten(gates)}


def _outputs(response: GatedResponse, bias: Any) -> list[int]:
    axes = axes_of(response, bias)
    return [leaf.shape[axis] if leaf.shape else 1 for leaf, axis in zip(jax.tree.leaves(bias), axes, strict=True)]


def _paths(tree: Any, prefix: str) -> list[tuple[str, Any]]:
    """Each leaf under its path in params, keys joined by '/'."""
    found = []
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        found.append(("/".join(part for part in (prefix, path) if part), leaf))
    return found
