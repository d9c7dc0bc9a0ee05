"""Preflight: each hyperparameter's derivative by autograd beside differences of the functions themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import autograd
import numpy as np

from nestgrad import BilevelProblem, Finding, Probe, WeightUpdate, examine_probe, report_findings, require_inner, tree
from nestgrad_reference._carry import carried
from nestgrad_reference._checks import scalar_loss
from nestgrad_reference._connected import require_connected
from nestgrad_reference._derivatives import independence_is_no_news, residual, step
from nestgrad_reference._tree import as_hparams, as_params, check_matching, flatten, xp

_EPS = float(np.finfo(np.float64).eps)
_STEPS = 2
"""Steps of a weight update that are probed: in the first one an empty momentum has no effect."""


def check(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    allow_no_effect: Collection[str] = (),
    strict: bool = False,
) -> tuple[Finding, ...]:
    """Warn of hyperparameters whose derivative is exactly 0 or is not what differences say; return the findings.

    Both levels are probed at once: L_out plus a fixed random combination of the inner residual's entries (for a
    WeightUpdate, of the weights after two steps). allow_no_effect names those that may act on nothing. strict raises
    DisconnectedHyperparameter in place of the first warning, as a hyperparameter without any path always does.
    """
    require_inner(problem.inner)
    weights, values = as_params(params), as_hparams(hparams)
    check_matching(params, hparams=hparams, inner_batch=inner_batch, outer_batch=outer_batch)
    require_connected(problem, weights, values, inner_batch=inner_batch, outer_batch=outer_batch, opt_state=opt_state)
    with np.errstate(all="ignore"):  # a probe may go where a root or a logarithm has no value
        value = _scalar(problem, weights, values, inner_batch, outer_batch, opt_state)
        probes = [_probe(name, value, values) for name in tree.named_leaves(values)]
        examined = [examine_probe(probe, allow_no_effect) for probe in probes]
    return report_findings([finding for finding in examined if finding is not None], strict=strict)


def _scalar(
    problem: BilevelProblem, params: Any, hparams: Any, inner_batch: Any, outer_batch: Any, opt_state: Any
) -> Callable[[Any], Any]:
    """One number that both levels feed, as a function of the tree of hparams."""
    inner, layout = problem.inner, carried(problem.inner, params, hparams, opt_state)
    outer, s = scalar_loss(problem.outer_loss, "outer_loss"), layout.vector
    function = residual(inner, layout, inner_batch)
    if isinstance(inner, WeightUpdate):
        move, w, state = step(inner, params, inner_batch), flatten(params)[0], layout.opt_state

        def vector(h: Any) -> Any:
            moved, entering = w, state
            for _ in range(_STEPS):
                moved, entering = move(moved, entering, h)
            return moved - w
    else:

        def vector(h: Any) -> Any:
            return function(s, h)

    entries = np.asarray(vector(hparams))
    weights = np.random.default_rng(0).normal(size=entries.size)
    size, level = abs(float(weights @ entries)), abs(float(outer(params, hparams, outer_batch)))
    scale = level / size if size and level else 1.0  # neither level drowns the other in its rounding
    return lambda h: outer(params, h, outer_batch) + scale * xp.dot(weights, vector(h))


def _probe(name: str, value: Callable[[Any], Any], hparams: Any) -> Probe:
    """The probe of one leaf."""
    named = tree.named_leaves(hparams)
    leaf = named[name]
    unit = np.where(leaf == 0.0, 1.0, np.abs(leaf))

    def at(x: Any) -> Any:
        return value(tree.unflatten(hparams, [x if other == name else each for other, each in named.items()]))

    with independence_is_no_news():
        slope = np.asarray(autograd.grad(at)(leaf))  # pyright: ignore[reportCallIssue]
    return Probe(
        name=name,
        value=lambda step: float(at(leaf + step * unit)),
        slope=float(np.sum(slope * unit)),
        size=float(np.linalg.norm(slope)),
        noise=_EPS,
    )
