"""What a backend is: a module with a few names, found by entry point; its rules; the support table as data."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

from nestgrad._errors import UnknownBackend, UnsupportedSpec
from nestgrad._legality import INNERS_OF
from nestgrad._problem import INNERS, BilevelProblem
from nestgrad._result import HyperGradient
from nestgrad._solvers.bicgstab import BiCGSTAB
from nestgrad._solvers.cg import CG
from nestgrad._solvers.dense import Dense
from nestgrad._solvers.gmres import GMRES
from nestgrad._solvers.identity import Identity
from nestgrad._solvers.lsmr import LSMR
from nestgrad._solvers.minres import MINRES
from nestgrad._solvers.neumann import Neumann
from nestgrad._solvers.normal_cg import NormalCG
from nestgrad._solvers.nystrom import Nystrom
from nestgrad._solvers.random_neumann import RandomNeumann

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "nestgrad.backends"
"""Entry-point group: `torch = "nestgrad_torch"`, the value being the backend's import name."""

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


class Rules(Generic[P, R]):
    """A backend's table of rules for one family of specs, dispatching on the exact type of the spec."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._rules: dict[Any, Callable[..., R]] = {}

    def register(
        self, spec_type: type[S]
    ) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
        """Decorator: rule(spec, ...) computes what spec_type's docstring defines."""

        def decorate(rule: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
            self._rules[spec_type] = rule
            return rule

        return decorate

    def __call__(self, spec: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the rule of the spec's exact type; raises UnsupportedSpec listing the rules there are."""
        rule = self._rules.get(spec.__class__)
        if rule is None:
            there = ", ".join(sorted(kind.__name__ for kind in self._rules))
            raise UnsupportedSpec(
                f"backend {self._backend!r} has no rule for {type(spec).__name__}, limit: {there}. "
                "Remedy: use one of these, or another backend."
            )
        return rule(spec, *args, **kwargs)

    def __contains__(self, spec_type: type) -> bool:
        return spec_type in self._rules

    def __iter__(self) -> Iterator[type]:
        return iter(self._rules)


class Backend(Protocol):
    """The names that a backend's module must have; a module is a backend. Those in OPTIONAL it may have.

    A spec that it does not support, and an argument that goes with such specs only, may be left out of its signature.
    """

    __name__: str

    def hypergradient(
        self,
        problem: BilevelProblem,
        params: Any,
        hparams: Any,
        *,
        method: Any,
        inner_batch: Any = None,
        outer_batch: Any = None,
        opt_state: Any = None,
        throw: bool = True,
    ) -> HyperGradient:
        """d outer_loss / d hparams by the method; the same number in every backend."""
        ...

    def supports(self, spec_type: type, /) -> bool:
        """Whether there is a rule for this spec type."""
        ...


_SOLVERS: tuple[type, ...] = (
    Dense,
    CG,
    MINRES,
    NormalCG,
    LSMR,
    GMRES,
    BiCGSTAB,
    Neumann,
    RandomNeumann,
    Nystrom,
    Identity,
)

SPECS: dict[str, type] = {spec.__name__: spec for spec in (*INNERS, *INNERS_OF, *_SOLVERS)}
"""Every spec that a backend may support, by name: inner problems, methods, solvers."""

OPTIONAL: tuple[str, ...] = (
    "hypergradients",
    "hypergradient_jvp",
    "best_response_jacobian",
    "best_response",
    "newton_step",
    "verify",
    "check",
    "prox",
    "OnePass",
    "OnePass.run",
    "HypergradientDescent",
    "RealTime",
    "FullHorizon",
    "Fixed",
    "RandomMultiplier",
    "ManyRuns",
    "respond",
    "HyperTraining",
    "gated",
    "SelfTuning",
    "game_direction",
    "Play",
    "lyapunov_exponents",
    "BranchingSearch",
)
"""What a backend may have besides: functions, the module of proximal maps, tuners, a tuner's method after a dot."""

NOT_BUILT: dict[str, str] = {
    "SOBA": "OnePass, or hypergradient(...) with a warm start",
    "KFAC": "Nystrom(rank=..., damping=...), or CG with a preconditioner",
    "HyperDistill": "RealTime(decay=...)",
    "UORO": "RealTime(decay=1.0)",
    "DrMAD": "Unrolled(mode='reversible') or Unrolled(checkpoint_every='sqrt')",
}
"""Names that the field knows and nestgrad has not built, each with what to use instead."""


def offers(backend: Any, name: str) -> bool:
    """Whether the backend has this one of OPTIONAL."""
    found = backend
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def available_backends() -> dict[str, EntryPoint]:
    """The installed backends by name, none of them imported."""
    from importlib.metadata import entry_points  # noqa: PLC0415  (a third of the time that importing nestgrad takes)

    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def get_backend(name: str) -> Backend:
    """Import the installed backend of this name; raises UnknownBackend naming the installed ones."""
    installed = available_backends()
    if name not in installed:
        there = ", ".join(installed) or "none"
        raise UnknownBackend(
            f"backend {name!r} is not installed, limit: {there}. "
            f"Remedy: pip install 'nestgrad[{name}]', or use one of these."
        )
    return cast("Backend", importlib.import_module(installed[name].value))


def support_table() -> dict[str, dict[str, bool]]:
    """Which installed backend supports which spec: {backend: {spec name: bool}}; not built ones are False."""
    table: dict[str, dict[str, bool]] = {}
    for name in available_backends():
        backend = get_backend(name)
        row = {spec_name: backend.supports(spec) for spec_name, spec in SPECS.items()}
        row |= {name: offers(backend, name) for name in OPTIONAL}
        table[name] = row | dict.fromkeys(NOT_BUILT, False)
    return table
