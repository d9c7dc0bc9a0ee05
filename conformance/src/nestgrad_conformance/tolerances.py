"""How far a right number may lie from the reference, by solver family and dtype.

Relative, norm-wise, per hyperparameter, against the size that rounding errors scale with: that of the products summed
in Bᵀp for the indirect term (`indirect_scale`), the outer loss for the direct term (`direct_scale`). Worst rounding
measured on 200 random problems a cell: series of up to 50 terms 3e-15 and 5e-7; CG at condition 1e3 2e-14 and 6e-6, at
condition 1e1 1e-13 and 1.3e-6. The figures here stand at least a factor 10 above, and far below the smallest planted
bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from nestgrad import Identity, Neumann, RandomNeumann
from nestgrad_reference import Materialized

_SERIES = {"float64": 1e-10, "float32": 1e-5}
_SOLVE = {"float64": 1e-9, "float32": 1e-4}
_FLOOR = 0.3


def rtol(solver: Any, dtype: str) -> float:
    """The relative tolerance for a solver spec in this dtype."""
    table = _SERIES if isinstance(solver, (Neumann, RandomNeumann, Identity)) else _SOLVE
    return table[dtype]


def eps(dtype: str) -> float:
    """The machine epsilon."""
    return {"float64": 2.3e-16, "float32": 1.2e-7}[dtype]


def direct_scale(point: Materialized) -> np.ndarray:
    """The size that rounding errors of each entry of the direct term are measured against.

    It is the outer loss where that is larger: a mean over rows can cancel in its derivative, not in its own value.
    """
    return np.maximum(np.abs(point.direct), 0.1 * abs(point.outer_loss))


def indirect_scale(mixed: np.ndarray, p: np.ndarray, blocks: Iterable[slice]) -> np.ndarray:
    """|B|ᵀ|p| (m), no entry counted as smaller than 0.3 of the largest in p, or in its hyperparameter's block of B.

    An entry of p is a sum over the whole vector, an entry of B a sum over rows: one that happens to cancel keeps the
    rounding error of its neighbours. With one rate a parameter a column of B has a single entry, which cancels to a
    hundredth about once in a hundred problems, and 1e-5 of that is no longer reachable in float32. Zeros stay zero.
    """
    weights = np.maximum(np.abs(p), _FLOOR * np.abs(p).max())
    sizes = np.abs(mixed)
    for block in blocks:
        part = sizes[:, block]
        sizes[:, block] = np.where(part > 0.0, np.maximum(part, _FLOOR * part.max()), 0.0)
    return sizes.T @ weights


def loss_scale(point: Materialized, params: np.ndarray) -> float:
    """The size that rounding errors of the outer loss are measured against: |L_out|, or |v| |w| where it cancels."""
    slope = float(np.linalg.norm(point.outer_gradient) * np.linalg.norm(params))
    return max(abs(point.outer_loss), slope)
