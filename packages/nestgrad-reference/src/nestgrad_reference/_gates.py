"""Gated responses by their formula: each leaf is bias + g ⊙ weight, g = gates @ λ laid along the leaf's axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nestgrad import GatedResponse, tree
from nestgrad_reference._tree import Vector, xp

KEYS = ("bias", "weight", "gates")


def init_gated(response: GatedResponse, weights: Any, entries: int, key: int) -> Any:
    """φ whose bias is these weights: weight uniform in ±1/√(size/outputs), gates normal of deviation gate_scale."""
    response.require_paths(tree.named_leaves(weights))
    rng, drawn, gates = np.random.default_rng(key), list[Any](), list[Any]()
    for path, leaf in tree.named_leaves(weights).items():
        outputs = outputs_of(response, path, leaf.shape)
        bound = 1.0 / np.sqrt(leaf.size / outputs)
        drawn.append(rng.uniform(-bound, bound, leaf.shape))
        gates.append(response.gate_scale * rng.normal(size=(outputs, entries)))
    return {"bias": weights, "weight": tree.unflatten(weights, drawn), "gates": tree.unflatten(weights, gates)}


def gated_weights(response: GatedResponse, phi: Any, code: Any) -> Any:
    """w_φ at a code (h,), a tree like params; autograd differentiates it in φ and in the code."""
    made = [
        bias + along(response, path, xp.dot(gates, code), np.shape(bias)) * weight
        for path, bias, weight, gates in _rows(phi)
    ]
    return tree.unflatten(phi["bias"], made)


def gated_jacobian(response: GatedResponse, phi: Any) -> np.ndarray:
    """∂w_φ/∂λ, (p, h), whatever λ is."""
    blocks = [
        (along(response, path, gates, bias.shape) * weight[..., None]).reshape(bias.size, -1)
        for path, bias, weight, gates in _rows(phi)
    ]
    return np.concatenate(blocks)


def gradient_in_gated(response: GatedResponse, phi: Any, lam: Vector, by_weights: Any) -> Any:
    """∂L/∂φ from ∂L/∂w at w_φ(λ)."""
    (slopes,) = tree.matched(phi["bias"], by_weights)
    by_weight, by_gates = list[Any](), list[Any]()
    for (path, bias, weight, gates), slope in zip(_rows(phi), slopes, strict=True):
        by_weight.append(along(response, path, gates @ lam, bias.shape) * slope)
        axis = response.axis_of(path, bias.shape)
        each = np.moveaxis(np.atleast_1d(slope * weight), axis, 0).reshape(len(gates), -1)
        by_gates.append(np.outer(each.sum(1), lam))
    return {
        "bias": by_weights,
        "weight": tree.unflatten(phi["bias"], by_weight),
        "gates": tree.unflatten(phi["bias"], by_gates),
    }


def gated_shapes(response: GatedResponse, bias: Any, entries: int) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf of weight and gates, by its path in φ."""
    named = tree.named_leaves(bias)
    response.require_paths(named)
    found = dict[str, tuple[int, ...]]()
    for path, leaf in named.items():
        found[f"weight/{path}"] = np.shape(leaf)
        found[f"gates/{path}"] = (outputs_of(response, path, np.shape(leaf)), entries)
    return found


def outputs_of(response: GatedResponse, path: str, shape: tuple[int, ...]) -> int:
    """How many gates a leaf has."""
    axis = response.axis_of(path, shape)
    return shape[axis] if shape else 1


def along(response: GatedResponse, path: str, gates: Any, shape: tuple[int, ...]) -> Any:
    """Gates (outputs, ...) laid along the axis of a leaf of this shape, further axes behind the leaf's own."""
    axis, further = response.axis_of(path, shape), np.shape(gates)[1:]
    laid = [1] * len(shape)
    if shape:
        laid[axis] = shape[axis]
    return xp.reshape(gates, (*laid, *further))


def _rows(phi: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """(path, bias, weight, gates) of each leaf, in the order of the bias, whatever that of the other two."""
    named = tree.named_leaves(phi["bias"])
    yield from zip(named, named.values(), *tree.matched(phi["bias"], phi["weight"], phi["gates"]), strict=True)
