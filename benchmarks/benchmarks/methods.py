"""The methods that are counted, measured and tabled: each a spec and the inner problem that it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nestgrad as ng
from benchmarks.operations import PRODUCTS, STEPS

KEY = 1


@dataclass(frozen=True)
class Method:
    """kind: "minimize" or "update", the inner problem; key: whether it draws at random."""

    spec: Any
    kind: str
    key: bool = False

    def parts(self) -> tuple[type, ...]:
        """The types that a backend must support."""
        solver = getattr(self.spec, "solver", None)
        inner = ng.Minimize if self.kind == "minimize" else ng.WeightUpdate
        return (inner, type(self.spec), *(() if solver is None else (type(solver),)))


def _implicit(solver: Any, *, key: bool = False) -> Method:
    return Method(ng.Implicit(solver=solver), "minimize", key)


def methods(rate: float) -> dict[str, Method]:
    """name -> method; rate: the learning rate and the step size of series."""
    limits: dict[str, Any] = {"rtol": 0.0, "max_steps": STEPS}
    return {
        "identity": _implicit(ng.Identity(scale=rate)),
        "neumann": _implicit(ng.Neumann(num_terms=PRODUCTS + 1, step_size=rate)),
        "neumann 50": _implicit(ng.Neumann(num_terms=10 * PRODUCTS + 1, step_size=rate)),
        "random neumann": _implicit(ng.RandomNeumann(num_terms=PRODUCTS + 1, step_size=rate), key=True),
        "cg": _implicit(ng.CG(**limits)),
        "minres": _implicit(ng.MINRES(**limits)),
        "gmres": _implicit(ng.GMRES(**limits)),
        "normal cg": _implicit(ng.NormalCG(**limits)),
        "nystrom": _implicit(ng.Nystrom(rank=PRODUCTS, damping=1.0), key=True),
        "darts": Method(ng.DARTS(step_size=rate), "minimize"),
        "sama": Method(ng.SAMA(), "update"),
        "unrolled": Method(ng.Unrolled(num_steps=STEPS), "update"),
        "unrolled, iterates kept": Method(ng.Unrolled(num_steps=STEPS, checkpoint_every=1), "update"),
        "unrolled, sqrt": Method(ng.Unrolled(num_steps=STEPS, checkpoint_every="sqrt"), "update"),
    }


LETTERS = {"a": "neumann", "b": "cg", "c": "unrolled"}
"""The method of each operation that is one hypergradient."""


def require(backend: Any, method: Method) -> None:
    """Skip, as asv understands it, what the backend's `supports` denies."""
    for part in method.parts():
        if not backend.supports(part):
            raise NotImplementedError(f"{backend.__name__} has no {part.__name__}")
