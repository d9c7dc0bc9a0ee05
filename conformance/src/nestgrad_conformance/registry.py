"""The list of checks: plain functions, each with a name and what a backend must support for it to apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nestgrad import NestgradError
from nestgrad_conformance.draws import Draw

if TYPE_CHECKING:
    from nestgrad_conformance.context import Context

Function = Callable[["Context", Draw], None]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A named property. requires: names of specs, or of optional harness members. slow: takes a tenth of the examples."""

    name: str
    function: Function
    requires: tuple[str, ...]
    slow: bool
    dtypes: tuple[str, ...]

    @property
    def doc(self) -> str:
        """The property in one line."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


CHECKS: dict[str, Check] = {}


class UnknownCheck(NestgradError, KeyError):
    """An expected failure or a selection names a check that does not exist."""

    def __str__(self) -> str:
        return str(self.args[0])


def check(
    *requires: str, slow: bool = False, dtypes: tuple[str, ...] = ("float64", "float32")
) -> Callable[[Function], Function]:
    """Decorator: register a function check(context, draw) under its own name."""

    def register(function: Function) -> Function:
        name = function.__name__  # pyright: ignore[reportAttributeAccessIssue]
        CHECKS[name] = Check(name=name, function=function, requires=requires, slow=slow, dtypes=dtypes)
        return function

    return register


def require_known(names: object) -> None:
    """Raise UnknownCheck for a name that matches nothing, so that a typo can't hide a failure."""
    for name in names if isinstance(names, (list, tuple, set, frozenset, dict)) else ():
        if name not in CHECKS:
            raise UnknownCheck(
                f"check {name!r} does not exist; there are {len(CHECKS)}. Remedy: nestgrad_conformance.CHECKS lists them."
            )
