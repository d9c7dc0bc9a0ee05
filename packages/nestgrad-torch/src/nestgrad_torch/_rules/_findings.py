"""What a rule leaves on the device, and the one read that makes a result of it.

Rules that read nothing on the way end here: the same numbers become the same result, whether the tensors come from the
rule itself or from a program that was traced from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nestgrad import HyperGradient, Stats, Status, error_for, tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the figures say: how the method ended, its statistics, and the norms |·|₁ of the total's leaves.

    finite: the outer loss and the total are.
    """

    status: Status
    stats: Stats
    sizes: list[float]
    finite: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """One hypergradient on the device.

    total, direct, indirect: a tensor a hyperparameter. figures: all numbers that the host is to see, in one vector;
    `report` makes sense of them and holds no tensor. adjoint, params, opt_state: trees of tensors, or None.
    """

    total: list[Tensor]
    direct: list[Tensor]
    indirect: list[Tensor]
    outer_loss: Tensor
    figures: Tensor
    report: Callable[[list[float]], Report]
    adjoint: Any = None
    params: Any = None
    opt_state: Any = None

    def tensors(self) -> Any:
        """All but the report, as a tree."""
        return (
            self.total,
            self.direct,
            self.indirect,
            self.outer_loss,
            self.figures,
            self.adjoint,
            self.params,
            self.opt_state,
        )

    @staticmethod
    def of(tensors: Any, report: Callable[[list[float]], Report]) -> Findings:
        """The inverse of `tensors`."""
        total, direct, indirect, outer_loss, figures, adjoint, params, opt_state = tensors
        return Findings(
            total=total,
            direct=direct,
            indirect=indirect,
            outer_loss=outer_loss,
            figures=figures,
            report=report,
            adjoint=adjoint,
            params=params,
            opt_state=opt_state,
        )


def result(spec: Any, hparams: Any, found: Findings, *, throw: bool) -> tuple[HyperGradient, Report]:
    """(the hypergradient, a tree like hparams; what its figures say); the error of a failed status with throw."""
    report = found.report(found.figures.tolist())
    if throw and not report.status.ok:
        raise error_for(report.status, spec, report.stats)
    return (
        HyperGradient(
            total=tree.unflatten(hparams, found.total),
            direct=tree.unflatten(hparams, found.direct),
            indirect=tree.unflatten(hparams, found.indirect),
            outer_loss=found.outer_loss,
            status=report.status,
            stats=report.stats,
            adjoint=found.adjoint,
            params=found.params,
            opt_state=found.opt_state,
        ),
        report,
    )
