"""What methods other than Implicit are given, and their table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nestgrad import BilevelProblem, HyperGradient, Rules


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


METHODS: Rules[[Call], HyperGradient] = Rules("reference")
"""rule(spec, call) for every method but Implicit."""
