"""Which outputs of a linear function depend on its input, read off the traced program instead of its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.extend.core import Jaxpr, Literal

from nestgrad import DisconnectedHyperparameter
from nestgrad_jax._programs import operations
from nestgrad_jax._tree import named_leaves


def reached(function: Callable[[Array], Any], argument: Array) -> list[bool]:
    """For each output leaf, whether any path leads to it from the argument; an exact zero with a path counts as one.

    For a pull-back the output leaves are the inputs of the function pulled back, so this says which of them its value
    depends on differentiably: stop_gradient, rounding, comparisons and integer casts leave no path.
    """
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    return _spread(jaxpr, [True] * len(jaxpr.invars), set())


def passed(function: Callable[[Any], Any], argument: Any) -> set[str]:
    """The names of the operations that take anything made of the argument, those nested in them too."""
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    met: set[str] = set()
    _spread(jaxpr, [True] * len(jaxpr.invars), met)
    return met


def _spread(jaxpr: Jaxpr, marked: list[bool], met: set[str]) -> list[bool]:
    """Which outputs the marked inputs reach: exactly through nested jits, taking other nested programs as one knot.

    met gathers the names of the operations on the way.
    """
    seen = {var for var, mark in zip(jaxpr.invars, marked, strict=True) if mark}

    def marks(atoms: Any) -> list[bool]:
        return [not isinstance(atom, Literal) and atom in seen for atom in atoms]

    for equation in jaxpr.eqns:
        inputs = marks(equation.invars)
        if not any(inputs):
            continue
        if equation.primitive.name == "jit":
            outputs = _spread(equation.params["jaxpr"].jaxpr, inputs, met)
        else:
            met.update(operations(equation))
            outputs = [True] * len(equation.outvars)
        seen |= {var for var, mark in zip(equation.outvars, outputs, strict=True) if mark}
    return marks(jaxpr.outvars)


def require_connected(hparams: Any, direct: list[bool], indirect: list[bool]) -> None:
    """Raise DisconnectedHyperparameter for a leaf that neither the outer loss nor F depends on."""
    for (name, _), first, second in zip(named_leaves("hparams", hparams), direct, indirect, strict=True):
        if not first and not second:
            raise DisconnectedHyperparameter(
                f"{name}: 0 differentiable paths to the inner residual or the outer loss, limit: at least 1. "
                "Remedy: look for stop_gradient, round, a comparison or an integer cast between it and the loss."
            )
