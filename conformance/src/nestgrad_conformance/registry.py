"""The list of checks: plain functions, each with a name and what a backend must support for it to apply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from nestgrad import OPTIONAL, SPECS, InvalidInput, NestgradError
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.harness import Harness

if TYPE_CHECKING:
    from nestgrad_conformance.context import Context

Function = Callable[["Context", Draw], None]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A named property.

    requires: names of specs, of optional backend members, or of optional harness members. slow: it takes a tenth of the
    examples.
    """

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

_REQUIREMENTS = {*SPECS, *OPTIONAL, *(field.name for field in fields(Harness) if field.default is None)}


class UnknownCheck(NestgradError, KeyError):
    """An expected failure or a selection names a check that does not exist."""

    def __str__(self) -> str:
        return str(self.args[0])


def check(
    *requires: str, slow: bool = False, dtypes: tuple[str, ...] = ("float64", "float32")
) -> Callable[[Function], Function]:
    """Decorator: register a function check(context, draw) under its own name.

    Raises InvalidInput for a name that is taken and for a requirement that nothing can meet.
    """

    def register(function: Function) -> Function:
        name = function.__name__  # pyright: ignore[reportFunctionMemberAccess]
        if name in CHECKS:
            raise InvalidInput(f"check {name!r}: registered 2 times, limit 1. Remedy: give it another name.")
        if unknown := set(requires) - _REQUIREMENTS:
            raise InvalidInput(
                f"check {name!r}: requires {sorted(unknown)}, limit: {sorted(_REQUIREMENTS)}. "
                "Remedy: name one of these."
            )
        CHECKS[name] = Check(name=name, function=function, requires=requires, slow=slow, dtypes=dtypes)
        return function

    return register


def require_known(names: Iterable[str]) -> None:
    """Raise UnknownCheck for a name that matches nothing, so that a typo can't hide a failure."""
    for name in names:
        if name not in CHECKS:
            raise UnknownCheck(
                f"check {name!r} does not exist; there are {len(CHECKS)}. "
                "Remedy: nestgrad_conformance.CHECKS lists them."
            )


def require_reasons(expected_failures: Mapping[str, str]) -> None:
    """Raise UnknownCheck or InvalidInput unless every expected failure names a check and gives a reason."""
    require_known(expected_failures)
    for name, reason in expected_failures.items():
        if not isinstance(reason, str) or not reason.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput(
                f"expected failure {name!r}: reason {reason!r}, limit: a sentence. Remedy: say why it fails."
            )
