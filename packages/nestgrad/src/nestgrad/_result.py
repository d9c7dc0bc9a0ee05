"""What a hypergradient call returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nestgrad._status import Status

Tree = Any
"""Nested dicts, lists and tuples of arrays; None is an empty subtree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The solver's own numbers, all of them by-products: nothing here costs an extra product.

    residual_norm: |J'p - v|, recomputed for tolerance-based solvers; for Neumann the norm before its last term.
    rhs_norm: |v|, v the outer loss's gradient in params.
    steps: terms or iterations taken. products: products with J or its transpose.
    inner_optimality: |F|, the norm of the inner residual at params.
    contraction: last ratio of successive Neumann terms (NaN for other solvers).
    curvature: smallest curvature met by CG, smallest singular value for Dense (NaN for others).
    asymmetry: symmetry defect where it was probed (NaN elsewhere).
    eps: machine epsilon of the dtype computed in.
    """

    residual_norm: Any
    rhs_norm: Any
    steps: Any
    products: Any
    inner_optimality: Any
    contraction: Any
    curvature: Any
    asymmetry: Any
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperGradient:
    """d outer_loss / d hparams and how it was come by.

    total = direct + indirect, each a tree shaped like hparams; direct is the outer loss's own derivative in hparams,
    indirect = -B'p the part through params. outer_loss is a scalar. status is a Status, or its integer under a user's
    own jit.
    """

    total: Tree
    direct: Tree
    indirect: Tree
    outer_loss: Any
    status: Status | Any
    stats: Stats
