"""What methods other than Implicit are given, what they end with, and their table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import BilevelProblem, HyperGradient, Rules, Stats, Status, error_for
from nestgrad_reference._connected import require_connected
from nestgrad_reference._solvers._common import EPS
from nestgrad_reference._tree import Vector, flatten


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arguments of one call of `hypergradient`, params and hparams as float64 arrays."""

    problem: BilevelProblem
    params: Any
    hparams: Any
    inner_batch: Any = None
    inner_batches: Any = None
    outer_batch: Any = None
    opt_state: Any = None
    key: Any = None
    throw: bool = True

    def batches(self, steps: int) -> list[Any]:
        """The batch of each step."""
        return [self.inner_batch] * steps if self.inner_batches is None else list(self.inner_batches)

    def require_connected(self) -> None:
        """Raise DisconnectedHyperparameter for a leaf that neither level depends on differentiably."""
        require_connected(
            self.problem,
            self.params,
            self.hparams,
            inner_batch=self.batches(1)[0],
            outer_batch=self.outer_batch,
            opt_state=self.opt_state,
        )


METHODS: Rules[[Call], HyperGradient] = Rules("reference")
"""rule(spec, call) for every method but Implicit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a method found, as vectors: w where the outer loss was taken, v its slope there, adjoint if there is one."""

    loss: float
    direct: Vector
    indirect: Vector
    w: Vector
    slope: Vector | None = None
    adjoint: Vector | None = None
    optimality: float = math.nan
    steps: int = 0
    products: int = 0


def finish(spec: Any, call: Call, found: Outcome, *, params: Any = None, opt_state: Any = None) -> HyperGradient:
    """The result: TRUNCATED, or NONFINITE where a number is not finite."""
    _, shape_params = flatten(call.params)
    _, restore = flatten(call.hparams)
    stats = Stats(
        rhs_norm=_norm(found.slope),
        adjoint_norm=_norm(found.adjoint),
        indirect_norm=_norm(found.indirect),
        params_norm=_norm(found.w),
        inner_optimality=found.optimality,
        steps=found.steps,
        products=found.products,
        eps=EPS,
    )
    vectors = [found.direct, found.indirect, found.w, found.slope, found.adjoint]
    numbers = np.concatenate([[found.loss], *(vector for vector in vectors if vector is not None)])
    status = Status.TRUNCATED if np.isfinite(numbers).all() else Status.NONFINITE
    if call.throw and not status.ok:
        raise error_for(status, spec, stats)
    return HyperGradient(
        total=restore(found.direct + found.indirect),
        direct=restore(found.direct),
        indirect=restore(found.indirect),
        outer_loss=np.asarray(found.loss),
        status=status,
        stats=stats,
        adjoint=None if found.adjoint is None else shape_params(found.adjoint),
        params=params,
        opt_state=opt_state,
    )


def _norm(vector: Vector | None) -> float:
    return math.nan if vector is None else float(np.linalg.norm(vector))
