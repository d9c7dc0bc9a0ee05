"""Learned responses by their formulas: weights from hyperparameters, the response Jacobian, the gradient in φ.

Those of a gated response are in `_gates`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nestgrad import (
    FactorisedResponse,
    GatedResponse,
    InvalidInput,
    LinearResponse,
    Response,
    features,
    ordered_leaves,
    tree,
)
from nestgrad_reference._gates import (
    KEYS,
    gated_jacobian,
    gated_shapes,
    gated_weights,
    gradient_in_gated,
    init_gated,
)
from nestgrad_reference._tree import Vector, as_hparams, as_params, xp


def init_response(response: Response, params: Any, hparams: Any, *, key: int) -> Any:
    """φ of a response whose weights are params whatever the hyperparameters; `key` seeds what is drawn.

    weight is zero. FactorisedResponse: V ~ N(0, 1/h), c = 0; MLPResponse: V and c uniform in ±1/√h. GatedResponse:
    weight uniform in ±1/√(size/outputs), gates N(0, gate_scale²); only where these are 0 are its weights params.
    """
    weights, entries = as_params(params), joined(as_hparams(hparams)).size
    if isinstance(response, GatedResponse):
        return init_gated(response, weights, entries, key)
    count = features(response, entries)
    phi = {"bias": weights, "weight": tree.map(lambda p: np.zeros((*p.shape, count)), weights)}
    if isinstance(response, LinearResponse):
        return phi
    rng, bound = np.random.default_rng(key), 1.0 / math.sqrt(entries)
    if isinstance(response, FactorisedResponse):
        return {**phi, "inner": bound * rng.normal(size=(count, entries)), "offset": np.zeros(count)}
    drawn = rng.uniform(-bound, bound, (count, entries + 1))
    return {**phi, "inner": drawn[:, 1:], "offset": drawn[:, 0]}


def respond(response: Response, phi: Any, hparams: Any) -> Any:
    """w_φ(λ), a tree like params."""
    phi, lam = as_params(phi), joined(as_hparams(hparams))
    require_fitting(response, phi, lam.size)
    return weights_at(response, phi, lam)


def weights_at(response: Response, phi: Any, lam: Vector) -> Any:
    """w_φ(λ) for λ in one vector."""
    if isinstance(response, GatedResponse):
        return gated_weights(response, phi, lam)
    z, _ = _features_at(response, phi, lam)
    return tree.map(lambda bias, weight: bias + weight @ z, phi["bias"], phi["weight"])


def jacobian(response: Response, phi: Any, lam: Vector) -> np.ndarray:
    """∂w_φ/∂λ, (p, h), rows in the order of the leaves of params."""
    if isinstance(response, GatedResponse):
        return gated_jacobian(response, phi)
    _, slope = _features_at(response, phi, lam)
    return _rows(phi) @ slope


def gradient_in_response(response: Response, phi: Any, lam: Vector, by_weights: Any) -> Any:
    """∂L/∂φ, a tree like φ, from ∂L/∂w, a tree like params, at w_φ(λ)."""
    if isinstance(response, GatedResponse):
        return gradient_in_gated(response, phi, lam, by_weights)
    z, _ = _features_at(response, phi, lam)
    found = {"bias": by_weights, "weight": tree.map(lambda g: g[..., None] * z, by_weights)}
    if isinstance(response, LinearResponse):
        return found
    (slopes,) = tree.matched(phi["bias"], by_weights)
    by_features = _active(response, phi, lam) * (_rows(phi).T @ np.concatenate([g.reshape(-1) for g in slopes]))
    return {**found, "inner": np.outer(by_features, lam), "offset": by_features}


def _rows(phi: Any) -> np.ndarray:
    """weight as a matrix, (p, features), rows in the order of the bias, whatever that of its own keys."""
    (leaves,) = tree.matched(phi["bias"], phi["weight"])
    return np.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves])


def joined(hparams: Any) -> Vector:
    """λ: all entries in one vector, leaves by sorted path."""
    return xp.concatenate([xp.reshape(leaf, (-1,)) for leaf in ordered_leaves(hparams)])


def parted(hparams: Any, vector: Any) -> Any:
    """The inverse of `joined`."""
    named, begun, parts = tree.named_leaves(hparams), 0, dict[str, Any]()
    for path in sorted(named):
        size = np.size(named[path])
        parts[path] = xp.reshape(vector[begun : begun + size], np.shape(named[path]))
        begun += size
    return tree.unflatten(hparams, [parts[path] for path in named])


def require_fitting(response: Response, phi: Any, entries: int) -> None:
    """Raise InvalidInput unless φ is one of this response, for so many hyperparameter entries."""
    wanted = _keys(response)
    if not isinstance(phi, dict) or set(phi) != wanted:
        got = sorted(phi) if isinstance(phi, dict) else type(phi).__name__
        _refuse(f"params: got {got}, limit: {sorted(wanted)} of {type(response).__name__}")
    shapes = _shapes(response, phi["bias"], entries)
    named = tree.named_leaves({key: phi[key] for key in wanted if key != "bias"})
    for path, shape in shapes.items():
        if path not in named or np.shape(named[path]) != shape:
            got = np.shape(named[path]) if path in named else "nothing"
            _refuse(f"params[{path!r}]: got {got}, limit: {shape}, of {type(response).__name__} in {entries} entries")


def _keys(response: Response) -> set[str]:
    if isinstance(response, GatedResponse):
        return set(KEYS)
    return {"bias", "weight"} | (set() if isinstance(response, LinearResponse) else {"inner", "offset"})


def _shapes(response: Response, bias: Any, entries: int) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf of φ but the bias, by its path."""
    if isinstance(response, GatedResponse):
        return gated_shapes(response, bias, entries)
    count = features(response, entries)
    weights = {f"weight/{path}": (*np.shape(leaf), count) for path, leaf in tree.named_leaves(bias).items()}
    return weights | ({} if isinstance(response, LinearResponse) else {"inner": (count, entries), "offset": (count,)})


def _refuse(what: str) -> None:
    raise InvalidInput(f"{what}. Remedy: pass the tree of init_response(response, params, hparams, key=0).")


def _features_at(response: Response, phi: Any, lam: Vector) -> tuple[Vector, np.ndarray]:
    """(z, ∂z/∂λ)."""
    if isinstance(response, LinearResponse):
        return lam, np.eye(lam.size)
    active = _active(response, phi, lam)
    return active * (phi["inner"] @ lam + phi["offset"]), active[:, None] * phi["inner"]


def _active(response: Response, phi: Any, lam: Vector) -> Vector:
    """The derivative of each feature in what it is made of."""
    if isinstance(response, FactorisedResponse):
        return np.ones_like(phi["offset"])
    return (phi["inner"] @ lam + phi["offset"] > 0.0).astype(np.float64)
