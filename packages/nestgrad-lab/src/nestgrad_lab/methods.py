"""The names that --method takes, and what each stands for in one-pass tuning."""

from __future__ import annotations

from nestgrad import NOT_BUILT, SPECS, Backend, Dense, Identity, Implicit, Neumann, UnsupportedSpec
from nestgrad_lab.errors import OptionError

LOOKBACK = 5
METHODS = {"neumann": Neumann, "identity": Identity, "dense": Dense}


def method_named(name: str, lookback: int | None, backend: str, module: Backend) -> Implicit:
    """Implicit with the solver of this name; raises UnsupportedSpec or OptionError naming what the backend has."""
    there = [key for key, spec in METHODS.items() if module.supports(spec)]
    limit = f"limit: {', '.join(there)}"
    if name not in METHODS:
        _refuse(name, backend, limit)
    if name not in there:
        raise UnsupportedSpec(f"--method {name}: backend {backend!r} lacks it, {limit}. Remedy: use one of these.")
    if name != "neumann":
        if lookback is not None:
            raise OptionError(
                f"--lookback {lookback}: --method {name} has none, limit: --method neumann. "
                "Remedy: leave --lookback out."
            )
        return Implicit(solver=Identity(scale=1.0) if name == "identity" else Dense())
    terms = LOOKBACK if lookback is None else lookback
    if terms < 1:
        raise OptionError(f"--lookback {terms}, limit: at least 1. Remedy: pass --lookback {LOOKBACK}.")
    return Implicit(solver=Neumann(num_terms=terms, step_size=1.0))


def _refuse(name: str, backend: str, limit: str) -> None:
    spelled = {known.lower(): known for known in [*SPECS, *NOT_BUILT]}
    known = spelled.get(name.lower())
    if known is None:
        raise OptionError(f"--method {name!r}: no such method, {limit}. Remedy: use one of these.")
    if known in NOT_BUILT:
        raise UnsupportedSpec(
            f"--method {name}: {known} is not built in any backend, backend {backend!r} has: "
            f"{limit.removeprefix('limit: ')}. Remedy: use {NOT_BUILT[known]}."
        )
    raise UnsupportedSpec(f"--method {name}: {known} is no method of this command, {limit}. Remedy: use one of these.")
