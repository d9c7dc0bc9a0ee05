"""What a traced program is made of, where that decides how it is best compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def slow_in_loops(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether XLA runs this function many times slower inside a loop or a condition: convolutions, on a CPU."""
    return jax.default_backend() == "cpu" and convolves(function, *arguments)


def convolves(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether the function, traced on these arguments, takes a convolution."""
    return any(name == lax.conv_general_dilated_p.name for name in _primitives(jax.make_jaxpr(function)(*arguments)))


def _primitives(program: ClosedJaxpr | Jaxpr) -> Iterator[str]:
    """The names of a program's operations, those of nested programs too."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    for equation in jaxpr.eqns:
        yield from operations(equation)


def operations(equation: JaxprEqn) -> Iterator[str]:
    """The name of an operation, and those in programs nested in it."""
    yield equation.primitive.name
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, (ClosedJaxpr, Jaxpr)):
                yield from _primitives(part)
