"""Wrong input is refused with an error of nestgrad's that names the thing, the limit and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import nestgrad
from nestgrad import (
    SPECS,
    BilevelProblem,
    DisconnectedHyperparameter,
    DtypeMismatch,
    Implicit,
    InvalidInput,
    Minimize,
    Neumann,
    NonDifferentiableHyperparameter,
    NonScalarLoss,
    UnsupportedOptimizer,
    UnsupportedSpec,
    WeightUpdate,
)
from nestgrad_conformance import problems
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.problems.ridge import RidgeInner, SquaredError
from nestgrad_conformance.registry import check

_SERIES = Neumann(num_terms=2, step_size=0.1)


@check("Minimize", "Neumann")
def integer_hyperparameters_are_refused(ctx: Context, draw: Draw) -> None:
    """An integer or boolean hyperparameter raises NonDifferentiableHyperparameter with its name."""
    case = problems.ridge(draw, 3, shared=True)
    value = np.asarray(1, draw.pick(["int64", "bool"], "dtype"))
    with refused(NonDifferentiableHyperparameter, "decay"):
        ctx.hypergradient(case.with_(hparams={"decay": value}), _SERIES)


@check("Minimize", "Neumann")
def integer_params_are_refused(ctx: Context, draw: Draw) -> None:
    """An integer leaf among params raises InvalidInput with its name."""
    case = problems.ridge(draw, 3, shared=True)
    with refused(InvalidInput, "'w'"):
        ctx.hypergradient(case.with_(params={"w": np.arange(3)}), _SERIES)


@dataclass(frozen=True)
class VectorLoss:
    """Xw - y: forgets the mean."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return (batch[0] @ params["w"] - batch[1]) * hparams["decay"]


@check("Minimize", "Neumann")
def vector_losses_are_refused(ctx: Context, draw: Draw) -> None:
    """A loss that is not a scalar raises NonScalarLoss, saying which one and its shape."""
    case = problems.ridge(draw, 3, shared=True)
    level, name = draw.pick([("inner_loss", "inner loss"), ("outer_loss", "outer_loss")], "level")
    with refused(NonScalarLoss, name):
        ctx.hypergradient(case.with_(**{level: VectorLoss}), _SERIES)


@check("Minimize", "Neumann")
def unused_hyperparameters_are_refused(ctx: Context, draw: Draw) -> None:
    """A hyperparameter that neither loss uses raises DisconnectedHyperparameter, not a zero."""
    case = problems.ridge(draw, 3, shared=True)
    with refused(DisconnectedHyperparameter, "spare"):
        ctx.hypergradient(case.with_(hparams={**case.hparams, "spare": np.asarray(0.5)}), _SERIES)


@dataclass(frozen=True)
class DetachedInner:
    """Ridge loss with the decay cut off from differentiation."""

    xp: Any
    detach: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return RidgeInner(self.xp)(params, {"decay": self.detach(hparams["decay"])}, batch)


@check("Minimize", "Neumann", "detach")
def detached_hyperparameters_are_refused(ctx: Context, draw: Draw) -> None:
    """A hyperparameter cut off by detach or stop_gradient raises DisconnectedHyperparameter."""
    case = problems.ridge(draw, 3, shared=draw.pick([True, False], "shared"))

    def detached(xp: Any) -> DetachedInner:
        return DetachedInner(xp, ctx.harness.detach)

    cut = case.with_(inner_loss=detached)
    with refused(DisconnectedHyperparameter, "decay"):
        ctx.hypergradient(cut, _SERIES)


@check("Minimize", "Neumann", dtypes=("float64",))
def mixed_dtypes_are_refused(ctx: Context, draw: Draw) -> None:
    """A float32 array beside float64 params raises DtypeMismatch with its name."""
    case = problems.ridge(draw, 3, shared=False)
    arrays = {name: ctx.arrays(getattr(case, name)) for name in ("hparams", "inner_batch", "outer_batch")}
    single = Context(ctx.harness, "float32")
    name = draw.pick(list(arrays), "which")
    arrays[name] = single.arrays(getattr(case, name))
    with refused(DtypeMismatch, name):
        ctx.harness.backend.hypergradient(
            case.problem(ctx.harness), ctx.arrays(case.params), method=Implicit(solver=_SERIES), **arrays
        )


def _no_rule(hparams: Any) -> Any:
    return "sgd"


@check("WeightUpdate", "Neumann")
def other_optimizers_are_refused(ctx: Context, draw: Draw) -> None:
    """An optimizer without init and update raises UnsupportedOptimizer."""
    case = problems.ridge(draw, 3, shared=True)
    problem = BilevelProblem(WeightUpdate(RidgeInner(ctx.harness.xp), _no_rule), SquaredError(ctx.harness.xp))
    with refused(UnsupportedOptimizer, "str"):
        ctx.harness.backend.hypergradient(
            problem,
            ctx.arrays(case.params),
            ctx.arrays(case.hparams),
            method=Implicit(solver=_SERIES),
            inner_batch=ctx.arrays(case.inner_batch),
            outer_batch=ctx.arrays(case.outer_batch),
        )


@dataclass(frozen=True, kw_only=True)
class UnheardOf:
    """A solver spec that no backend knows."""

    steps: int = 1


@check("Minimize")
def unsupported_specs_are_refused_and_declared(ctx: Context, draw: Draw) -> None:
    """supports() is False, and calling raises UnsupportedSpec, for a spec without a rule."""
    backend = ctx.harness.backend
    case = problems.ridge(draw, 3, shared=True)
    assert not backend.supports(UnheardOf), "supports(UnheardOf) is True"
    solvers = [UnheardOf(), *(make() for name, make in _SOLVERS.items() if not backend.supports(SPECS[name]))]
    solver = draw.pick(solvers, "solver")
    with refused(UnsupportedSpec, type(solver).__name__):
        ctx.hypergradient(case, solver)


_SOLVERS = {
    "Dense": nestgrad.Dense,
    "Identity": nestgrad.Identity,
    "CG": lambda: nestgrad.CG(rtol=0.0, max_steps=1),
    "Neumann": lambda: _SERIES,
}


@check()
def core_names_are_reexported(ctx: Context, draw: Draw) -> None:
    """The backend's module has the core's specs, spaces and errors: the same objects."""
    names = [name for name in dir(nestgrad) if isinstance(getattr(nestgrad, name), type)]
    lost = [name for name in names if getattr(ctx.harness.backend, name, None) is not getattr(nestgrad, name)]
    assert not lost, f"not re-exported: {lost}"


@check("Minimize")
def method_must_be_a_method(ctx: Context, draw: Draw) -> None:
    """A bare solver in place of a method raises UnsupportedSpec naming it."""
    case = problems.ridge(draw, 3, shared=True)
    problem = BilevelProblem(Minimize(RidgeInner(ctx.harness.xp)), SquaredError(ctx.harness.xp))
    with refused(UnsupportedSpec, "Neumann"):
        bare: Any = _SERIES
        ctx.harness.backend.hypergradient(problem, ctx.arrays(case.params), ctx.arrays(case.hparams), method=bare)
