"""Which values of a program must be stored for a second one, when those that are cheap are computed again.

A linearisation is made of many arrays, most of them elementwise functions of a few: a layer's 1 - tanh², its products
with other factors, the exponential of a decay. Stored are what products, convolutions, sums and transcendental
functions give, unless an array depends on the program's inputs alone, which are there anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

# fmt: off
_CHEAP = frozenset({
    "abs", "add", "add_any", "and", "broadcast_in_dim", "ceil", "clamp", "concatenate", "convert_element_type",
    "copy", "div", "eq", "floor", "ge", "gt", "integer_pow", "iota", "le", "lt", "max", "min", "mul", "ne",
    "neg", "not", "or", "pad", "real", "reshape", "rev", "rsqrt", "select_n", "sign", "slice", "sqrt", "square",
    "squeeze", "stop_gradient", "sub", "transpose", "xor",
})
# fmt: on
# fmt: off
_SLOWER = frozenset({
    "cos", "erf", "erf_inv", "exp", "exp2", "expm1", "log", "log1p", "logistic", "pow", "sin", "tan", "tanh",
})
# fmt: on
"""Elementwise too, but worth storing."""


@dataclass(frozen=True, eq=False)
class Rebuild:
    """The equations that give the values wanted from a program's inputs and what was stored of it."""

    inputs: tuple[Var, ...]
    stored: tuple[Var, ...]
    equations: tuple[JaxprEqn, ...]
    wanted: tuple[Var | Literal, ...]

    def __call__(self, inputs: Sequence[Any], stored: Sequence[Any]) -> list[Any]:
        """The values wanted, in order."""
        known = dict(zip((*self.inputs, *self.stored), (*inputs, *stored), strict=True))

        def value(atom: Var | Literal) -> Any:
            return atom.val if isinstance(atom, Literal) else known[atom]

        for equation in self.equations:
            found = equation.primitive.bind(*map(value, equation.invars), **equation.params)
            several = equation.primitive.multiple_results
            known.update(zip(equation.outvars, found if several else [found], strict=True))
        return [value(atom) for atom in self.wanted]


def choose(program: Jaxpr, wanted: Sequence[Var | Literal]) -> Rebuild:
    """What to store of a program, so that the values wanted can be had again by cheap equations."""
    inputs, made = set(program.invars), {}
    roots: dict[Var, frozenset[Var]] = {var: frozenset() for var in program.invars}
    roots |= {var: frozenset([var]) for var in program.constvars}
    for equation in program.eqns:
        below = [roots[atom] for atom in equation.invars if not isinstance(atom, Literal)]
        under = frozenset().union(*below)
        again = _cheap(equation, _CHEAP) or (not under and _cheap(equation, _CHEAP | _SLOWER))
        for var in equation.outvars:
            made[var] = equation
            roots[var] = under if again else frozenset([var])
    stored: set[Var] = set()
    asked = {atom for atom in wanted if not isinstance(atom, Literal) and atom not in inputs}
    for var in sorted(asked, key=lambda each: (len(roots[each]), -_bytes(each))):
        extra = roots[var] - stored
        stored |= extra if sum(map(_bytes, extra)) <= _bytes(var) else {var}
    needed: set[int] = set()
    waiting = [var for var in asked if var not in stored]
    while waiting:
        equation = made[waiting.pop()]
        if id(equation) not in needed:
            needed.add(id(equation))
            found = [atom for atom in equation.invars if not isinstance(atom, Literal)]
            waiting += [var for var in found if var not in inputs and var not in stored]
    return Rebuild(
        inputs=tuple(program.invars),
        stored=tuple(var for var in roots if var in stored),
        equations=tuple(equation for equation in program.eqns if id(equation) in needed),
        wanted=tuple(wanted),
    )


def _cheap(equation: JaxprEqn, names: frozenset[str]) -> bool:
    """Whether the equation, or all of the program that it nests, is among these and has no effect."""
    if equation.effects:
        return False
    if equation.primitive.name != "jit":
        return equation.primitive.name in names
    nested: ClosedJaxpr = equation.params["jaxpr"]
    return not nested.consts and all(_cheap(each, names) for each in nested.jaxpr.eqns)


def _bytes(var: Any) -> int:
    return var.aval.size * var.aval.dtype.itemsize
