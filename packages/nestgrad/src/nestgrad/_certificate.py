"""What speaks for and against a hypergradient, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nestgrad._status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """How far to trust one hypergradient, by what its own computation measured.

    residual: |Jᵀp - v| / |v|. inner_optimality: |F|; relative_inner_optimality: |F| / |w|.
    curvature, contraction, products, kink_distance: as in Stats.
    solve_error: |Jᵀp - v| / μ · |Bᵀp| / |p|, which stands for |Bᵀ J⁻ᵀ (Jᵀp - v)|, μ the curvature.
    inner_error: |F| / (μ |w|) · |Bᵀp|: the relative distance |w - w*| / |w| taken over to the indirect term.
    size: |Bᵀp|, the indirect term's own norm.

    The two errors are estimates of order, not bounds: |Bᵀp| / |p| stands for |B|, and the sensitivity of B and v to w
    is taken to be that of a quadratic. `verify` measures. They are NaN where the method yields no curvature estimate.
    """

    status: Status
    residual: float
    inner_optimality: float
    relative_inner_optimality: float
    curvature: float
    contraction: float
    solve_error: float
    inner_error: float
    size: float
    products: int
    kink_distance: float

    @property
    def error_estimate(self) -> float:
        """solve_error + inner_error, in the units of the hypergradient."""
        return self.solve_error + self.inner_error

    @property
    def relative_error(self) -> float:
        """error_estimate / size."""
        if self.size:
            return self.error_estimate / self.size
        return self.error_estimate if self.error_estimate == 0.0 or math.isnan(self.error_estimate) else math.inf

    def __str__(self) -> str:
        lines = [
            f"{self.status.name}: {self.status.meaning}",
            f"linear residual {self.residual:.2g} of |v|, {self.products} products",
            f"inner residual |F| = {self.inner_optimality:.2g}, {self.relative_inner_optimality:.2g} of |w|",
        ]
        if not math.isnan(self.curvature):
            lines.append(f"smallest curvature met about {self.curvature:.2g}")
        if not math.isnan(self.contraction):
            lines.append(f"each term is {self.contraction:.2g} of the one before")
        if not math.isnan(self.kink_distance):
            lines.append(f"nearest kink at {self.kink_distance:.2g} of its threshold")
        if math.isnan(self.relative_error):
            lines.append("no error estimate: the method yields no curvature; verify() measures the error")
        else:
            lines.append(
                f"estimated relative error {self.relative_error:.2g}: {self.solve_error:.2g} from the linear solve, "
                f"{self.inner_error:.2g} from params that are no exact solution"
            )
        return "\n".join(lines)
