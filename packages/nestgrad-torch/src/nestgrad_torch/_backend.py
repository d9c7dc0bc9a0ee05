"""The backend's two entry points: hypergradient and supports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestgrad import BilevelProblem, HyperGradient, Implicit, Minimize, UnsupportedSpec, WeightUpdate, tree
from nestgrad_torch._derivatives import gradient_with_graph, linearize, scalar_loss
from nestgrad_torch._rules.implicit import implicit
from nestgrad_torch._solvers._common import SOLVERS
from nestgrad_torch._tree import Params, as_hparams, check_matching, untouched


@torch.inference_mode(mode=False)  # which also turns gradients on, whatever mode the caller is in
def hypergradient(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Implicit,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    throw: bool = True,
) -> HyperGradient:
    """d outer_loss / d hparams at these params: total = direct - Bᵀp (see nestgrad.Implicit).

    params: a tree of floating tensors, or an nn.Module, whose trainable params are meant; losses then receive a
    ModuleParams. hparams: a tree of floating tensors or Python floats. opt_state: the optimizer's state, for a
    WeightUpdate; a fresh one when None. Nothing that is passed in is changed, nor are the random number generators.

    Raises the errors of nestgrad: for wrong input always, for a failed solve unless throw=False, which returns the
    status instead.
    """
    if not isinstance(method, Implicit):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnsupportedSpec(
            f"hypergradient: method {method!r}, limit: Implicit. Remedy: pass Implicit(solver=CG(...))."
        )
    point = Params(params)
    hparams = as_hparams(hparams, point.leaves[0])
    check_matching(point, hparams=hparams, inner_batch=inner_batch, outer_batch=outer_batch)
    with untouched(point):
        leaves: list[Tensor] = [h.detach().requires_grad_() for h in tree.leaves(hparams)]
        values = tree.unflatten(hparams, leaves)
        weights = point.vector()
        loss = scalar_loss(problem.inner.loss, "inner loss", point.shape(weights), values, inner_batch)
        slope = gradient_with_graph(loss, weights)
        linear = linearize(problem.inner, point.shape, weights, values, leaves, slope, opt_state)
        outer = scalar_loss(problem.outer_loss, "outer_loss", point.shape(weights), values, outer_batch)
        return implicit(method, linear, outer, weights, hparams, throw=throw)


def supports(spec_type: type) -> bool:
    """Whether this backend has a rule for the spec type."""
    return spec_type in (Minimize, WeightUpdate, Implicit) or spec_type in SOLVERS
