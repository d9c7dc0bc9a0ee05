"""Learned responses: weights as a function of the hyperparameters, by the framework's own autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestgrad import (
    FactorisedResponse,
    GatedResponse,
    InvalidInput,
    LinearResponse,
    MLPResponse,
    Response,
    UnsupportedModule,
    features,
    ordered_leaves,
    tree,
)
from nestgrad_torch._gated_response import first_weights, leaf_rows, outputs_of
from nestgrad_torch._tree import Params, as_hparams, check_matching, flat


@torch.inference_mode(mode=False)
def init_response(response: Response, params: Any, hparams: Any, *, key: int) -> dict[str, Any]:
    """The response's weights φ before training, at which respond(...) is params, whatever the hyperparameters.

    bias a copy of params, weight zeros; for FactorisedResponse V ~ N(0, 1/h) and c = 0, for MLPResponse V and c uniform
    between ±1/√h, h the number of hyperparameter entries. For GatedResponse weight is uniform between ±1/√k, k the
    entries an output, and gates ~ N(0, gate_scale²): only where that is 0 does respond(...) begin as params. params: a
    tree of tensors. key: seeds what is drawn.
    """
    _require_kind(response)
    require_no_module("init_response", params)
    point = Params(params)
    hparams = as_hparams(hparams, point.leaves[0])
    check_matching(point, hparams=hparams)
    entries = joined(hparams).numel()
    if isinstance(response, GatedResponse):
        return first_weights(response, params, entries, key=key)
    size, like = features(response, entries), point.leaves[0].detach()
    held: dict[str, Any] = {
        "bias": tree.map(lambda leaf: leaf.detach().clone(), params),
        "weight": tree.map(lambda leaf: leaf.new_zeros((*leaf.shape, size)), params),
    }
    if isinstance(response, LinearResponse):
        return held
    generator = torch.Generator("cpu").manual_seed(key)
    if isinstance(response, FactorisedResponse):
        inner = torch.randn(size, entries, generator=generator, dtype=torch.float64, device="cpu") / entries**0.5
        return {**held, "inner": inner.to(like.dtype).to(like.device), "offset": like.new_zeros(size)}
    drawn = torch.rand(size, entries + 1, generator=generator, dtype=torch.float64, device="cpu")
    drawn = ((2.0 * drawn - 1.0) / entries**0.5).to(like.dtype).to(like.device)
    return {**held, "inner": drawn[:, :-1].clone(), "offset": drawn[:, -1].clone()}


def respond(response: Response, weights: Any, hparams: Any) -> Any:
    """w_φ(λ), a tree like params, for weights φ as init_response makes them; differentiable in both arguments."""
    _require_kind(response)
    require_no_module("respond", weights)
    point = Params(weights)
    hparams = as_hparams(hparams, point.leaves[0])
    check_matching(point, hparams=hparams)
    entries = joined(hparams)
    require_weights(response, weights, entries.numel())
    return responded(response, weights, entries)


def responded(response: Response, weights: Any, entries: Tensor) -> Any:
    """w_φ(λ) for λ in one vector, unchecked."""
    return responses(response, weights, entries.unsqueeze(0))[0]


def responses(response: Response, weights: Any, rows: Tensor) -> list[Any]:
    """w_φ(λ) for each row λ of (samples, h): one product a leaf for them all."""
    if isinstance(response, GatedResponse):
        columns = [list(values.unbind(0)) for values in leaf_rows(response, weights, rows)]
        return [tree.unflatten(weights["bias"], row) for row in zip(*columns, strict=True)]
    z = _features(response, weights, rows)
    (products,) = tree.matched(weights["bias"], weights["weight"])
    columns = []
    for bias, weight in zip(tree.leaves(weights["bias"]), products, strict=True):
        values = torch.addmm(bias.reshape(1, -1), z, weight.reshape(-1, z.shape[1]).T)
        columns.append([row.view(bias.shape) for row in values.unbind(0)])
    return [tree.unflatten(weights["bias"], row) for row in zip(*columns, strict=True)]


def joined(hparams: Any) -> Tensor:
    """λ: all entries of hparams in one vector, leaves in the order of their sorted paths."""
    return flat(ordered_leaves(hparams))


def parted(entries: Tensor, hparams: Any) -> Any:
    """The inverse of `joined`: a tree like hparams of parts of λ, or for rows (..., h) of parts (..., *shape)."""
    named = tree.named_leaves(hparams)
    order = sorted(named)
    columns = entries.split_with_sizes([named[path].numel() for path in order], dim=-1)
    parts = dict(zip(order, columns, strict=True))
    shaped = [parts[path].reshape((*entries.shape[:-1], *leaf.shape)) for path, leaf in named.items()]
    return tree.unflatten(hparams, shaped)


def require_no_module(title: str, params: Any) -> None:
    """Refuse a module: a response makes the values of weights, and a module would keep its own."""
    if isinstance(params, nn.Module):
        raise UnsupportedModule(
            f"{title}: params are a {type(params).__name__}, limit: a tree of tensors. Remedy: pass "
            "dict(module.named_parameters()), and call the module by torch.func.functional_call in the losses."
        )


def require_weights(response: Response, weights: Any, entries: int) -> None:
    """Raise InvalidInput unless φ is what the response needs for so many hyperparameter entries."""
    inner = _inner_shapes(response, entries)
    trees = ("bias", "weight", "gates") if isinstance(response, GatedResponse) else ("bias", "weight")
    given = weights if isinstance(weights, Mapping) else {}
    for key in (*trees, *inner, *given):
        if key not in given:
            limit = f"shape {inner[key]}" if key in inner else "a tree like params"
            raise _odd(response, key, "none", limit, entries)
        if key not in trees and key not in inner:
            raise _odd(response, str(key), "one", f"{', '.join((*trees, *inner))} alone", entries)
    shapes = {**inner, **_leaf_shapes(response, tree.named_leaves(given["bias"]), entries)}
    found = {_below(key, path): leaf for key in trees[1:] for path, leaf in tree.named_leaves(given[key]).items()}
    found |= {key: given[key] for key in inner}
    for name in (*shapes, *found):
        if name not in shapes:
            raise _odd(response, name, "one", "a leaf for each of the bias", entries)
        _require_shape(response, name, found.get(name), shapes[name], entries)


def _inner_shapes(response: Response, entries: int) -> dict[str, tuple[int, ...]]:
    """The shapes of V and c, where the response has them."""
    if isinstance(response, (GatedResponse, LinearResponse)):
        return {}
    size = features(response, entries)
    return {"inner": (size, entries), "offset": (size,)}


def _leaf_shapes(response: Response, named: dict[str, Tensor], entries: int) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf of φ that stands beside one of the bias."""
    if not isinstance(response, GatedResponse):
        size = features(response, entries)
        return {_below("weight", path): (*leaf.shape, size) for path, leaf in named.items()}
    response.require_paths(named)
    shapes = {_below("weight", path): tuple(leaf.shape) for path, leaf in named.items()}
    gates = {_below("gates", path): (outputs_of(response, path, leaf), entries) for path, leaf in named.items()}
    return {**shapes, **gates}


