"""Steps of an inner problem and their dense derivatives, weights and optimizer state together."""

from __future__ import annotations

from typing import Any

import autograd
import numpy as np

from nestgrad import tree
from nestgrad_reference._carry import Carried
from nestgrad_reference._derivatives import independence_is_no_news, step
from nestgrad_reference._tree import concatenate, flatten, matched


def advance(inner: Any, at: Carried, hparams: Any, batch: Any) -> Carried:
    """The state after one step."""
    w, restore = flatten(at.params)
    moved, after = step(inner, at.params, batch)(w, at.opt_state, hparams)
    if after is not None:
        after = tree.unflatten(at.opt_state, matched(at.opt_state, after, "opt_state"))
    return Carried(restore(np.asarray(moved)), after, at.whole)


def derivatives(inner: Any, at: Carried, hparams: Any, batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """A = ∂Φ/∂s and B = ∂Φ/∂λ of one step, dense."""
    s, (h, shape_hparams) = at.vector, flatten(hparams)
    move = step(inner, at.params, batch)

    def phi(s: Any, h: Any) -> Any:
        w, entering = at.split(s)
        return at.join(*move(w, entering, shape_hparams(h)))

    with independence_is_no_news():
        return (
            autograd.jacobian(phi, 0)(s, h).reshape(s.size, s.size),
            autograd.jacobian(phi, 1)(s, h).reshape(s.size, h.size),
        )


def distance(before: Carried, after: Carried) -> float:
    """The norm of the difference in the weights."""
    return float(np.linalg.norm(concatenate(after.params) - concatenate(before.params)))
