"""The elementary functions of the hyperparameter spaces, which autograd differentiates, and each slope by hand."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from nestgrad import Bounded, Log, Log10, Logit, Real, Softplus, Space, SpaceOps
from nestgrad_reference._tree import xp


class _NumpyOps:
    exp = staticmethod(xp.exp)
    log = staticmethod(xp.log)
    expm1 = staticmethod(xp.expm1)

    @staticmethod
    def sigmoid(x: Any, /) -> Any:
        return 0.5 * (1.0 + xp.tanh(0.5 * x))

    @staticmethod
    def softplus(x: Any, /) -> Any:
        return xp.logaddexp(x, 0.0)


OPS = cast("SpaceOps", _NumpyOps())


def slope(space: Space, value: Any) -> Any:
    """d value / d leaf, as a function of the natural value."""
    match space:
        case Real():
            return np.ones_like(value)
        case Log():
            return value
        case Log10():
            return math.log(10.0) * value
        case Logit():
            return value * (1.0 - value)
        case Softplus():
            return -np.expm1(-value)
        case Bounded():
            return (value - space.low) * (space.high - value) / (space.high - space.low)
        case _:
            raise NotImplementedError(f"slope of {type(space).__name__}: use one of nestgrad's own spaces")
