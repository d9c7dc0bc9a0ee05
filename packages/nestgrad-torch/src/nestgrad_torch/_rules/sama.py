"""SAMA: the optimizer's derivative in the gradient in place of the inverse, and a central difference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import SAMA, tree
from nestgrad_torch._derivatives import fresh_state, functional_optimizer
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._rules._finish import Outcome, finish
from nestgrad_torch._rules._losses import Losses, either, scaled
from nestgrad_torch._rules.implicit import require_connected
from nestgrad_torch._tree import flat


@METHODS.register(SAMA)
def sama(spec: SAMA, call: Call) -> Findings:
    """v = (∂u/∂g)ᵀ ∂L_out/∂w, indirect = -[∇_λL_in(w + εv) - ∇_λL_in(w - εv)] / 2ε."""
    losses = Losses(call)
    _, g, by_hparams = losses.inner(losses.weights)
    loss, slope, direct = losses.outer(losses.weights)
    require_connected(call.hparams, either(direct, by_hparams))
    update, v = _pulled_back(call, losses, g, slope)
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=scaled(losses.mixed_product(v, spec.radius), -1.0),
        weights=losses.weights,
        slope=slope,
        adjoint=v,
        optimality=vector_norm(update),
        steps=1,
    )
    return finish(call, found)


def _pulled_back(call: Call, losses: Losses, g: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """(u, (∂u/∂g)ᵀ slope) at fixed weights and optimizer state."""
    inner, point = call.problem.inner, call.point
    params = point.plain(losses.weights)
    rule = functional_optimizer(inner, losses.place.hparams)
    state = fresh_state(rule, lambda: params, call.opt_state)
    leaf = g.detach().requires_grad_()
    updates, _ = rule.update(point.plain(leaf), state, params)
    u = -flat(tree.matched(params, updates)[0])
    if not u.requires_grad:
        return u, torch.zeros_like(slope)
    (v,) = torch.autograd.grad(u, [leaf], slope, allow_unused=True)
    return u.detach(), torch.zeros_like(slope) if v is None else v
