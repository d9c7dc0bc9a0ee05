"""Whether a differentiable path leads from each hyperparameter to anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autograd.core import VJPNode
from autograd.tracer import trace

from nestgrad import BilevelProblem, DisconnectedHyperparameter, tree
from nestgrad_reference._carry import carried
from nestgrad_reference._derivatives import independence_is_no_news, residual


def require_connected(
    problem: BilevelProblem, params: Any, hparams: Any, *, inner_batch: Any, outer_batch: Any, opt_state: Any
) -> None:
    """Raise DisconnectedHyperparameter for a leaf that neither F nor the outer loss depends on differentiably."""
    layout = carried(problem.inner, params, hparams, opt_state)
    s, function = layout.vector, residual(problem.inner, layout, inner_batch)
    require_paths(
        [lambda h: function(s, h), lambda h: problem.outer_loss(params, h, outer_batch)],
        hparams,
        "the inner residual or the outer loss",
    )


def require_paths(functions: list[Callable[[Any], Any]], hparams: Any, target: str) -> None:
    """Raise DisconnectedHyperparameter for a leaf that none of the functions of hparams depends on differentiably."""
    named = tree.named_leaves(hparams)
    for name, leaf in named.items():

        def of_leaf(x: Any, name: str = name) -> Any:
            return tree.unflatten(hparams, [x if other == name else value for other, value in named.items()])

        with independence_is_no_news():
            connected = any(_depends(lambda x, f=function: f(of_leaf(x)), leaf) for function in functions)
        if not connected:
            raise DisconnectedHyperparameter(
                f"hparams[{name!r}]: 0 differentiable paths to {target}, limit: at least "
                "1. Remedy: look for a plain NumPy call, float() or an integer cast between it and the loss."
            )


def _depends(function: Callable[[Any], Any], x: Any) -> bool:
    _, node = trace(VJPNode.new_root(), function, x)
    return node is not None
