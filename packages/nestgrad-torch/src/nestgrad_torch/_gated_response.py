"""Gated responses: leaves whose outputs move together, by gates linear in the hyperparameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nestgrad import GatedResponse, tree


def first_weights(response: GatedResponse, params: Any, entries: int, *, key: int) -> dict[str, Any]:
    """φ before training: bias a copy of params, weight ~ U(±1/√(entries an output)), gates ~ N(0, gate_scale²).

    Drawn on the CPU in float64, leaf after leaf in the order of their sorted paths, a leaf's weight before its gates.
    """
    named = tree.named_leaves(params)
    response.require_paths(named)
    generator = torch.Generator("cpu").manual_seed(key)
    weight, gates = dict[str, Tensor](), dict[str, Tensor]()
    for path in sorted(named):
        leaf = named[path]
        outputs = outputs_of(response, path, leaf)
        bound = 1.0 / math.sqrt(max(leaf.numel() // max(outputs, 1), 1))
        drawn = torch.rand(leaf.shape, generator=generator, dtype=torch.float64, device="cpu")
        weight[path] = ((2.0 * drawn - 1.0) * bound).to(leaf.dtype).to(leaf.device)
        moves = torch.randn(outputs, entries, generator=generator, dtype=torch.float64, device="cpu")
        gates[path] = (response.gate_scale * moves).to(leaf.dtype).to(leaf.device)
    return {
        "bias": tree.map(lambda leaf: leaf.detach().clone(), params),
        "weight": tree.unflatten(params, [weight[path] for path in named]),
        "gates": tree.unflatten(params, [gates[path] for path in named]),
    }


def outputs_of(response: GatedResponse, path: str, leaf: Tensor) -> int:
    """How many outputs a leaf has."""
    axis = response.axis_of(path, tuple(leaf.shape))
    return leaf.shape[axis] if leaf.dim() else 1


def leaf_rows(response: GatedResponse, weights: Any, codes: Tensor, sign: int = 1) -> list[Tensor]:
    """bias + sign · (gates c) ⊙ weight for each row c of (rows, h): a tensor (rows, *shape) a leaf of φ's bias."""
    named = tree.named_leaves(weights["bias"])
    weight, gates = tree.matched(weights["bias"], weights["weight"], weights["gates"])
    rows = zip(named.items(), weight, gates, strict=True)
    return [gated(response, path, bias, moved, gate, codes, sign) for (path, bias), moved, gate in rows]


def gated(
    response: GatedResponse, path: str, bias: Tensor, weight: Tensor, gates: Tensor, codes: Tensor, sign: int = 1
) -> Tensor:
    """The same for one leaf."""
    gate, shape = codes @ gates.T, [1] * bias.dim()
    if shape:
        shape[response.axis_of(path, tuple(bias.shape))] = -1
    return torch.addcmul(bias, weight, gate.reshape((len(codes), *shape)), value=sign)
