"""Verification: the core's comparison, with this backend's operations."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import BilevelProblem, HyperGradient, Verification, tree, verify_with
from nestgrad_reference._backend import hypergradient
from nestgrad_reference._response import newton_step
from nestgrad_reference._tree import flatten


class _Ops:
    eps = float(np.finfo(np.float64).eps)

    @staticmethod
    def hypergradient(problem: BilevelProblem, params: Any, hparams: Any, **call: Any) -> HyperGradient:
        return hypergradient(problem, params, hparams, **call)

    @staticmethod
    def newton_step(inner: Any, params: Any, hparams: Any, *, solver: Any, **call: Any) -> tuple[Any, float]:
        return newton_step(inner, params, hparams, solver=solver, **call)

    @staticmethod
    def normal_like(values: Any, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return tree.map(lambda leaf: np.asarray(rng.normal(size=np.shape(leaf))), values)

    @staticmethod
    def size(params: Any) -> int:
        return sum(np.size(leaf) for leaf in tree.leaves(params))

    @staticmethod
    def dot(a: Any, b: Any) -> float:
        (others,) = tree.matched(a, b)
        return float(flatten(a)[0] @ flatten(others)[0])


def verify(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Any,
    inner_batch: Any = None,
    inner_batches: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    key: Any = None,
    rtol: float = 0.01,
    max_params: int = 1000,
    directions: int = 3,
) -> Verification:
    """How the method's hypergradient compares with an independent reference; the result says whether to trust it.

    Up to max_params weights the reference is the dense one at the inner solution; else central differences of the
    re-solved problem along random directions. An unrolled hypergradient is compared with central differences.
    """
    given = {
        "inner_batch": inner_batch,
        "inner_batches": inner_batches,
        "outer_batch": outer_batch,
        "opt_state": opt_state,
        "key": key,
    }
    return verify_with(
        _Ops(),
        problem,
        params,
        hparams,
        method=method,
        call={name: value for name, value in given.items() if value is not None},
        rtol=rtol,
        max_params=max_params,
        directions=directions,
    )