def _features(response: LinearResponse | FactorisedResponse | MLPResponse, weights: Any, rows: Tensor) -> Tensor:
    """z for each row."""
    if isinstance(response, LinearResponse):
        return rows
    z = torch.addmm(weights["offset"], rows, weights["inner"].T)
    return z.relu() if isinstance(response, MLPResponse) else z


def _require_kind(response: Any) -> None:
    if not isinstance(response, Response):
        raise InvalidInput(
            f"response: got {response!r}, limit: LinearResponse, FactorisedResponse, MLPResponse or GatedResponse. "
            "Remedy: pass LinearResponse()."
        )


def _require_shape(response: Response, name: str, leaf: Any, shape: tuple[int, ...], entries: int) -> None:
    found = tuple(leaf.shape) if isinstance(leaf, Tensor) else "none"
    if found != shape:
        raise _odd(response, name, str(found), f"shape {shape}", entries)


def _odd(response: Response, name: str, found: str, limit: str, entries: int) -> InvalidInput:
    return InvalidInput(
        f"{response!r} of {entries} hyperparameter entries: weights[{name!r}]: got {found}, limit: {limit}. "
        f"Remedy: init_response({response!r}, params, hparams, key=0)."
    )


def _below(key: str, path: str) -> str:
    return f"{key}/{path}" if path else key
