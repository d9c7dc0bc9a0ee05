"""verify: a hypergradient beside one that shares nothing with its method but the problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nestgrad import BilevelProblem, HyperGradient, Verification, verify_with
from nestgrad_jax._backend import hypergradient
from nestgrad_jax._response import newton_step
from nestgrad_jax._tree import as_params, flat


def verify(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Any,
    inner_batch: Any = None,
    inner_batches: Sequence[Any] | None = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    key: Any = None,
    rtol: float = 0.01,
    max_params: int = 1000,
    directions: int = 3,
) -> Verification:
    """How the method's hypergradient compares with a reference, in numbers and in words (see nestgrad.Verification).

    The reference is the dense solve at the inner solution up to max_params weights, and above it central differences
    of the re-solved inner problem along `directions` random directions; for Unrolled, of the run itself.
    """
    given = {
        "inner_batch": inner_batch,
        "inner_batches": inner_batches,
        "outer_batch": outer_batch,
        "opt_state": opt_state,
        "key": key,
    }
    ops = _Ops(float(jnp.finfo(flat(as_params(params)).dtype).eps))
    return verify_with(
        ops,
        problem,
        params,
        hparams,
        method=method,
        call={name: value for name, value in given.items() if value is not None},
        rtol=rtol,
        max_params=max_params,
        directions=directions,
    )


class _Ops:
    """What the core's verification needs of this backend."""

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def hypergradient(self, problem: BilevelProblem, params: Any, hparams: Any, **call: Any) -> HyperGradient:
        return hypergradient(problem, params, hparams, **call)

    def newton_step(self, inner: Any, params: Any, hparams: Any, *, solver: Any, **call: Any) -> tuple[Any, float]:
        return newton_step(inner, params, hparams, solver=solver, **call)

    def normal_like(self, values: Any, seed: int) -> Any:
        leaves, structure = jax.tree.flatten(values)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        drawn = [
            jax.random.normal(key, jnp.shape(leaf), jnp.asarray(leaf).dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, drawn)

    def size(self, params: Any) -> int:
        return sum(int(jnp.size(leaf)) for leaf in jax.tree.leaves(params))

    def dot(self, a: Any, b: Any) -> float:
        """In float64 on the host, so that no small difference is lost."""
        return float(sum(float(jnp.vdot(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))
