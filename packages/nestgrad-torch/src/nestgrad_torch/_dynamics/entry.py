"""The entry points: the exponents at a point, and the derivative of one number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nestgrad import (
    ExponentGradient,
    ExponentMethod,
    ExponentObjective,
    ExponentSpectrum,
    LyapunovExponents,
    NonFinite,
    Status,
    check_exponents,
)
from nestgrad_torch._dynamics.derivative import Attached, pulled_back
from nestgrad_torch._dynamics.exponents import Sought, sought
from nestgrad_torch._dynamics.form import At, Form


def lyapunov_exponents(
    update: Callable[[Any], Any],
    point: Any,
    *,
    num_steps: int,
    method: ExponentMethod = ExponentSpectrum(),  # noqa: B008
    directions: Any = None,
    throw: bool = True,
) -> LyapunovExponents:
    """λ_i = (1/k) Σ_t ln (R_t)_ii, J_t Q_t = Q_{t+1} R_t, of k = num_steps steps of update from point.

    update: from a tree like point to another, in its graph, such as Play.update; point: a tree of float32 or float64
    tensors, with integers that are carried along. directions: where to begin, a tree like point with a leading axis of
    m on each floating leaf, orthonormalised here. Differentiable once, in the point alone, where it requires grad:
    exponents and end are in its graph then. InvalidInput for trees that do not fit; NotConverged; NonFinite, saying
    at which step; the last two unless throw is False. (Benettin et al. 1980.)
    """
    check_exponents("lyapunov_exponents", num_steps, method)
    form = Form("lyapunov_exponents", point)
    with form.differentiating():
        entering = form.at(point)
        start = At(entering.vector.detach(), entering.others, entering.draws)
        attached = entering.vector.requires_grad
        found = sought(form, update, start, num_steps, method, directions, throw=throw, again=attached)
        if not attached:
            return _result(form, found, found.exponents, found.end)
        exponents, end = Attached.apply(entering.vector, found)
        return _result(form, found, exponents, At(end, found.end.others, found.end.draws))


def lyapunov_gradient(
    update: Callable[[Any], Any],
    point: Any,
    *,
    num_steps: int,
    objective: ExponentObjective = "largest",
    method: ExponentMethod = ExponentSpectrum(),  # noqa: B008
    directions: Any = None,
    throw: bool = True,
) -> ExponentGradient:
    """d objective / d point, of lyapunov_exponents' with these arguments; a tree like the point, zero at integers.

    The directions found are constants: exact where they are singular vectors of the steps together, and where they are
    given. At ties of "largest" and "smallest" it is that of the first. Memory is bounded in num_steps, as steps are
    taken again, but for the log of it in states, and for the directions of TunedDirection at every step. Errors as
    lyapunov_exponents', and NonFinite where the objective or its derivative is not finite, unless throw is False.
    (Lorraine et al. 2022.)
    """
    check_exponents("lyapunov_gradient", num_steps, method, objective)
    form = Form("lyapunov_gradient", point)
    with form.differentiating():
        entering = form.at(point)
        start = At(entering.vector.detach(), entering.others, entering.draws)
        found = sought(form, update, start, num_steps, method, directions, throw=throw, again=True)
        value, weights = _objective(found.exponents, objective)
        slope, products = pulled_back(found, weights)
    if throw:
        _require_finite(objective, value, slope)
    return ExponentGradient(
        value=value,
        gradient=form.gradient(slope),
        found=_result(form, found, found.exponents, found.end),
        products=found.products + products,
    )


def _result(form: Form, found: Sought, exponents: Tensor, end: At) -> LyapunovExponents:
    return LyapunovExponents(
        exponents=exponents, directions=form.vectors(found.columns), end=form.tree(end), products=found.products
    )


def _objective(exponents: Tensor, objective: ExponentObjective) -> tuple[Tensor, list[float]]:
    """(the objective, its derivative in each exponent)."""
    numbers = exponents.tolist()
    match objective:
        case "largest" | "smallest":
            best = (max if objective == "largest" else min)(numbers)
            which = numbers.index(best)
            return exponents[which], [float(i == which) for i in range(len(numbers))]
        case "sum":
            return exponents.sum(), [1.0] * len(numbers)
        case "entropy":
            return exponents.clamp(min=0.0).sum(), [float(number > 0.0) for number in numbers]


def _require_finite(objective: str, value: Tensor, slope: Tensor) -> None:
    for what, numbers in ((f"the {objective} of the exponents", value), ("its derivative", slope)):
        odd = int((~numbers.isfinite()).sum())
        if odd:
            raise NonFinite(
                f"lyapunov_gradient: {what}: {odd} of {numbers.numel()} entries are NaN or infinite, limit 0. "
                "Remedy: begin elsewhere, where no direction is wiped out, or take fewer steps.",
                Status.NONFINITE,
            )
