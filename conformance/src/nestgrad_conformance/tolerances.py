"""How far a right number may lie from the reference, by solver family and dtype.

Relative, norm-wise, per hyperparameter, against |B|ᵀ|p| (the size that rounding errors of a dot product scale with), and
for the direct term against the outer loss where that is larger: a mean over rows can cancel in its derivative, not in its
own value. Worst rounding measured on 200 random problems a cell: series of up to 50 terms 3e-15 and 5e-7; CG at condition 1e3
2e-14 and 6e-6, at condition 1e1 1e-13 and 1.3e-6. The figures here stand at least a factor 10 above, and far below the
smallest planted bug.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import CG, Dense
from nestgrad_reference import Materialized

_SERIES = {"float64": 1e-10, "float32": 1e-5}
_SOLVE = {"float64": 1e-9, "float32": 1e-4}


def rtol(solver: Any, dtype: str) -> float:
    """The relative tolerance for a solver spec in this dtype."""
    table = _SOLVE if isinstance(solver, (CG, Dense)) else _SERIES
    return table[dtype]


def eps(dtype: str) -> float:
    """The machine epsilon."""
    return {"float64": 2.3e-16, "float32": 1.2e-7}[dtype]


def direct_scale(point: Materialized) -> np.ndarray:
    """The size that rounding errors of each entry of the direct term are measured against."""
    return np.maximum(np.abs(point.direct), 0.1 * abs(point.outer_loss))
