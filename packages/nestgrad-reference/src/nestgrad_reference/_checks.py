"""Users' functions, refused by name unless they return what they should."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import Loss, NonScalarLoss, UnsupportedOptimizer, WeightUpdate
from nestgrad_reference._tree import concatenate, shaped


def scalar_loss(loss: Loss, level: str) -> Loss:
    """The loss, refused by name unless it returns one real floating-point number."""

    def checked(params: Any, hparams: Any, batch: Any) -> Any:
        value = loss(params, hparams, batch)
        plain = np.asarray(getattr(value, "_value", value))
        while plain.dtype == object:
            plain = np.asarray(getattr(plain.item(), "_value", plain.item()))
        if plain.shape != () or not np.issubdtype(plain.dtype, np.floating):
            raise NonScalarLoss(
                f"{level} returned shape {plain.shape} of {plain.dtype}, limit: shape () of a real floating type. "
                "Remedy: take .mean() or .sum()."
            )
        return value

    return checked


def functional_optimizer(inner: WeightUpdate, hparams: Any) -> Any:
    """inner.optimizer(hparams), refused by name unless it is a functional rule."""
    rule = inner.optimizer(hparams)
    if not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise UnsupportedOptimizer(
            f"WeightUpdate.optimizer returned {type(rule).__name__}, limit: an object with init(params) and "
            "update(grads, state, params). Remedy: use nestgrad_reference.optim.sgd."
        )
    return rule


def like_params(found: Any, params: Any, title: str) -> Any:
    """The tree's entries as one vector, in the order of params; InvalidInput unless it has their form."""
    return concatenate(shaped(params, found, title))
