"""Learned responses as a method: the response's own Jacobian in the place of the implicit one."""

from __future__ import annotations

import dataclasses
from typing import get_args

import torch
from torch.linalg import vector_norm

from nestgrad import Response, tree
from nestgrad_torch._responses import joined, require_no_module, require_weights, responded
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._rules._finish import Outcome, finish
from nestgrad_torch._rules._losses import Losses, either
from nestgrad_torch._rules.implicit import require_connected
from nestgrad_torch._tree import flat


def learned(spec: Response, call: Call) -> Findings:
    """w = w_φ(λ), v = ∂L_out/∂w there, indirect = (∂w_φ/∂λ)ᵀ v; the call's params are φ."""
    require_no_module(f"hypergradient by {spec!r}", call.point.module)
    leaves = [h.detach().requires_grad_() for h in tree.leaves(call.hparams)]
    entries = joined(tree.unflatten(call.hparams, leaves))
    require_weights(spec, call.point.tree, entries.numel())
    answer = responded(spec, tree.map(torch.detach, call.point.tree), entries)
    there = dataclasses.replace(call, point=call.point.of(tree.map(torch.detach, answer)))
    losses = Losses(there)
    _, slope, by_hparams = losses.inner(losses.weights)
    loss, v, direct = losses.outer(losses.weights)
    require_connected(call.hparams, either(direct, by_hparams))
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=list(torch.autograd.grad(flat(tree.leaves(answer)), leaves, v)),
        weights=losses.weights,
        slope=v,
        adjoint=v,
        optimality=vector_norm(slope),
    )
    return finish(there, found, params=there.point.tree)


for _kind in get_args(Response):
    METHODS.register(_kind)(learned)
