"""Weights of learned responses, drawn, and the weights that they give, by their formulas."""

from __future__ import annotations

from typing import Any

import autograd.numpy as anp  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from nestgrad import GatedResponse, LinearResponse, MLPResponse, features, tree
from nestgrad_conformance.draws import Draw

xp: Any = anp  # it makes its names at import, out of a type checker's sight


def drawn_response(draw: Draw, response: Any, params: Any, entries: int, size: float = 0.3) -> Any:
    """A drawn φ whose bias is params."""
    named: dict[str, np.ndarray] = tree.named_leaves(params)
    gated = isinstance(response, GatedResponse)
    further = () if gated else (features(response, entries),)
    weight = [size * draw.normal(*np.shape(leaf), *further) for leaf in named.values()]
    phi = {"bias": params, "weight": tree.unflatten(params, weight)}
    if gated:
        gates = [draw.normal(_outputs(response, path, np.shape(leaf)), entries) for path, leaf in named.items()]
        return {**phi, "gates": tree.unflatten(params, gates)}
    if isinstance(response, LinearResponse):
        return phi
    return {**phi, "inner": draw.normal(*further, entries), "offset": 0.3 * draw.normal(*further)}


def responding(response: Any, phi: Any, lam: Any) -> Any:
    """w_φ(λ), which autograd differentiates: bias + weight · z(λ), or bias + (gates λ) ⊙ weight."""
    named: dict[str, Any] = tree.named_leaves(phi["bias"])
    weights: list[Any] = tree.leaves(phi["weight"])
    if isinstance(response, GatedResponse):
        gates: list[Any] = tree.leaves(phi["gates"])
        rows = zip(named.items(), weights, gates, strict=True)
        made = [
            _gated(response.axis_of(path, np.shape(bias)), bias, weight, gate, lam)
            for (path, bias), weight, gate in rows
        ]
        return tree.unflatten(phi["bias"], made)
    z = lam if isinstance(response, LinearResponse) else phi["inner"] @ lam + phi["offset"]
    if isinstance(response, MLPResponse):
        z = xp.maximum(z, 0.0)
    made = [bias + xp.sum(weight * z, -1) for bias, weight in zip(named.values(), weights, strict=True)]
    return tree.unflatten(phi["bias"], made)


def _outputs(response: GatedResponse, path: str, shape: tuple[int, ...]) -> int:
    return shape[response.axis_of(path, shape)] if shape else 1


def _gated(axis: int, bias: Any, weight: Any, gates: Any, lam: Any) -> Any:
    """An output at a time: its gate is one number."""
    if not np.ndim(bias):
        return bias + xp.sum(gates * lam) * weight
    taken = (slice(None),) * axis
    outputs = [bias[(*taken, k)] + xp.sum(gates[k] * lam) * weight[(*taken, k)] for k in range(len(gates))]
    return xp.stack(outputs, axis=axis)
